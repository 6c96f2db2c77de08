"""Who looks after the cache: what is kept is seen, judged, complained about and purged through the door."""

import json
from collections.abc import Iterator

import pytest

from tests.fakes.processes import until
from tests.integration.admin import ADMIN, ask, good
from tests.integration.gateway import Gateway, Upstreams, config, model, running, unique

SETTINGS = """exact_ttl_s = 60.0
semantic = { error_bound = 0.3, precision = 0.5, ttl_s = 60.0 }"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    upstreams = Upstreams(1)
    directory = tmp_path_factory.mktemp("care")
    models = model("m", upstreams.ports) + model("other", upstreams.ports)
    text = config(models, cache=SETTINGS, directory=directory)
    with running(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN), upstreams) as both:
        until(both[0].ready)
        yield both


LETTERS = str.maketrans("0123456789", "ghijklmnop")  # long numbers are not looked up by likeness


def asked(gateway: Gateway, prompt: str, name: str = "m", **headers: str) -> dict[str, str]:
    status, got, _ = gateway.chat(name, prompt, headers=headers)
    assert status == 200
    return got


def test_an_entry_is_listed_read_and_judged_away(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    prompt = f"What is a lamp {unique().translate(LETTERS)}?"
    asked(gateway, prompt, **{"x-switchgear-cache-tag": "faq, lamps"})
    entry = asked(gateway, prompt)["x-switchgear-cache-entry"]
    until(lambda: good(gateway, "GET", f"cache/entries/{entry}")["questions"] == [prompt])
    shown = good(gateway, "GET", "cache/entries?tag=lamps")["data"]
    assert {(one["id"], one["asked"], one["tier"]) for one in shown} >= {(entry, "m", "exact")}
    assert good(gateway, "GET", f"cache/entries/{entry}")["answer"].startswith("w0 ")
    assert good(gateway, "POST", f"cache/entries/{entry}/judge", {"right": True}) == {"purged": 0}
    assert asked(gateway, prompt)["x-switchgear-cache"] == "hit-exact"
    assert good(gateway, "POST", f"cache/entries/{entry}/judge", {"right": False}) == {"purged": 2}
    assert asked(gateway, prompt)["x-switchgear-cache"] == "miss"


def test_bad_feedback_takes_the_answer_away_at_once(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    prompt = f"What is a door {unique()}?"
    asked(gateway, prompt)
    hit = asked(gateway, prompt)
    body = {"request_id": hit["x-request-id"], "score": 0.9}
    assert feedback(gateway, body) == (200, False)
    assert asked(gateway, prompt)["x-switchgear-cache"] == "hit-exact"
    assert feedback(gateway, {**body, "score": 0.1, "comment": "wrong"}) == (200, True)
    assert asked(gateway, prompt)["x-switchgear-cache"] == "miss"
    assert feedback(gateway, {"request_id": "never-seen", "score": 0}) == (200, False)
    assert feedback(gateway, {**body, "score": 2})[0] == 400
    status, _, _ = gateway.call(
        "POST", "/v1/feedback", json.dumps(body).encode(), {"authorization": "Bearer x"}
    )
    assert status == 401


def feedback(gateway: Gateway, body: dict[str, object]) -> tuple[int, bool | None]:
    status, _, answer = gateway.call("POST", "/v1/feedback", json.dumps(body).encode())
    return status, json.loads(answer).get("quarantined")


def test_a_purge_takes_what_it_names_and_nothing_else(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    prompts = [f"What is a chair {unique()}?" for _ in range(3)]
    asked(gateway, prompts[0], **{"x-switchgear-cache-tag": "chairs"})
    asked(gateway, prompts[1])
    asked(gateway, prompts[2], "other")

    def kept() -> list[bool]:
        names = ("m", "m", "other")
        return [
            asked(gateway, prompt, name)["x-switchgear-cache"] == "hit-exact"
            for prompt, name in zip(prompts, names, strict=True)
        ]

    good(gateway, "POST", "cache/purge", {"tag": "chairs"})
    assert kept() == [False, True, True]
    good(gateway, "POST", "cache/purge", {"model": "other"})
    assert kept() == [True, True, False]
    assert good(gateway, "POST", "cache/purge", {"tenant": "nobody"}) == {"purged": 0}
    assert kept() == [True, True, True]
    tenant = good(gateway, "GET", "cache/entries?model=other")["data"][0]["tenant"]
    good(gateway, "POST", "cache/purge", {"tenant": tenant, "model": "other"})
    assert kept() == [True, True, False]
    entry = asked(gateway, prompts[1])["x-switchgear-cache-entry"]
    assert good(gateway, "POST", "cache/purge", {"entry": entry})["purged"] >= 1
    assert kept() == [True, False, True]
    good(gateway, "POST", "cache/purge", {"tenant": tenant})
    assert kept() == [False, False, False]
    assert good(gateway, "POST", "cache/purge", {"everything": True})["purged"] >= 3
    assert good(gateway, "GET", "cache/entries")["data"] == []
    assert ask(gateway, "POST", "cache/purge", {})[0] == 400
    assert ask(gateway, "POST", "cache/purge", {"everything": True}, key=None)[0] == 401


def test_what_was_learned_outlives_a_restart(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    asked(gateway, "What is a carpet?")
    until(lambda: gateway.metric("switchgear_semantic_texts") >= 1)
    texts = gateway.metric("switchgear_semantic_texts")
    assert gateway.stop() == 0
    gateway.start()
    until(gateway.ready)
    assert gateway.metric("switchgear_semantic_texts") == texts


def test_a_project_that_opted_out_is_never_cached(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    key = good(gateway, "GET", "keys")["data"][0]
    text = gateway.config.read_text()
    for tenant, kept in ((f"{key['org']}/{key['project']}", "bypass"), ("somebody-else", "miss")):
        gateway.write(text.replace("[cache]\n", f'[cache]\nopt_out = ["{tenant}"]\n'))
        good(gateway, "POST", "config/reload")
        assert asked(gateway, "What is a mirror?")["x-switchgear-cache"] == kept
