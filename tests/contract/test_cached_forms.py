"""An answer kept as a stream and asked for whole, and the other way round: nothing that it says is lost."""

from typing import Any

import pytest

from gateway.openai.answers import from_stream
from tests.appliance import Appliance, Reply, fetch
from tests.contract.cases import CHAT, COMPLETIONS, NAMED, WEATHER, Body, chat, complete

ENDS: Body = {"structured_outputs": {"regex": "[a-z]{4} [a-z]{3}"}, "max_tokens": 24}
"""Only an answer that came to an end by itself is kept."""
TOOLS: Body = {"tools": [WEATHER], "tool_choice": NAMED, "max_tokens": 60}
FORMS: dict[str, tuple[str, Body]] = {
    "text": (CHAT, chat(**ENDS)),
    "logprobs": (CHAT, chat(**ENDS, logprobs=True, top_logprobs=2)),
    "two choices": (CHAT, chat(**ENDS, n=2, seed=9) | {"temperature": 0.9}),
    "token ids": (CHAT, chat(**ENDS, return_token_ids=True)),
    "stop": (CHAT, chat(structured_outputs={"choice": ["1 2 3 4"]}, stop=["3"], max_tokens=24)),
    "emoji": (CHAT, chat(structured_outputs={"choice": ['"\\🦊👩‍👩‍👧']}, max_tokens=32)),
    "tools": (CHAT, chat("Weather in Oslo?", **TOOLS) | {"model": "large"}),
    "completion": (COMPLETIONS, complete(**ENDS)),
    "completion, echo": (COMPLETIONS, complete(**ENDS, echo=True)),
    "completion, logprobs": (COMPLETIONS, complete(**ENDS, logprobs=2)),
    "completion, prompts": (COMPLETIONS, complete(["One,", "Two,"], **ENDS)),
}
SAID = ("role", "content", "tool_calls", "text", "logprobs", "finish_reason", "stop_reason", "token_ids")


def said(choice: dict[str, Any]) -> dict[str, Any]:
    """What a choice says, without what is empty and without ids that are new each time."""
    flat = {**choice, **choice.get("message", {})}
    calls = [call["function"] for call in flat.get("tool_calls") or ()]
    kept = {name: flat.get(name) for name in SAID if flat.get(name)} | (
        {"tool_calls": calls} if calls else {}
    )
    return {name: value for name, value in kept.items() if value}


def choices(reply: Reply) -> list[dict[str, Any]]:
    """The choices of an answer, put together where it is a stream."""
    assert reply.status == 200, reply.body
    body = reply.body
    whole = Reply(200, {}, from_stream(body) if body.startswith(b"data: ") else body).json
    return [said(one) for one in sorted(whole["choices"], key=lambda one: one["index"])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("streamed_first", [True, False], ids=["kept as a stream", "kept whole"])
def test_what_the_cache_gives_is_what_vllm_said(
    appliance: Appliance, form: str, streamed_first: bool
) -> None:
    path, body = FORMS[form]
    body = {**body, "user": form, "bad_words": [f"zq{streamed_first}"]}  # another entry for each order
    kept = appliance.post(path, {**body, "stream": streamed_first})
    hit = appliance.post(path, {**body, "stream": not streamed_first})
    assert (kept.headers["x-switchgear-cache"], hit.headers["x-switchgear-cache"]) == ("miss", "hit-exact")
    assert choices(hit) == choices(kept)
    direct = fetch(appliance.direct(f"{body['model']}-0") + path, body)
    own = hit if streamed_first else kept
    assert own.json.keys() <= direct.json.keys()
    assert own.json["object"] == direct.json["object"]
    assert {name: own.json["usage"][name] for name in ("prompt_tokens", "total_tokens")} == {
        name: direct.json["usage"][name] for name in ("prompt_tokens", "total_tokens")
    }
    for one, other in zip(own.json["choices"], direct.json["choices"], strict=True):
        assert one.keys() <= other.keys()
