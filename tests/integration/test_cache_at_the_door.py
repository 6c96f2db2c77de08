"""What the caches promise to a client of the OpenAI package, and to who runs them."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import ADMIN, good
from tests.integration.asking import SETTINGS, THINGS, Asker, about, calls, teach
from tests.integration.gateway import (
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_until,
    running,
    unique,
)

MORE = ("saddle", "bottle", "saucer", "pillow", "basket")
SAVED = "switchgear_cache_saved_seconds"
SURE: dict[str, Any] = {"logprobs": True, "top_logprobs": 1}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    upstreams = Upstreams(2)
    directory = tmp_path_factory.mktemp("door")
    models = model("m", upstreams.ports[:1]) + model("vectors", upstreams.ports[1:], kind="embedding")
    settings = SETTINGS.replace("ttl_s = 3600.0 }", "ttl_s = 7200.0, volatile_ttl_s = 60.0 }")
    text = config(models, cache=settings, directory=directory)
    with running(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN), upstreams) as both:
        until(both[0].ready)
        upstreams.control(default={"about": about(*MORE), "logprobs": [-0.25]})
        teach(Asker(both[0]))
        yield both


def test_a_hit_by_likeness_comes_whole_and_as_a_stream_with_its_logprobs(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, _ = served
    asker = Asker(gateway, **SURE)
    headers, said = asker.served("saddle")
    entry = headers["x-switchgear-cache-entry"]
    with gateway.client() as client:
        for n in range(40):
            raw = client.chat.completions.with_raw_response.create(
                model="m",
                messages=[{"role": "user", "content": f"tip {n}: how can i clean a saddle"}],
                logprobs=True,
                top_logprobs=1,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = list(raw.parse())
            if raw.headers["x-switchgear-cache"] == "hit-semantic":
                break
        else:
            raise AssertionError("no streamed hit by likeness")
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert raw.headers["x-switchgear-cache-entry"] == entry
    assert "".join(choice.delta.content or "" for choice in choices) == said
    sure = [token.logprob for one in choices if one.logprobs for token in one.logprobs.content or ()]
    assert sure == [-0.25]
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[0].id == f"chatcmpl-{raw.headers['x-request-id']}"


def test_bypass_asks_the_model_and_no_store_leaves_nothing(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    asker = Asker(gateway)
    asker.served("bottle")
    texts = gateway.metric("switchgear_semantic_texts")

    def asked(wish: str, question: str) -> str:
        headers = {"x-switchgear-cache": wish}
        return gateway.chat("m", question, headers=headers)[1]["x-switchgear-cache"]

    before = calls(upstreams)
    assert [asked("bypass", f"how do you clean the bottle, number {n}") for n in range(9)] == ["bypass"] * 9
    assert calls(upstreams) >= before + 9
    found = {asked("no-store", f"how do you clean the bottle, case {n}") for n in range(20)}
    assert found <= {"hit-semantic", "miss"}
    assert "hit-semantic" in found
    assert asked("no-store", "tell me a tale of a pillow") == "miss"
    assert asked("no-store", "tell me a tale of a pillow") == "miss"
    assert gateway.metric("switchgear_semantic_texts") <= texts + 20  # audits may bring some


def test_a_turn_after_others_is_answered_by_its_repetition_alone(served: tuple[Gateway, Upstreams]) -> None:
    asker = Asker(served[0])
    asker.served("basket")
    for n in range(6):
        messages = [
            {"role": "user", "content": "I have a question."},
            {"role": "assistant", "content": "Ask it."},
            {"role": "user", "content": f"please {n}: how can i clean a basket"},
        ]
        found = [asker.ask("", messages=messages)[0]["x-switchgear-cache"] for _ in range(2)]
        assert found == ["miss", "hit-exact"]


def test_a_few_exact_repeats_are_asked_anew_beside_and_every_client_has_its_hit(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = served
    sampled, asker = Asker(gateway, temperature=0.7), Asker(gateway, temperature=0)
    question = "how can i clean a kettle"
    sampled.settled(question)
    asker.settled(question)
    before = calls(upstreams)
    assert [sampled.ask(question)[0]["x-switchgear-cache"] for _ in range(120)] == ["hit-exact"] * 120
    assert calls(upstreams) == before
    found = [asker.ask(question)[0]["x-switchgear-cache"] for _ in range(120)]
    assert found == ["hit-exact"] * 120
    until(lambda: calls(upstreams) > before)
    assert calls(upstreams) <= before + 12


def test_a_bad_word_on_a_hit_by_likeness_takes_its_answer_and_all_its_questions(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, _ = served
    Asker(gateway).each("saucer")
    headers, _ = Asker(gateway).served("saucer")
    entry = headers["x-switchgear-cache-entry"]
    questions = good(gateway, "GET", f"cache/entries/{entry}")["questions"]
    texts = gateway.metric("switchgear_semantic_texts")
    body = json.dumps({"request_id": headers["x-request-id"], "score": 0.0}).encode()
    status, _, told = gateway.call("POST", "/v1/feedback", body)
    assert (status, json.loads(told)["quarantined"]) == (200, True)
    assert gateway.metric("switchgear_semantic_texts") == texts - len(questions) < texts
    left = good(gateway, "GET", "cache/entries")["data"]
    assert entry not in [one["id"] for one in left if one["tier"] == "semantic"]
    again = {Asker(gateway).ask(question)[0]["x-switchgear-cache"] for question in questions}
    assert again == {"miss"}, "those who were told the same in its own right are told it no more either"


def test_what_hangs_on_the_moment_or_the_person_is_not_kept_and_what_changes_soon_lives_shortly(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, _ = served
    asker = Asker(gateway)
    for question in ("What is the weather like today?", "Where is my order?", "The latest news?"):
        assert [asker.ask(question)[0]["x-switchgear-cache"] for _ in range(2)] == ["bypass", "bypass"]
    parts = [{"role": "user", "content": [{"type": "text", "text": f"{unique()} Where is my order?"}]}]
    for path, fields in (
        ("chat/completions", {"messages": parts}),
        ("completions", {"prompt": f"{unique()} Where is my order?"}),
    ):
        body = json.dumps({"model": "m", "temperature": 0, **fields}).encode()
        told = [gateway.call("POST", f"/v1/{path}", body)[1]["x-switchgear-cache"] for _ in range(2)]
        assert told == ["bypass", "bypass"]
    number = "Is 4111111111111111 a valid number?"  # it is in the key, so the very same request is the same
    assert [asker.ask(number)[0]["x-switchgear-cache"] for _ in range(2)] == ["miss", "hit-exact"]
    for question, lives in (
        ("What is the price of a ticket to the moon?", {"exact": 60, "semantic": 60}),
        ("Who was the first on the moon?", {"exact": 3600, "semantic": 7200}),
    ):
        good(gateway, "POST", "cache/purge", {"everything": True})
        asker.settled(question)
        kept = good(gateway, "GET", "cache/entries")["data"]
        assert {one["tier"]: round(one["expires_s"] - one["stored_s"]) for one in kept} == lives


def test_a_refusal_is_not_kept(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    for stream in (False, False):
        _, headers, _ = gateway.chat("m", script("ok", refusal="I can not help with that."), stream=stream)
        assert headers["x-switchgear-cache"] == "miss"


def test_the_time_that_hits_save_is_seen(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    prompt, before = script("ok", gap_s=0.1, tag=unique()), gateway.metric(SAVED, tier="hit-exact")
    found = [gateway.chat("m", prompt)[1]["x-switchgear-cache"] for _ in range(2)]
    assert found == ["miss", "hit-exact"]
    assert gateway.metric(SAVED, tier="hit-exact") >= before + 0.1


def test_audits_cost_no_more_than_they_may(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served

    def audits(outcome: str) -> float:
        return gateway.metric("switchgear_cache_audits_total", outcome=outcome)

    gateway.write(gateway.config.read_text().replace("error_bound", "audit_tokens_per_hour = 0, error_bound"))
    good(gateway, "POST", "config/reload")
    answered = audits("answered")
    for n in range(300):
        Asker(gateway).ask(f"please {n}: how can i clean a {THINGS[n % 10]}")
        if audits("capped"):
            break
    until(lambda: audits("capped") > 0)
    assert audits("answered") == answered


def test_another_embedding_begins_a_new_index_and_says_so(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    asker = Asker(gateway)
    asker.settled("What is a lighthouse?")
    gateway.write(gateway.config.read_text().replace("error_bound", 'embedding = "vectors", error_bound'))
    good(gateway, "POST", "config/reload")
    until(lambda: gateway.metric("switchgear_semantic_texts") == 0)
    assert "the semantic cache begins a new index, of vectors-" in gateway.logged()
    before = len([one for one in upstreams.seen()["requests"] if one["path"].endswith("/embeddings")])
    assert asker.settled("What is a lighthouse?")[0]["x-switchgear-cache"] == "hit-exact"
    assert asker.settled("What is a windmill?")[0]["x-switchgear-cache"] == "miss"
    assert gateway.metric("switchgear_semantic_texts") == 1
    after = len([one for one in upstreams.seen()["requests"] if one["path"].endswith("/embeddings")])
    assert after == before + 1


def test_a_streamed_hit_comes_at_once_or_at_the_pace_of_a_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """At a pace of a word in some hours it begins, and the client leaves before a word has come."""
    upstreams, directory = Upstreams(1), tmp_path_factory.mktemp("pace")
    text = config(model("m", upstreams.ports), cache="exact_ttl_s = 60.0", directory=directory)
    with running(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN), upstreams) as (gateway, _):
        until(gateway.ready)
        prompt = script("ok", n=5)
        gateway.chat("m", prompt)
        _, headers, body = gateway.chat("m", prompt, stream=True)
        assert headers["x-switchgear-cache"] == "hit-exact"
        assert body.count(b'"content":"w0 w1 w2 w3 w4 "') == 1
        gateway.write(text.replace("exact_ttl_s", "replay_tokens_per_s = 0.0001\nexact_ttl_s"))
        good(gateway, "POST", "config/reload")
        with closing(gateway.connect()) as client:
            client.sendall(chat_request("m", prompt, stream=True))
            begun = read_until(client, b'"role":"assistant"')
            assert b"x-switchgear-cache: hit-exact" in begun
            assert b"w4" not in begun
        until(lambda: gateway.metric("switchgear_requests_total", status="499") == 1)
