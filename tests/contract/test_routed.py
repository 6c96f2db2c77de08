"""The routed model, the exact cache and the ledger behind both, on real models."""

import json
import secrets
from typing import Any

import pytest

from tests.appliance import Appliance, Reply
from tests.contract.compare import text_of
from tests.fakes.processes import until

PROMPTS = {
    "simple": "Hi!",
    "hard": "Prove that the square root of two is irrational, then write a Python function that computes "
    "its continued fraction with exact integers, and analyse the function's complexity step by step.",
}
# Nano-dollars per token of the demo's configuration: fresh prompt, cached prompt, answer.
PRICES = {"small": (50, 10, 200), "large": (200, 40, 800), "embed": (10, 10, 0)}
HIT_FACTOR = 0.1


ENDS = {"structured_outputs": {"regex": "[a-z]{4} [a-z]{3}"}, "max_tokens": 24}
"""The answer comes to an end by itself: one that was cut by its length is not kept for another."""


def ask(appliance: Appliance, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    """Ask something never asked before, unless `messages` are given."""
    messages = [{"role": "user", "content": f"Say {secrets.token_hex(4)}"}]
    body = {"model": "small", "messages": messages, "temperature": 0, **ENDS, **fields}
    reply = appliance.post("/chat/completions", body, headers)
    assert reply.status == 200, reply.body
    return reply


def usage_of(reply: Reply) -> dict[str, Any]:
    """The usage that a client saw, its cost in USD among it."""
    if reply.body.startswith(b"data: "):
        *_, last, _done = reply.payloads
        return dict(last["usage"])
    return {**reply.json["usage"], "cost": float(reply.headers["x-switchgear-cost-usd"])}


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_auto_answers_and_says_how_it_chose(appliance: Appliance, kind: str, stream: bool) -> None:
    messages = [{"role": "user", "content": PROMPTS[kind]}]
    reply = ask(appliance, {"x-switchgear-cache": "bypass"}, model="auto", messages=messages, stream=stream)
    chosen = reply.headers["x-switchgear-model"]
    assert chosen in ("small", "large")
    assert reply.headers["x-switchgear-route"] == "auto"
    assert 0.0 <= float(reply.headers["x-switchgear-score"]) <= 1.0
    assert reply.headers["x-switchgear-reason"] == "score"
    assert reply.headers["x-switchgear-replica"] == f"{chosen}-0"
    answers = [one for one in reply.payloads if one != "[DONE]"] if stream else [reply.json]
    assert {one["model"] for one in answers} == {chosen}
    assert text_of(reply, streamed=stream)[0]


def test_the_hard_prompt_scores_higher(appliance: Appliance) -> None:
    bypass = {"x-switchgear-cache": "bypass"}
    simple, hard = (
        ask(appliance, bypass, model="auto", messages=[{"role": "user", "content": one}], max_tokens=1)
        for one in PROMPTS.values()
    )
    assert float(hard.headers["x-switchgear-score"]) > float(simple.headers["x-switchgear-score"])


@pytest.mark.parametrize("tier", ["small", "large"])
def test_a_client_may_name_the_tier(appliance: Appliance, tier: str) -> None:
    reply = ask(appliance, {"x-switchgear-tier": tier}, model="auto", max_tokens=2)
    assert (reply.headers["x-switchgear-model"], reply.headers["x-switchgear-reason"]) == (tier, "client")


@pytest.mark.parametrize("first", [False, True], ids=["buffered first", "streamed first"])
@pytest.mark.parametrize("model", ["small", "auto"])
def test_a_repeat_comes_from_the_cache_in_either_form(appliance: Appliance, model: str, first: bool) -> None:
    messages = [{"role": "user", "content": f"Say {secrets.token_hex(4)}"}]
    forms: dict[bool, dict[str, Any]] = {
        False: {},
        True: {"stream": True, "stream_options": {"include_usage": True}},
    }
    origin = ask(appliance, model=model, messages=messages, **forms[first])
    assert origin.headers["x-switchgear-cache"] == "miss"
    for stream, form in forms.items():
        again = ask(appliance, model=model, messages=messages, **form)
        assert again.headers["x-switchgear-cache"] == "hit-exact"
        assert int(again.headers["x-switchgear-cache-age-s"]) >= 0
        assert again.headers["x-switchgear-cache-entry"]
        assert again.headers["x-switchgear-model"] == origin.headers["x-switchgear-model"]
        assert text_of(again, streamed=stream) == text_of(origin, streamed=first)
        was, now = usage_of(origin), usage_of(again)
        assert now["cost"] == pytest.approx(was["cost"] * HIT_FACTOR, abs=1e-9)
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [now[name] for name in names] == [was[name] for name in names]
        assert again.headers["x-request-id"] != origin.headers["x-request-id"]


def test_an_answer_cut_by_its_length_is_not_kept(appliance: Appliance) -> None:
    messages = [{"role": "user", "content": f"Say {secrets.token_hex(4)}"}]
    for _ in range(2):
        reply = ask(appliance, messages=messages, max_tokens=2)
        assert reply.json["choices"][0]["finish_reason"] == "length"
        assert reply.headers["x-switchgear-cache"] == "miss"


def test_bypass_neither_reads_nor_keeps_and_no_store_only_reads(appliance: Appliance) -> None:
    messages = [{"role": "user", "content": f"Say {secrets.token_hex(4)}"}]

    def said(wish: str | None) -> str:
        headers = {"x-switchgear-cache": wish} if wish else {}
        return ask(appliance, headers, messages=messages).headers["x-switchgear-cache"]

    assert [said("bypass"), said("no-store"), said("no-store"), said(None)] == [
        "bypass",
        "miss",
        "miss",
        "miss",
    ]
    assert [said(None), said("no-store"), said("bypass")] == ["hit-exact", "hit-exact", "bypass"]


def test_the_ledger_holds_what_the_clients_saw(appliance: Appliance) -> None:
    usage: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    bypass = {"x-switchgear-cache": "bypass"}
    messages = [{"role": "user", "content": f"Say {secrets.token_hex(4)}"}]
    forms: list[dict[str, Any]] = [{}, usage]
    seen = [
        ("upstream", ask(appliance, bypass, model=model, messages=messages, **form))
        for model in ("small", "large", "auto")
        for form in forms
    ]
    seen.append(("upstream", ask(appliance, messages=messages)))
    seen.append(("hit-exact", ask(appliance, messages=messages, **usage)))
    silent = ask(appliance, bypass, messages=messages, stream=True)  # did not ask for its usage: billed alike
    last = silent.headers["x-request-id"]
    rows: dict[str, dict[str, Any]] = {}

    def carried() -> bool:
        rows.update(appliance.ledger())
        return last in rows

    until(carried, 60.0)
    for source, reply in seen:
        row, told = rows[reply.headers["x-request-id"]], usage_of(reply)
        fresh, cached, answer = PRICES[row["model"]]
        kept = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        amount = (told["prompt_tokens"] - kept) * fresh + kept * cached + told["completion_tokens"] * answer
        assert (row["status"], row["source"]) == ("ok", source)
        assert row["model"] == reply.headers["x-switchgear-model"]
        assert row["prompt_tokens"] == told["prompt_tokens"]
        assert row["completion_tokens"] == told["completion_tokens"]
        assert row["cached_tokens"] == kept
        assert row["amount_nanousd"] == round(amount * (1 if source == "upstream" else HIT_FACTOR))
        assert row["amount_nanousd"] == round(told["cost"] * 1e9)
        assert (row["attempts"], row["estimated"]) == (0 if source == "hit-exact" else 1, False)
    buffered, streamed = (rows[one.headers["x-request-id"]] for _, one in seen[:2])
    assert buffered["amount_nanousd"] == streamed["amount_nanousd"] == rows[last]["amount_nanousd"] > 0


def test_the_ledger_is_written_as_csv_too(appliance: Appliance) -> None:
    appliance.row(ask(appliance).headers["x-request-id"])
    config = str(appliance.home / "switchgear.toml")
    text = appliance.switchgear("ledger", "export", "--config", config, "--format", "csv")
    head, *rows = text.splitlines()
    names = "request_id,ts,org,project,key_id,model,status,prompt_tokens,cached_tokens,completion_tokens"
    assert set(names.split(",")) <= set(head.split(","))
    assert rows
    assert json.loads(json.dumps(head.split(","))) == head.split(",")
