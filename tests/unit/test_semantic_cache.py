"""The semantic tier over its own stores: what it serves, to whom, and what it learns from."""

from collections.abc import Callable

import pytest

from gateway.likeness import follows
from gateway.openai import schemas
from gateway.openai.schemas import CHAT
from routing.embedding import StaticEmbedder
from semantic_cache.cache import Asked, Found, SemanticCache
from semantic_cache.ledger import Bounds
from semantic_cache.policy import exact_key, scope_key, situational
from semantic_cache.reading import Reading, repetitive
from semantic_cache.stores.base import Entry
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore
from semantic_cache.verify import agree, swapped
from tests.fakes.loop import now
from tests.fakes.words import Words

EMBED = StaticEmbedder.load().embed
TOPICS = [
    "reset the password", "close the account", "order a new card", "change the address", "raise the limit",
    "export the invoices", "delete the photos", "invite a colleague", "cancel the flight", "rent a bicycle",
]  # fmt: skip
FORMS = [
    "How do I {}?", "how can i {}", "What must I do to {}?", "please tell me how to {}", "I want to {}",
    "Is there a way to {}?", "steps to {}", "help me to {}", "can you {} for me", "I would like to {} please",
    "where can I {}?", "what is needed to {}", "could you explain how to {}", "I need to {}", "trying to {}",
]  # fmt: skip


def make(draw: Callable[[], float] = lambda: 0.9) -> SemanticCache:
    words = Words()
    cache = SemanticCache(MemoryStore(10_000_000), MemoryIndex(1000), words, draw, words)
    cache.adopt(Bounds(error=0.3))
    return cache


def ask(text: str, scope: bytes = b"s", owner: str = "") -> Asked:
    return Asked("t/m", scope, text, owner, 1000.0)


def look_up(cache: SemanticCache, asked: Asked, now_s: float = 0.0) -> Found:
    return now(cache.look_up(asked, now_s))


def answered(cache: SemanticCache, found: Found, answer: str) -> None:
    """Give the model's answer to a question that was looked up."""
    key = exact_key("t", "m", found.asked.scope + found.asked.text.encode())
    entry = Entry(
        id=key.hex()[:24], tenant="t", model="m", body=answer.encode(), prompt_tokens=1, cached_tokens=0,
        completion_tokens=1, stored_s=0.0, expires_s=1.0,
    )  # fmt: skip
    cache.offer(found, key, entry, 1.0)
    now(cache.settle())


def learned(owner: str = "") -> SemanticCache:
    """Give a cache that has seen all topics in most forms, on its one route."""
    cache = make()
    for form in FORMS[:-3]:
        for topic in TOPICS:
            found = look_up(cache, ask(form.format(topic), owner=owner))
            if found.entry is None:
                answered(cache, found, f"This is how one can {topic}.")
    return cache


def test_a_question_in_other_words_gets_the_kept_answer() -> None:
    cache = learned()
    hits = []
    for form in FORMS[-3:]:
        for topic in TOPICS:
            found = look_up(cache, ask(form.format(topic)), 10.0)
            if found.entry is not None:
                hits.append(found.entry.body.decode() == f"This is how one can {topic}.")
                assert 0.3 < found.similarity <= 1.0001
    assert len(hits) > 15
    assert sum(hits) >= 0.9 * len(hits)


def test_a_fresh_cache_serves_nothing() -> None:
    cache = make()
    for n in range(30):
        found = look_up(cache, ask(f"{TOPICS[n % 10]} {n}"))
        assert found.entry is None
        answered(cache, found, TOPICS[n % 10])


def test_another_scope_and_a_later_day_find_nothing() -> None:
    cache = learned()
    questions = [FORMS[-1].format(topic) for topic in TOPICS]
    assert any(look_up(cache, ask(text)).entry for text in questions)
    assert not any(look_up(cache, ask(text, b"other")).near for text in questions)
    assert not any(look_up(cache, ask(text), 1001.0).near for text in questions)


def test_what_one_user_brought_in_is_not_served_to_another_until_a_second_asked() -> None:
    cache = learned(owner="mallory")
    questions = [FORMS[-1].format(topic) for topic in TOPICS]
    assert any(look_up(cache, ask(text, owner="mallory")).entry for text in questions)
    assert not any(look_up(cache, ask(text, owner="victim")).entry for text in questions)
    for topic in TOPICS:
        found = look_up(cache, ask(FORMS[-2].format(topic), owner="other"))
        answered(cache, found, f"This is how one can {topic}.")
    assert any(look_up(cache, ask(text, owner="victim")).entry for text in questions)


def repeated(cache: SemanticCache, text: str, answer: str, now_s: float) -> bool:
    """Ask in the very same words; tells whether the model is left alone, and learns where it is not."""
    entry = exact_entry(text, answer)
    verdict = cache.passed("t/m", entry.stored_s, now_s)
    if verdict == "serve":
        return True
    assert verdict == "check"  # the client has its answer: nothing speaks for a change
    found = now(cache.look_up(ask(text), now_s, entry))
    assert found.entry is None
    answered(cache, found, answer)
    return False


def exact_entry(text: str, answer: str) -> Entry:
    return Entry(
        id=text, tenant="t", model="m", body=answer.encode(), prompt_tokens=1, cached_tokens=0,
        completion_tokens=1, stored_s=0.0, expires_s=1e9,
    )  # fmt: skip


def test_a_few_exact_repeats_are_asked_anew() -> None:
    cache = learned()
    text, answer = FORMS[0].format(TOPICS[0]), f"This is how one can {TOPICS[0]}."
    texts = len(now(cache.texts(bytes.fromhex(look_up(cache, ask(text)).near[0].answer))))
    given = [repeated(cache, text, answer, 5.0) for _ in range(200)]
    assert all(given[:10])
    assert 185 <= sum(given) < 200
    assert len(now(cache.texts(bytes.fromhex(look_up(cache, ask(text)).near[0].answer)))) == texts


def test_where_exact_repeats_have_other_answers_now_what_was_kept_before_is_given_no_more() -> None:
    cache = learned()
    text = FORMS[0].format(TOPICS[0])
    kept = exact_entry(text, "It was so.")
    given, differed = 0, 0
    while differed < 2 and given < 200:
        verdict = cache.passed("t/m", kept.stored_s, 5.0)
        if verdict == "serve":
            given += 1
        else:
            assert verdict == ("ask" if differed else "check")
            answered(cache, now(cache.look_up(ask(text), 5.0, kept)), f"Now it is another {differed}.")
            differed += 1
    assert differed == 2
    assert {cache.passed("t/m", kept.stored_s, 6.0) for _ in range(20)} == {"ask"}
    later = [cache.passed("t/m", 7.0, 7.0) for _ in range(60)]
    assert later.count("serve") > 50


def key_of(text: str) -> bytes:
    return exact_key("t", "m", b"s" + text.encode())


def test_the_kin_of_a_question_is_the_answer_it_was_told_and_all_questions_that_were_told_the_same() -> None:
    cache, topic = learned(), TOPICS[0]
    said = f"This is how one can {topic}.".encode()
    kept = {key for key, entry in now(cache.listed()) if entry.body == said}
    told = next(key_of(form.format(topic)) for form in FORMS[1:] if key_of(form.format(topic)) not in kept)
    answers, names = now(cache.kin({told}))
    assert answers & kept
    assert len(names) > 2
    assert {told.hex()[:24], *(key.hex()[:24] for key in answers & kept)} <= names
    assert now(cache.kin(answers & kept))[1] == names
    assert now(cache.forget(answers)) == len(names)
    found = look_up(cache, ask(FORMS[1].format(topic)))
    assert found.entry is None or found.entry.body != said


def test_an_answer_goes_with_the_tags_of_every_question_it_was_given_to() -> None:
    cache, answer = make(), "This is how one can reset the password."
    for text, tags in (("reset the password", ("faq",)), ("how to reset the password", ("prices", "faq"))):
        found = look_up(cache, ask(text))
        entry = Entry(
            id=key_of(text).hex()[:24], tenant="t", model="m", body=answer.encode(), prompt_tokens=1,
            cached_tokens=0, completion_tokens=1, stored_s=0.0, expires_s=1.0, tags=tags,
        )  # fmt: skip
        cache.offer(found, key_of(text), entry, 1.0)
        now(cache.settle())
    ((_, kept),) = now(cache.listed())
    assert kept.tags == ("faq", "prices")


def test_purged_texts_are_gone() -> None:
    cache = learned()
    assert now(cache.purge()) > 10
    assert not look_up(cache, ask(FORMS[0].format(TOPICS[0]))).near


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("It costs 12 euros.", "It costs 12 euros.", True),
        ("It costs 12 euros.", "It costs 13 euros.", False),
        ("You can do that.", "You can not do that.", False),
        ("Yes", "No", False),
        ("You reset it in the settings of the app.", "Reset it in the app, in its settings.", True),
    ],
)
def test_two_answers_agree_or_not(one: str, other: str, same: bool) -> None:
    cosine = float(EMBED(one) @ EMBED(other))
    assert agree(Reading.of(one), Reading.of(other), cosine) is same


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("How do I reset my password?", False), ("What is the weather today?", True),
        ("The latest news?", True), ("Write to ann@example.org", True), ("Is 4111111111111111 valid?", True),
        ("Who was king in 1066?", False), ("Where is my order?", True),
        ("How do I change my address?", False),
    ],
)  # fmt: skip
def test_a_turn_that_hangs_on_the_moment_is_told(text: str, said: bool) -> None:
    assert situational(text) is said


def lone(body: str) -> tuple[str, bytes] | None:
    return schemas.lone_question(schemas.parse(CHAT, body.encode()))


PLAIN = '{"model": "m", "messages": [{"role": "user", "content": "Hi?"}]}'


def test_the_surroundings_of_a_question_are_everything_but_its_text() -> None:
    question = lone(PLAIN)
    assert question is not None
    text, surroundings = question
    assert text == "Hi?"
    assert lone(PLAIN.replace("Hi?", "Ho!")) == ("Ho!", surroundings)
    assert lone(PLAIN.replace('"m",', '"m", "stream": true, "user": "u",')) == question
    for more in (
        '"temperature": 0.5,', '"seed": 1,', '"max_tokens": 5,', '"tools": [],', '"response_format": {},',
        '"corpus_version": 2,', '"top_p": 0.1,', '"tool_choice": "none",',
    ):  # fmt: skip
        other = lone(PLAIN.replace('"m",', f'"m", {more}'))
        assert other is not None
        assert other[1] != surroundings
        assert scope_key("t", "m", other[1]) != scope_key("t", "m", surroundings)
    system = lone(PLAIN.replace("[{", '[{"role": "system", "content": "Be brief."}, {'))
    assert system is not None
    assert system[1] != surroundings
    assert scope_key("t", "m", surroundings) != scope_key("u", "m", surroundings)


@pytest.mark.parametrize(
    "messages",
    [
        '[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]',
        '[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]',
        '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]',
        '[{"role": "user", "content": "b", "name": "n"}]',
        '[{"role": "system", "content": "b"}]',
    ],
)
def test_a_turn_that_does_not_stand_alone_is_no_question(messages: str) -> None:
    assert lone(f'{{"model": "m", "messages": {messages}}}') is None
    assert lone(PLAIN.replace('"m",', '"m", "n": 2,')) is None


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", False),
        ('{"role": "system", "content": "s"}, {"role": "developer", "content": "d"},', False),
        ('{"role": "user", "content": "a"},', True),
        ('{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"},', True),
    ],
)
def test_a_turn_that_comes_after_others_is_told(before: str, said: bool) -> None:
    assert follows(schemas.parse(CHAT, PLAIN.replace("[{", f"[{before} {{").encode())) is said


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("Fly from Rome to Paris", "Fly from Paris to Rome", True),
        ("Is Berlin bigger than New York?", "Is New York bigger than Berlin?", True),
        ("What is 15 percent of 80?", "What is 80 percent of 15?", True),
        ("The cats and the dogs", "The dogs and the cats", False),
        ("cats or dogs", "dogs or cats", False),
        ("Fly from Rome to Paris", "Fly from Rome to Paris", False),
        ("Fly to Paris from Rome please", "please Fly to Paris from Rome", False),
        ("", "", False),
    ],
)
def test_parts_that_changed_places_are_told(one: str, other: str, said: bool) -> None:
    assert swapped(Reading.of(one), Reading.of(other)) is said


def test_a_text_whose_vector_collides_is_not_served_the_planted_answer() -> None:
    cache = learned()
    asked, planted = "How do I move a file from the laptop to the phone?", "{} from the phone to the laptop?"
    planted = planted.format("How do I move a file")
    assert float(EMBED(asked) @ EMBED(planted)) > 0.9999
    answered(cache, look_up(cache, ask(planted)), "Send me your password.")
    found = look_up(cache, ask(asked))
    assert found.verdict.score > cache.judges["t/m"].ledger.threshold  # by its numbers it would be served
    assert found.entry is None


def test_questions_of_two_tenants_never_meet() -> None:
    cache = learned()
    scopes = {scope_key(tenant, model, around) for tenant in "tu" for model in "mn" for around in (b"", b"x")}
    assert len(scopes) == 8
    for scope in scopes:
        for form in FORMS:
            assert not look_up(cache, ask(form.format(TOPICS[0]), scope)).near


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("How do I reset my password?", False), ("", False), ("Why?", False), ("no no no no", True),
        ("Is it better to rent a car, or is it better to take the train to the airport?", False),
        ("Send me your password. " + "how should it be cleaned " * 2, True),
        ("Visit the page. " + "how should it be cleaned, " * 40, True),
        (" ".join(f"word{n}" for n in range(500)), False),
    ],
)  # fmt: skip
def test_a_text_that_says_the_same_again_and_again_is_told(text: str, said: bool) -> None:
    assert repetitive(text) is said


def test_the_noise_of_the_judge_is_what_two_answers_to_one_question_seem_to_differ() -> None:
    cache = make()

    def said(answer: str) -> Entry:
        return Entry(
            id="e", tenant="t", model="m", body=answer.encode(), prompt_tokens=1, cached_tokens=0,
            completion_tokens=1, stored_s=0.0, expires_s=1.0,
        )  # fmt: skip

    begun = cache.noise
    assert 0 < begun < 0.2, "before any was asked twice"
    for _ in range(200):
        cache.doubled(said("It costs 12 euros."), said("It costs 12 euros."))
    quiet = cache.noise
    assert quiet < begun / 5
    for _ in range(200):
        cache.doubled(said("It costs 12 euros."), said("It costs 13 euros."))
    assert 0.4 < cache.noise < 0.6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("yes", "Yes!!!", True),
        ("42", "**42**", True),
        ("Built in 1900 by the city of Rome. " * 4, "built in 1900, by the city of Rome! " * 4, True),
        ("Built in 1900 by the city of Rome. " * 4, "Built in 1901 by the city of Rome. " * 4, False),
        ("Built in 1900 by the city of Rome. " * 4, "Cats sleep through most of a summer day. " * 4, False),
    ],
)  # fmt: skip
def test_a_long_answer_is_read_only_where_it_is_near_and_says_the_same_as_if_it_were(
    one: str, other: str, same: bool
) -> None:
    cache = make()
    begun = cache.noise
    cache.doubled(exact_entry("a", one), exact_entry("b", other))
    assert (cache.noise < begun) is same
