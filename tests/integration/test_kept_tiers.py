"""What a route keeps and shares: whose wish a kept answer fulfils, which tier its conversation is on."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import LIMITED, Gateway, Upstreams, config, model, running, unique

TIER, OBJECTIVE = "x-switchgear-tier", "x-switchgear-objective"
ROUTE = """
[[routes]]
name = "auto"
tiers = ["small", "large"]
objective = { threshold = 1.0 }
"""
KEYS = """
[[keys]]
name = "choosy"
key_env = "TEST_LIMITED_KEY"
large_share = 1.0
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory, upstreams = tmp_path_factory.mktemp("kept"), Upstreams(2)
    models = model("small", upstreams.ports[:1]) + model("large", upstreams.ports[1:]) + ROUTE
    text = config(models, directory=directory, cache="exact_ttl_s = 600", more=KEYS)
    started = Gateway(directory, text)
    with running(started, upstreams):
        until(started.ready)
        yield started


def ask(gateway: Gateway, *contents: object, **headers: str) -> dict[str, str]:
    """Ask in a conversation of these turns, the user's and the model's by turns; gives the head."""
    messages = [
        {"role": "assistant" if place % 2 else "user", "content": one} for place, one in enumerate(contents)
    ]
    body = json.dumps({"model": "auto", "messages": messages, "temperature": 0}).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    status, got, _ = gateway.call("POST", "/v1/chat/completions", body, sent)
    assert status == 200
    return got


def served(head: dict[str, str]) -> tuple[str, str]:
    return head["x-switchgear-model"], head["x-switchgear-cache"]


@pytest.mark.parametrize(
    "wish",
    [{TIER: "large"}, {OBJECTIVE: "large_share=1"}, {"authorization": f"Bearer {LIMITED}"}],
    ids=["tier", "objective", "key"],
)
def test_a_kept_answer_of_the_small_tier_is_none_for_who_wants_the_large_one(
    gateway: Gateway, wish: dict[str, str]
) -> None:
    question = script(tag=unique())
    for heads, chosen in (({}, "small"), (wish, "large")):
        for kept in ("miss", "hit-exact"):
            assert served(ask(gateway, question, **heads)) == (chosen, kept)


def test_a_wish_that_is_refused_is_refused_where_an_answer_is_kept(gateway: Gateway) -> None:
    question = script(tag=unique())
    ask(gateway, question)
    for wish in ({TIER: "huge"}, {OBJECTIVE: "quality=7"}):
        status, _, body = gateway.chat("auto", question, temperature=0, headers=wish)
        assert (status, json.loads(body)["error"]["param"]) == (400, next(iter(wish)))


def test_a_conversation_that_begins_with_a_kept_answer_is_on_its_tier(gateway: Gateway) -> None:
    """The kept answer was another conversation's: it spells the same question another way."""
    question = "日本語の質問です。" + unique()  # cannot be read, so a threshold of 1 sends it up
    one, other = {"type": "text", "text": question}, {"text": question, "type": "text"}
    assert served(ask(gateway, [one])) == ("large", "miss")
    assert served(ask(gateway, [other])) == ("large", "hit-exact")
    head = ask(gateway, [other], "w0", "Thank you. What would you have for lunch on such a day?")
    assert (head["x-switchgear-model"], head["x-switchgear-reason"]) == ("large", "conversation")


def test_a_kept_answer_of_a_smaller_tier_is_none_for_a_conversation_that_has_risen(gateway: Gateway) -> None:
    first, then = script(tag=unique()), "And what follows from that?"
    assert served(ask(gateway, first, "w0", then)) == ("small", "miss")
    assert served(ask(gateway, first, "w0", then)) == ("small", "hit-exact")
    assert served(ask(gateway, first, **{TIER: "large"})) == ("large", "miss")
    assert served(ask(gateway, first, "w0", then)) == ("large", "miss")
    assert served(ask(gateway, first, "w0", then)) == ("large", "hit-exact")


def test_who_joins_a_call_hears_the_threshold_that_decided(gateway: Gateway) -> None:
    question = script(tag=unique(), n=20, gap_s=0.1)
    with ThreadPoolExecutor(2) as both:
        heads = list(both.map(lambda _: ask(gateway, question), range(2)))
    assert sorted(head["x-switchgear-cache"] for head in heads) == ["joined", "miss"]
    assert [head["x-switchgear-threshold"] for head in heads] == ["1.0000", "1.0000"]
