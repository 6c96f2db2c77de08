"""Which model of a route answers: constraints first, then the wish, then the score."""

import random
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from backends.engines import ENGINES
from gateway.catalogue import Catalogue, Model, Target
from gateway.choosing import Choice, Chooser, Reading, text_of
from gateway.config_file import parse as parse_settings
from gateway.errors import InvalidRequest, ModelNotAllowed
from gateway.grading import Grading
from gateway.openai.schemas import CHAT, COMPLETIONS, Inference, parse
from gateway.settings import Objective
from gateway.tenancy.keys import Key
from routing.objectives import Placement, Spending
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

    def __init__(self, score: float, tier: int, sure: bool = True) -> None:
        self.tier, self._reading = tier, Reading(score, np.zeros(1, np.float32), sure)
        self.asked: list[str] = []
        self.placed: list[tuple[Objective, float]] = []
        self.told: list[tuple[str, float]] = []
        self.embedded_s = 0.0

    def read(self, text: str) -> Reading:
        self.asked.append(text)
        return self._reading

    def adapted(self, reading: Reading, target: Target, tenant: str) -> Reading:
        return reading

    def place(self, target: Target, aim: Objective, score: float, least: int) -> Placement:
        assert target.route == "auto"
        self.placed.append((aim, score))
        return Placement(max(self.tier, least), 0.5)

    def spent(self, target: Target, aim: Objective, model: Model, usd: float) -> None:
        self.told.append((model.name, usd))


class Ready:
    """The models that are ready, and how long those take that are slow."""

    def __init__(self, names: set[str], ttft_s: Mapping[str, float] | None = None) -> None:
        self._names, self._ttft_s = names, ttft_s or {}

    def ready(self, model: str) -> bool:
        return model in self._names

    def ttft_s(self, model: str) -> float | None:
        return self._ttft_s.get(model)


def request(text: str = "hi", model: str = "auto") -> Inference:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}'
    return parse(CHAT, body % (model.encode(), text.encode()))


def choose(
    asked: Inference,
    grades: Grades | None,
    ready: set[str],
    headers: Mapping[bytes, bytes] | None = None,
    key: Key = ANY,
) -> Choice:
    chooser = Chooser(grades, Ready(ready))
    return chooser.choose(CATALOGUE.target(asked, ANY), asked, headers or {}, key)


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


@pytest.mark.parametrize(
    ("fields", "chosen", "reason"),
    [
        ({"max_tokens": 60}, "small", "score"),
        ({"max_tokens": 200}, "middle", "context"),
        ({"max_completion_tokens": 5_000, "max_tokens": 1}, "large", "context"),
        ({"max_tokens": 50_000}, "small", "score"),  # that much has nobody: its server says so, or cuts
    ],
)
def test_the_context_has_room_for_the_answer_that_is_wanted(
    fields: dict[str, int], chosen: str, reason: str
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "n": 3, **fields}
    choice = choose(parse(CHAT, msgspec.json.encode(body)), Grades(0.1, 0), ALL)
    assert (choice.model.name, choice.reason) == (chosen, reason)


def test_a_picture_takes_no_context_by_the_size_of_its_file() -> None:
    for url, chosen in (("data:image/png;base64," + "A" * 100_000, "small"), ("x" * 6_000, "large")):
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
        body = {"model": "auto", "messages": [{"role": "user", "content": content}]}
        assert choose(parse(CHAT, msgspec.json.encode(body)), Grades(0.1, 0), ALL).model.name == chosen


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


@pytest.mark.parametrize(
    ("prompt", "text"),
    [('"abc"', "abc"), ('["abc", "d"]', "abc\nd"), ("[1, 2]", ""), ("[[1, 2]]", ""), ("[]", "")],
)
def test_the_text_of_a_completion_is_that_of_all_prompts_and_token_ids_have_none(
    prompt: str, text: str
) -> None:
    assert text_of(parse(COMPLETIONS, f'{{"model": "m", "prompt": {prompt}}}'.encode())) == text


def test_the_template_of_a_completion_is_left_out_as_that_of_a_chat_is() -> None:
    prompt = "Q: 1 + 1?\nA: 2\n\nQ: 2 + 2?\nA: 4\n\nQ: What is 3 + 4?\nA:"
    body = msgspec.json.encode({"model": "m", "prompt": prompt})
    texts = [text_of(parse(COMPLETIONS, body)), text_of(request(prompt.replace("\n", "\\n")))]
    assert texts == ["What is 3 + 4?"] * 2


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
    some = b'[{"type": "function", "function": {"name": "f"}}]'
    for tools in (some, b"[]", b"null", b'[], "functions": [{"name": "f"}]', b'[], "functions": null'):
        asked = parse(CHAT, body % tools)
        chooser = Chooser(Grades(0.1, 0), Ready(ALL))
        chosen.append(chooser.choose(catalogue.target(asked, ANY), asked, {}, ANY).model.name)
    assert chosen == ["middle", "small", "small", "middle", "small"]


@pytest.mark.parametrize(
    ("lacking", "fields", "reason"),
    [
        ("images", b'"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]',
         "images"),
        ("json_schema", b'"messages": [{"role": "user", "content": "hi"}],'
         b' "response_format": {"type": "json_schema", "json_schema": {}}', "json-schema"),
        ("tools", b'"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]',
         "tools"),
    ],
)  # fmt: skip
def test_what_only_one_model_can_goes_there_and_says_so(lacking: str, fields: bytes, reason: str) -> None:
    text = TOML
    for name in ("small", "middle"):
        text = text.replace(f'name = "{name}"\n', f'name = "{name}"\n{lacking} = false\n', 1)
    target = Catalogue(parse_settings(text, "x"), ENGINES)
    asked = parse(CHAT, b'{"model": "auto", %b}' % fields)
    choice = Chooser(Grades(0.1, 0), Ready(ALL)).choose(target.target(asked, ANY), asked, {}, ANY)
    assert (choice.model.name, choice.reason) == ("large", reason)


@pytest.mark.parametrize(
    ("spoken", "asked", "chosen", "reason"),
    [
        (('["en"]', '["en"]', "[]"), "Was ist das und warum?", "large", "language"),
        (('["en"]', '["en"]', "[]"), "What is that and why?", "small", "score"),
        (('["en"]', '["en"]', "[]"), "12 * 7", "small", "score"),  # in no language: anybody's
        (('["en"]', '["en", "ja"]', '["en"]'), "日本語の質問です", "middle", "language"),
        (('["en"]', '["de", "en"]', '["de"]'), "Was ist das und warum?", "middle", "language"),
        (('["en"]', '["en"]', '["en"]'), "Почему трава зелёная?", "large", "language"),  # nobody speaks it
        (("[]", "[]", "[]"), "Почему трава зелёная?", "small", "score"),
    ],
)
def test_a_request_goes_to_a_tier_that_speaks_its_language(
    spoken: tuple[str, str, str], asked: str, chosen: str, reason: str
) -> None:
    text = TOML
    for name, languages in zip(("small", "middle", "large"), spoken, strict=True):
        text = text.replace(f'name = "{name}"\n', f'name = "{name}"\nlanguages = {languages}\n', 1)
    catalogue = Catalogue(parse_settings(text, "x"), ENGINES)
    said = parse(
        CHAT, msgspec.json.encode({"model": "auto", "messages": [{"role": "user", "content": asked}]})
    )
    choice = Chooser(Grades(0.1, 0), Ready(ALL)).choose(catalogue.target(said, ANY), said, {}, ANY)
    assert (choice.model.name, choice.reason) == (chosen, reason)


def test_a_tier_that_breaks_its_promise_of_time_is_left_out() -> None:
    text = TOML.replace('name = "small"\n', 'name = "small"\nslo_ttft_ms = 200\n', 1)
    catalogue, chosen = Catalogue(parse_settings(text, "x"), ENGINES), []
    for ttft_s in (0.1, 0.3):
        asked = request()
        chooser = Chooser(Grades(0.1, 0), Ready(ALL, {"small": ttft_s}))
        chosen.append(chooser.choose(catalogue.target(asked, ANY), asked, {}, ANY).model.name)
    assert chosen == ["small", "middle"]


def test_the_request_goes_before_the_key_and_the_key_before_the_route() -> None:
    header = b"x-switchgear-objective"
    key = msgspec.structs.replace(ANY, large_share=0.1)
    for headers, who, told in (
        ({}, ANY, "large_share=0.3"),
        ({}, key, "large_share=0.1"),
        ({header: b"quality=0.9"}, key, "quality=0.9"),
        ({header: b"large_share=0.501"}, ANY, "large_share=0.5"),
        ({header: b"cost_per_request_usd=0.001"}, ANY, "cost_per_request_usd=0.001"),
        ({}, msgspec.structs.replace(ANY, most_large_share=0.2), "large_share=0.2"),
    ):
        aim = choose(request(), Grades(0.1, 0), ALL, headers, who).aim
        assert aim is not None
        assert aim.told == told
    for wish in (b"", b"x", b"large_share=2", b"large_share=nan", b"share=0.5", b"quality=", b"\xff=1"):
        with pytest.raises(InvalidRequest, match="names are large_share, quality"):
            choose(request(), Grades(0.1, 0), ALL, {header: wish})


@pytest.mark.parametrize(
    ("models", "ready", "chosen", "reason"),
    [
        (["auto"], ALL, "large", "score"),  # no tier is named: the route's are allowed
        (["auto", "small"], ALL, "small", "allowed"),
        (["auto", "small", "middle"], ALL, "middle", "allowed"),
        (["auto", "small", "middle"], ALL - {"middle"}, "small", "only-ready"),
        (["auto", "small"], {"large", "spare"}, "small", "none-ready"),
        (["auto", "small", "spare"], {"large", "spare"}, "spare", "fallback"),
    ],
)
def test_a_key_that_names_tiers_is_routed_among_those(
    models: list[str], ready: set[str], chosen: str, reason: str
) -> None:
    key = msgspec.structs.replace(ANY, models=frozenset(models))
    choice = choose(request(), Grades(0.9, 2), ready, key=key)
    assert (choice.model.name, choice.reason) == (chosen, reason)


def test_a_tier_that_a_key_does_not_name_is_no_wish_no_spare_and_no_next_one() -> None:
    key = msgspec.structs.replace(ANY, models=frozenset({"auto", "small"}))
    with pytest.raises(ModelNotAllowed, match="'large'"):
        choose(request(), None, ALL, {b"x-switchgear-tier": b"large"}, key)
    chooser, target = Chooser(None, Ready(ALL)), CATALOGUE.target(request(), ANY)
    first = Choice(target.models[0], 0.1, "score")
    assert chooser.next(target, first, request(), key) is None
    assert chooser.spare(target, first.model, {}, key) is None
    for free in (ANY, msgspec.structs.replace(ANY, models=frozenset({"auto"}))):
        following, spare = (
            chooser.next(target, first, request(), free),
            chooser.spare(target, first.model, {}, free),
        )
        assert following is not None
        assert spare is not None
        assert (following.model.name, spare.model.name) == ("middle", "spare")


def test_a_request_wishes_for_no_more_than_its_key_allows() -> None:
    key = msgspec.structs.replace(ANY, most_large_share=0.2)
    wishes = ({b"x-switchgear-tier": b"large"}, {b"x-switchgear-objective": b"large_share=0.3"},
              {b"x-switchgear-objective": b"quality=0.3"})  # fmt: skip
    for headers in wishes:
        with pytest.raises(ModelNotAllowed):
            choose(request(), Grades(0.1, 0), ALL, headers, key)
    less = choose(request(), Grades(0.1, 0), ALL, {b"x-switchgear-objective": b"large_share=0.1"}, key)
    assert less.aim == Objective(large_share=0.1)
    assert choose(request(), None, ALL, {b"x-switchgear-tier": b"middle"}, key).model.name == "middle"


def talk(*contents: str) -> Inference:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": one} for place, one in enumerate(contents)]
    return parse(CHAT, msgspec.json.encode({"model": "auto", "messages": messages}))


def test_a_doubtful_answer_is_asked_of_a_tier_that_can_take_the_request() -> None:
    chooser, target = Chooser(None, Ready(ALL)), CATALOGUE.target(request(), ANY)
    first = Choice(target.models[0], 0.1, "score")
    for words, following in ((10, "middle"), (5_000, "large")):
        found = chooser.next(target, first, request("word " * words), ANY)
        assert found is not None
        assert (found.model.name, found.reason) == (following, "cascade")
    assert chooser.next(target, first, request("word " * 50_000), ANY) is None


def test_within_a_conversation_the_tier_rises_and_does_not_fall() -> None:
    grades = Grades(0.1, 0)
    chooser = Chooser(grades, Ready(ALL))

    def chosen(*contents: str) -> tuple[str, str]:
        asked = talk(*contents)
        choice = chooser.choose(CATALOGUE.target(asked, ANY), asked, {}, ANY)
        return choice.model.name, choice.reason

    assert chosen("a") == ("small", "score")
    grades.tier = 1
    assert chosen("a", "b", "c") == ("middle", "score")
    grades.tier = 0
    assert chosen("a", "b", "c", "d", "e") == ("middle", "conversation")
    assert chosen("a", "b", "c", "d", "e", "f", "g") == ("middle", "conversation")
    assert chosen("a", "b", "C", "d", "e") == ("small", "score")  # another one


def test_a_conversation_is_the_same_under_a_system_prompt_that_changes() -> None:
    grades = Grades(0.1, 2)
    chooser = Chooser(grades, Ready(ALL))

    def chosen(prompt: str, *said: tuple[str, str]) -> tuple[str, str]:
        messages = [{"role": role, "content": text} for role, text in (("system", prompt), *said)]
        asked = parse(CHAT, msgspec.json.encode({"model": "auto", "messages": messages}))
        choice = chooser.choose(CATALOGUE.target(asked, ANY), asked, {}, ANY)
        return choice.model.name, choice.reason

    assert chosen("It is noon.", ("user", "a")) == ("large", "score")
    grades.tier = 0
    for first, wanted in (("a", ("large", "conversation")), ("A", ("small", "score"))):
        assert chosen("It is one.", ("user", first), ("assistant", "b"), ("user", "c")) == wanted


def test_a_kept_answer_counts_for_its_conversation_and_what_is_asked_to_check_it_does_not() -> None:
    grades = Grades(0.1, 2)
    chooser = Chooser(grades, Ready(ALL))
    first, then = talk("a"), talk("a", "b", "c")
    target = CATALOGUE.target(first, ANY)
    assert chooser.weigh(target, first, {}, ANY).model.name == "large"
    grades.tier = 0
    assert chooser.choose(target, then, {}, ANY).model.name == "small"
    chooser.answered_by("middle", target, first, ANY)
    assert chooser.falls_to("small", target, then, ANY)
    assert not any(chooser.falls_to(name, target, then, ANY) for name in ("middle", "large", "spare"))
    assert chooser.choose(target, then, {}, ANY).reason == "conversation"
    assert not chooser.falls_to("small", target, first, ANY)  # a first question is nobody's conversation yet


def test_a_turn_that_goes_on_with_a_tool_s_result_does_not_fall() -> None:
    grades = Grades(0.1, 2)
    chooser = Chooser(grades, Ready(ALL))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "21"},
    ]

    def chosen(so_far: int) -> tuple[str, str]:
        asked = parse(CHAT, msgspec.json.encode({"model": "auto", "messages": messages[:so_far]}))
        choice = chooser.choose(CATALOGUE.target(asked, ANY), asked, {}, ANY)
        return choice.model.name, choice.reason

    assert chosen(1) == ("large", "score")
    grades.tier = 0
    assert chosen(3) == ("large", "conversation")
    assert chosen(1) == ("small", "score")  # a first question is nobody's conversation yet


@pytest.mark.parametrize("once", ["a wish", "an outage", "a fallback"])
def test_a_smaller_tier_that_answered_for_once_does_not_lower_a_conversation(once: str) -> None:
    grades, ready = Grades(0.1, 2), set(ALL)
    chooser = Chooser(grades, Ready(ready))

    def chosen(*contents: str, headers: Mapping[bytes, bytes] | None = None) -> str:
        asked = talk(*contents)
        return chooser.choose(CATALOGUE.target(asked, ANY), asked, headers or {}, ANY).model.name

    assert chosen("a") == "large"
    grades.tier = 0
    if once == "a wish":
        assert chosen("a", "b", "c", headers={b"x-switchgear-tier": b"small"}) == "small"
    else:
        gone = {"large"} if once == "an outage" else {"small", "middle", "large"}
        ready -= gone
        assert chosen("a", "b", "c") == ("middle" if once == "an outage" else "spare")
        ready |= gone
    assert chosen("a", "b", "c", "d", "e") == "large"


def test_what_cannot_be_read_counts_as_hard_and_says_so() -> None:
    grades = Grades(0.1, 2, sure=False)
    choice = choose(request(), grades, ALL)
    assert (choice.reason, choice.score, grades.placed[0][1]) == ("unsure", 0.1, 1.0)


def test_costs_are_told_only_where_they_are_the_objective() -> None:
    grades, asked = Grades(0.1, 0), request()
    chooser, target = Chooser(grades, Ready(ALL)), CATALOGUE.target(asked, ANY)
    for headers in ({}, {b"x-switchgear-objective": b"cost_per_request_usd=0.1"}):
        chooser.spent(target, chooser.choose(target, asked, headers, ANY), 0.2, ANY)
    assert grades.told == [("small", 0.2)]


def test_keys_that_may_not_use_the_last_tier_leave_the_share_of_the_others_alone() -> None:
    chooser, target = Chooser(Grading.load(lambda: 0.0), Ready(ALL)), CATALOGUE.target(request(), ANY)
    narrowed = msgspec.structs.replace(ANY, models=frozenset({"auto", "small", "middle"}))
    chance, wish = random.Random(1), {b"x-switchgear-objective": b"large_share=0.3"}
    chosen: dict[Key, list[str]] = {ANY: [], narrowed: []}
    for _ in range(2_000):
        for key, hardest in ((ANY, 0.6), (narrowed, 1.0)):  # whose queries are harder
            reading = Reading(chance.uniform(hardest - 0.6, hardest), np.zeros(1, np.float32))
            chosen[key].append(chooser.choose(target, request(), wish, key, reading).model.name)
    assert chosen[ANY].count("large") / 2_000 == pytest.approx(0.3, abs=0.03)
    assert set(chosen[narrowed]) == {"small", "middle"}


def test_what_keys_that_may_not_use_the_last_tier_spend_is_counted_apart() -> None:
    grading = Grading.load(lambda: 0.0)
    chooser, target = Chooser(grading, Ready(ALL)), CATALOGUE.target(request(), ANY)
    narrowed = msgspec.structs.replace(ANY, models=frozenset({"auto", "small", "middle"}))
    aim = Objective(cost_per_request_usd=0.1)
    before = grading.aim(target, aim)
    assert isinstance(before, Spending)
    costs = list(before.costs_usd)
    for key, told in ((narrowed, False), (ANY, True)):
        choice = chooser.choose(
            target, request(), {b"x-switchgear-objective": b"cost_per_request_usd=0.1"}, key
        )
        chooser.spent(target, choice, 5.0, key)
        assert (before.costs_usd != costs) is told
