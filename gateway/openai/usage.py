"""Tokens of one answer."""

import msgspec


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
        """Give the tokens that are billed."""
        details = self.prompt_tokens_details
        return Usage(
            self.prompt_tokens, self.completion_tokens or 0, (details and details.cached_tokens) or 0
        )
