"""Tokens of one answer."""

import msgspec

MAX_TOKENS = 10**9  # of one answer; times any price, the amount fits SQL's 64 bits


class Usage(msgspec.Struct, frozen=True):
    """Tokens that are billed; ``prompt_tokens`` includes ``cached_tokens``."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class PromptDetails(msgspec.Struct):
    """``usage.prompt_tokens_details``."""

    cached_tokens: int | None = None


class UsageFields(msgspec.Struct):
    """``usage`` of an answer or of a stream's last chunk."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None

    def usage(self) -> Usage:
        """Give the tokens that are billed; what no answer can have is brought to what one can."""
        details = self.prompt_tokens_details
        prompt_tokens = _possible(self.prompt_tokens, MAX_TOKENS)
        cached_tokens = _possible((details and details.cached_tokens) or 0, prompt_tokens)
        return Usage(prompt_tokens, _possible(self.completion_tokens or 0, MAX_TOKENS), cached_tokens)


def _possible(tokens: int, limit: int) -> int:
    return min(max(tokens, 0), limit)
