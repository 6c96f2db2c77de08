"""Which model of a route answers: constraints first, then the wish, then the score."""

from collections.abc import Mapping

import pytest

from backends.engines import ENGINES
from gateway.catalogue import Catalogue, Target
from gateway.choosing import Choice, Chooser, text_of
from gateway.errors import InvalidRequest
from gateway.openai.schemas import CHAT, COMPLETIONS, Inference, parse
from gateway.settings import parse as parse_settings
from gateway.tenancy.keys import Key
from tests.fakes.configs import MODEL

TOML = (
    "".join(
        MODEL.replace('name = "m"', f'name = "{name}"\ncontext_tokens = {context}')
        for name, context in (("small", 100), ("middle", 1000), ("large", 10_000), ("spare", 10_000))
    )
    + '[[routes]]\nname = "auto"\ntiers = ["small", "middle", "large"]\nfallback = ["spare"]\n'
)
ANY = Key(id="k", org="o", project="p", name="n", prefix="", sha256="")
CATALOGUE = Catalogue(parse_settings(TOML, "x"), ENGINES)
ALL = {"small", "middle", "large", "spare"}


class Grades:
    """A grader that gives what it was made with, and notes what it was asked."""

    def __init__(self, score: float, tier: int) -> None:
        self._score, self._tier = score, tier
        self.asked: list[str] = []
        self.embedded_s = 0.0

    def score(self, text: str) -> float:
        self.asked.append(text)
        return self._score

    def thresholds(self, target: Target) -> list[float]:
        return [0.5]

    def tier(self, target: Target, score: float) -> int:
        assert (target.route, score) == ("auto", self._score)
        return self._tier


def request(text: str = "hi", model: str = "auto") -> Inference:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}'
    return parse(CHAT, body % (model.encode(), text.encode()))


def choose(
    asked: Inference, grades: Grades | None, ready: set[str], headers: Mapping[bytes, bytes] | None = None
) -> Choice:
    chooser = Chooser(grades, ready.__contains__)
    return chooser.choose(CATALOGUE.target(asked, ANY), asked, headers or {})


@pytest.mark.parametrize(
    ("ready", "tier", "chosen", "reason"),
    [
        (ALL, 0, "small", "score"),
        (ALL, 1, "middle", "score"),
        (ALL, 2, "large", "score"),
        (ALL - {"small"}, 0, "middle", "next-ready"),
        (ALL - {"middle"}, 1, "large", "next-ready"),
        (ALL - {"large"}, 2, "middle", "next-ready"),
        ({"small", "spare"}, 2, "small", "only-ready"),
        ({"spare"}, 2, "spare", "fallback"),
        (set(), 2, "small", "none-ready"),
    ],
)
def test_the_tier_that_is_wanted_or_the_next_that_is_ready(
    ready: set[str], tier: int, chosen: str, reason: str
) -> None:
    choice = choose(request(), Grades(0.5, tier), ready)
    assert (choice.model.name, choice.reason) == (chosen, reason)
    assert choice.score == (0.5 if reason in ("score", "next-ready") else None)


def test_a_named_model_is_never_rerouted_and_never_graded() -> None:
    grades = Grades(1.0, 2)
    choice = choose(request("x" * 9000, "small"), grades, set(), {b"x-switchgear-tier": b"large"})
    assert (choice.model.name, choice.score, choice.reason, grades.asked) == ("small", None, "named", [])


def test_what_does_not_fit_is_left_out_before_the_score() -> None:
    grades = Grades(0.1, 0)
    assert choose(request("x" * 1200), grades, ALL).model.name == "middle"
    assert choose(request("x" * 12_000), grades, ALL).reason == "context"
    assert choose(request("x" * 12_000), grades, ALL).model.name == "large"
    assert (
        choose(request("x" * 100_000), grades, ALL).model.name == "large"
    )  # whose server says what is wrong
    assert len(grades.asked) == 1


def test_a_wish_goes_before_the_score_and_must_be_a_tier() -> None:
    grades = Grades(0.1, 0)
    choice = choose(request(), grades, ALL, {b"x-switchgear-tier": b"large"})
    assert (choice.model.name, choice.reason, grades.asked) == ("large", "client", [])
    for wish in (b"spare", b"", b"auto", b"\xff"):
        with pytest.raises(InvalidRequest, match="it has small, middle, large") as caught:
            choose(request(), grades, ALL, {b"x-switchgear-tier": wish})
        assert caught.value.param == "x-switchgear-tier"


def test_without_a_grader_the_cheapest_ready_model_answers() -> None:
    assert choose(request(), None, ALL).model.name == "small"
    assert choose(request(), None, ALL - {"small"}).model.name == "middle"


@pytest.mark.parametrize("prompt", ['"abc"', '["abc", "d"]'])
def test_the_text_of_a_completion(prompt: str) -> None:
    assert text_of(parse(COMPLETIONS, f'{{"model": "m", "prompt": {prompt}}}'.encode())) == "abc"


@pytest.mark.parametrize(
    "messages",
    ['[{"role": "user"}]', '[{"role": "user", "content": null}]', '[{"role": "user", "content": []}]',
     '[{"role": "user", "content": [1, null, {"type": "text"}, {"type": "text", "text": 5}]}]',
     '[{"role": "assistant", "content": "x"}]'],
)  # fmt: skip
def test_any_messages_have_a_text(messages: str) -> None:
    assert isinstance(text_of(parse(CHAT, f'{{"model": "m", "messages": {messages}}}'.encode())), str)
    for prompt in ("[]", "[1, 2]", "[[1]]", '""'):
        assert isinstance(text_of(parse(COMPLETIONS, f'{{"model": "m", "prompt": {prompt}}}'.encode())), str)


def test_a_request_with_tools_goes_where_tools_can_be_called() -> None:
    text = TOML.replace('name = "small"\n', 'name = "small"\ntools = false\n', 1)
    catalogue = Catalogue(parse_settings(text, "x"), ENGINES)
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "tools": %s}'
    chosen = []
    for tools in (b'[{"type": "function", "function": {"name": "f"}}]', b"[]", b"null"):
        asked = parse(CHAT, body % tools)
        chooser = Chooser(Grades(0.1, 0), ALL.__contains__)
        chosen.append(chooser.choose(catalogue.target(asked, ANY), asked, {}).model.name)
    assert chosen == ["middle", "small", "small"]
