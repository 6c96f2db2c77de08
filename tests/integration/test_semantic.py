"""The semantic cache through the door: closed, then earned; replayed as asked; audited, booked, seen."""

import json
from collections.abc import Iterator

import pytest

from tests.fakes.processes import until
from tests.integration.gateway import Gateway, Upstreams, config, model, running

SETTINGS = "semantic = { error_bound = 0.3, precision = 0.5, ttl_s = 60.0 }"
THINGS = ["door", "lamp", "chair", "window", "table", "carpet", "shelf", "mirror", "clock", "stove"]
FORMS = [
    "How do I clean the {}?", "how can i clean a {}", "what is the best way to clean the {}", "clean my {}",
    "tips for cleaning the {}", "please explain how to clean a {}", "I want to clean the {}",
    "wash the {}", "how to get the {} clean", "cleaning a {}: how?", "advice on a dirty {}",
    "my {} is dirty, how do I clean it",
]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    upstreams = Upstreams(1)
    directory = tmp_path_factory.mktemp("semantic")
    text = config(model("m", upstreams.ports), cache=SETTINGS, directory=directory)
    with running(Gateway(directory, text), upstreams) as both:
        until(both[0].ready)
        missed = 0
        for form in FORMS:
            for thing in THINGS:
                status, headers, _ = both[0].chat("m", form.format(thing))
                assert status == 200
                missed += headers["x-switchgear-cache"] == "miss"
            until(lambda: both[0].metric("switchgear_semantic_texts") >= missed)  # noqa: B023 - called at once
        yield both


def hit(gateway: Gateway, start: int, **fields: object) -> tuple[dict[str, str], bytes]:
    """Ask new questions until one is answered by likeness."""
    for n in range(start, start + 40):
        _, headers, body = gateway.chat("m", f"How do I clean the {THINGS[n % 10]} number {n}?", **fields)
        if headers["x-switchgear-cache"] == "hit-semantic":
            return headers, body
    raise AssertionError("no hit by likeness")


def test_a_hit_says_what_it_is_and_is_booked_as_one(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    headers, body = hit(gateway, 100)
    answer = json.loads(body)
    assert answer["choices"][0]["message"]["content"].startswith("w0 ")
    assert len(headers["x-switchgear-cache-entry"]) == 24
    assert 0.3 < float(headers["x-switchgear-cache-similarity"]) <= 1.0001
    assert 0 <= int(headers["x-switchgear-cache-age-s"]) <= 60
    row = gateway.row(headers["x-request-id"])
    assert (row["source"], row["status"]) == ("hit-semantic", "ok")
    assert 0 < row["amount_nanousd"] < 1e5


def test_a_hit_comes_as_a_stream_where_one_was_asked_for(served: tuple[Gateway, Upstreams]) -> None:
    headers, body = hit(served[0], 200, stream=True)
    assert headers["content-type"].startswith("text/event-stream")
    assert body.startswith(b"data: ")
    assert body.rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"x-switchgear-cache": "bypass"}},
        {"temperature": 1.5},
        {"seed": 7},
        {
            "messages": [
                {"role": "system", "content": "Be rude."},
                {"role": "user", "content": "Clean a door?"},
            ]
        },
        {"messages": [{"role": "user", "content": "How do I clean the door today?"}]},
    ],
    ids=str,
)
def test_what_is_asked_otherwise_is_not_answered_by_likeness(
    served: tuple[Gateway, Upstreams], fields: dict[str, object]
) -> None:
    for n in range(5):
        asked = {"seed": 7 + n} if "seed" in fields else fields  # of one seed, likeness may answer
        _, headers, _ = served[0].chat("m", f"How do I clean the lamp, case {n}?", **asked)
        assert headers["x-switchgear-cache"] != "hit-semantic"


def test_hits_are_audited_and_the_estimate_is_seen(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    before = len(upstreams.seen()["requests"])
    missed = 0
    for n in range(60):
        _, headers, _ = gateway.chat("m", f"how would you clean the {THINGS[n % 10]} in house {n}")
        missed += headers["x-switchgear-cache"] != "hit-semantic"
    until(lambda: len(upstreams.seen()["requests"]) > before + missed)
    assert 0 <= gateway.metric("switchgear_cache_false_hit_ratio") < 0.5
