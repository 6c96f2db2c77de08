"""Which ways there are to go on with a broken stream, best first, and the request of each. Pure.

- ``IDS``: a text completion whose prompt is the first one's token ids and those of the answer so far. Nothing
  is taken apart and put together again; the answer's distribution is that of one run.
- ``MESSAGE``: the answer so far as the beginning of the last message, or of the prompt: for servers that tell
  no ids. The text is tokenised anew.
- ``AGAIN``: the same request once more; what was delivered must come again and is left out. For deterministic
  requests of which no other run can begin in the middle (a grammar, penalties, tools), and where nothing was
  delivered yet.
"""

from typing import Any

import msgspec

from gateway.openai.trail import TEXTS, Said, Trail

IDS, MESSAGE, AGAIN = "ids", "message", "again"

# What a run that goes on by token ids takes over as it is; what it is given otherwise; what it need not know.
COPIED = (
    "model", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "include_stop_str_in_output",
    "ignore_eos", "logit_bias", "allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens",
    "priority", "cache_salt",
)  # fmt: skip
_TURNED = frozenset({"messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens",
                     "min_tokens", "seed", "logprobs", "top_logprobs", "n", "return_token_ids"})  # fmt: skip
_SETTLED = frozenset({"user", "metadata", "safety_identifier", "service_tier", "store", "prompt_cache_key",
                      "request_id", "chat_template", "chat_template_kwargs", "add_generation_prompt",
                      "continue_final_message", "add_special_tokens", "parallel_tool_calls",
                      "reasoning_effort", "include_reasoning", "verbosity", "documents"})  # fmt: skip
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0), "presence_penalty": (0, 0.0), "repetition_penalty": (1, 1.0),
    "echo": (False,), "best_of": (1,), "use_beam_search": (False,), "suffix": ("",),
    "response_format": ({"type": "text"},), "tool_choice": ("none",), "tools": ([],),
}  # fmt: skip

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Able(msgspec.Struct, frozen=True):
    """What the servers of a model can: tell token ids and turn them into text, go on with a message."""

    ids: bool = False
    messages: bool = False


class CannotContinue(Exception):
    """There is no honest way to go on; the text says why."""


def ways(fields: dict[str, Any], trail: Trail, able: Able) -> list[str]:
    """Give the ways to go on with a stream, best first. Raises CannotContinue."""
    if not any(is_known(fields, trail, said) for said in trail.choices.values()):
        return [AGAIN]
    found = []
    plain = _is_plain(fields) and not any(_is_parsed(said) for said in trail.choices.values())
    if plain and able.ids and _numbered(fields, trail):
        found.append(IDS)
    if plain and trail.expected == 1 and not told(fields, trail, trail.said(0)):
        alone = isinstance(fields.get("prompt"), str)
        if alone or ("messages" in fields and able.messages):
            found.append(MESSAGE)
    if fields.get("temperature") == 0 or fields.get("seed") is not None:
        found.append(AGAIN)
    if not found:
        raise CannotContinue(
            "its format, tools or penalties cannot be taken up in the middle"
            if not plain
            else "its server tells no token ids to go on from"
        )
    return found


def told(fields: dict[str, Any], trail: Trail, said: Said) -> bool:
    """Whether the client has seen single tokens, which must not come twice although no text did."""
    wanted = fields.get("logprobs")
    scored_too = wanted is not None and wanted is not False and bool(said.scored)
    return scored_too or (trail.shows_ids and bool(said.ids))


def is_known(fields: dict[str, Any], trail: Trail, said: Said) -> bool:
    """Whether the client has anything of a choice that another run may contradict."""
    return bool(said.texts or said.tools or said.finished) or told(fields, trail, said)


def _is_parsed(said: Said) -> bool:
    """Whether the server has made something else of the tokens than text."""
    return bool(said.tools) or any(name in said.texts for name in TEXTS[1:])


def _is_plain(fields: dict[str, Any]) -> bool:
    """Whether the tokens depend on nothing but what stands before them, and how they are drawn."""
    tools_off = fields.get("tool_choice") == "none"
    for name, value in fields.items():
        if value is None or name in COPIED or name in _TURNED or name in _SETTLED:
            continue
        if (name == "tools" and tools_off) or value in _HARMLESS.get(name, ()):
            continue
        return False
    return True


def _numbered(fields: dict[str, Any], trail: Trail) -> bool:
    """Whether all that was said, and the one prompt, is known by its ids."""
    for message in fields.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list) and any(
            not isinstance(part, dict) or part.get("type") != "text" for part in content
        ):
            return False
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
        return False
    known = trail.prompt is not None or any(said.prompt is not None for said in trail.choices.values())
    return known and all(said.numbered for said in trail.choices.values())


def prompt_of(trail: Trail) -> list[int]:
    """Give the ids of the prompt."""
    found = trail.prompt or next((one.prompt for one in trail.choices.values() if one.prompt is not None), [])
    return list(found)


def limit_of(fields: dict[str, Any]) -> int | None:
    """Give the most tokens that the client wants of a choice; text completions have a default."""
    wanted = fields.get("max_completion_tokens")
    wanted = fields.get("max_tokens") if wanted is None else wanted
    if wanted is None:
        return None if "messages" in fields else 16
    return int(wanted)


def message_body(fields: dict[str, Any], trail: Trail) -> bytes:
    """Make the request of ``MESSAGE``."""
    said = trail.said(0)
    body = dict(fields)
    limit = limit_of(fields)
    for name in ("max_tokens", "max_completion_tokens"):
        body.pop(name, None)
    if limit is not None:
        body["max_tokens"] = limit - said.tokens
    if fields.get("min_tokens"):
        body["min_tokens"] = max(0, fields["min_tokens"] - said.tokens)
    if fields.get("seed") is not None:
        body["seed"] = derived_seed(fields["seed"], said.tokens)
    if "messages" not in fields:
        return _encode({**body, "prompt": fields["prompt"] + said.text("text")})
    *before, last = fields["messages"]
    begun = said.text("content")
    if fields.get("continue_final_message") and isinstance(last.get("content"), str):
        messages = [*before, {**last, "content": last["content"] + begun}]
    else:
        messages = [*before, last, {"role": "assistant", "content": begun}]
    going_on = {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}
    return _encode({**body, **going_on})


def ids_body(fields: dict[str, Any], prompt: list[int], so_far: list[int], most_tokens: int) -> bytes:
    """Make the request of ``IDS``, for a choice that has so many tokens and may have so many more."""
    body = {name: fields[name] for name in COPIED if fields.get(name) is not None}
    body.update(prompt=[*prompt, *so_far], max_tokens=most_tokens, return_token_ids=True)
    body.update(stream=True, stream_options={"include_usage": True})
    if fields.get("min_tokens"):
        body["min_tokens"] = max(0, min(fields["min_tokens"] - len(so_far), most_tokens))
    if fields.get("seed") is not None:
        body["seed"] = derived_seed(fields["seed"], len(so_far))
    wanted = fields.get("logprobs")
    if wanted is True:
        body["logprobs"] = fields.get("top_logprobs") or 0
    elif wanted is not None and wanted is not False:
        body["logprobs"] = wanted
    return _encode(body)


def derived_seed(seed: int, tokens: int) -> int:
    """Give the seed of a run behind so many tokens: reproducible, and not the first tokens' draws."""
    return (seed * 1_000_003 + tokens + 1) % 2**31
