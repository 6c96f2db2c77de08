"""Tokens of one answer."""

from typing import Any

import msgspec

CHARACTERS_PER_TOKEN = 4
MAX_TOKENS = 10**9  # of one answer; times any price, the amount fits SQL's 64 bits


class Usage(msgspec.Struct, frozen=True):
    """Tokens that are billed; prompt tokens include the cached ones, completion tokens the reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class PromptDetails(msgspec.Struct):
    """``usage.prompt_tokens_details``."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """``usage.completion_tokens_details``."""

    reasoning_tokens: int | None = None


class UsageFields(msgspec.Struct):
    """``usage`` of an answer or of a stream's last chunk."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def usage(self) -> Usage:
        """Give the tokens that are billed; what no answer can have is brought to what one can."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        prompt_tokens = _possible(self.prompt_tokens, MAX_TOKENS)
        completion_tokens = _possible(self.completion_tokens or 0, MAX_TOKENS)
        return Usage(
            prompt_tokens,
            completion_tokens,
            _possible((prompt and prompt.cached_tokens) or 0, prompt_tokens),
            _possible((completion and completion.reasoning_tokens) or 0, completion_tokens),
        )


def estimated_tokens(characters: int) -> int:
    """Give the tokens of a choice where the server tells neither usage nor token ids."""
    return 1 + characters // CHARACTERS_PER_TOKEN


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Write tokens as an answer tells them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _possible(tokens: int, limit: int) -> int:
    return min(max(tokens, 0), limit)
