"""Routing through the door: objectives, explanations, what-if, conversations, cascade, shadow, feedback."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from gateway import database, tables
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import LIMITED, Gateway, Upstreams, config, model, running, unique

House = tuple[Gateway, Upstreams]
ADMIN = "admin-" + "a" * 40
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}
OBJECTIVE = "x-switchgear-objective"
ROUTES = """
[[routes]]
name = "auto"
tiers = ["small", "large"]
objective = { threshold = 0.5 }

[[routes]]
name = "cheap"
tiers = ["small", "large"]
objective = { large_share = 0.0 }
cascade = { min_logprob = -0.5 }

[[routes]]
name = "shadowed"
tiers = ["small", "large"]
objective = { large_share = 0.0 }
shadow = { share = 1.0 }

[[routes]]
name = "taught"
tiers = ["small", "large"]
objective = { large_share = 0.0 }
shadow = { share = 1.0 }

[[routes]]
name = "judged"
tiers = ["small", "large"]
objective = { large_share = 0.0 }
shadow = { share = 1.0, judge = "large", max_usd_per_day = 0.00001 }

[[routes]]
name = "sharp"
tiers = ["small", "large"]
grade = "precise"
embedder = "embed"
grade_timeout_ms = 1000

[[routes]]
name = "hasty"
tiers = ["small", "large"]
objective = { threshold = 0.99 }
grade = "precise"
embedder = "embed"
grade_timeout_ms = 20

[[routes]]
name = "careful"
tiers = ["small", "large"]
objective = { threshold = 0.99 }
grade = "precise"
embedder = "embed"
grade_timeout_ms = 20
when_late = "large"

[[routes]]
name = "behind"
tiers = ["small", "narrow"]
objective = { large_share = 0.0 }
shadow = { share = 1.0 }

[[routes]]
name = "barred"
tiers = ["small", "english", "large"]
objective = { large_share = 0.0 }
shadow = { share = 1.0 }

[[routes]]
name = "overheard"
tiers = ["small", "large"]
objective = { large_share = 0.0 }
shadow = { share = 1.0, judge = "narrow" }

[[routes]]
name = "foreign"
tiers = ["english", "small", "large"]
objective = { large_share = 1.0 }
shadow = { share = 1.0 }

[[routes]]
name = "backed"
tiers = ["frail", "large"]
objective = { large_share = 0.0 }
fallback = ["large"]

[[routes]]
name = "babel"
tiers = ["english", "large"]
objective = { large_share = 0.0 }
"""
KEYS = """
[[keys]]
name = "thrifty"
key_env = "TEST_LIMITED_KEY"
large_share = 0.0
most_large_share = 0.2

[[keys]]
name = "kept-in"
key_env = "TEST_NARROWED_KEY"
models = ["barred", "overheard", "small", "english"]

[[keys]]
name = "unjudged"
key_env = "TEST_UNJUDGED_KEY"
models = ["overheard", "small", "large"]
"""
NARROWED, UNJUDGED = "sk-test-" + "n" * 40, "sk-test-" + "u" * 40


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory, upstreams = tmp_path_factory.mktemp("routing"), Upstreams(3)
    ports = upstreams.ports
    models = model("small", ports[:1]) + model("large", ports[1:2])
    models += model("narrow", ports[1:2], max_concurrency=1) + model("english", ports[:1], languages=["en"])
    models += model("frail", ports[:1], max_attempts=1)
    models += model("embed", ports[2:], kind="embedding") + ROUTES
    text = config(models, directory=directory, more=KEYS)
    keys = {"TEST_NARROWED_KEY": NARROWED, "TEST_UNJUDGED_KEY": UNJUDGED}
    gateway = Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN, **keys)
    with running(gateway, upstreams):
        until(gateway.ready)
        yield gateway, upstreams


def admin(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    sent = json.dumps(body).encode() if body is not None else b""
    status, _, got = gateway.call(method, f"/admin/v1{path}", sent, AS_ADMIN)
    return status, json.loads(got)


def said(body: bytes, stream: bool) -> str:
    if not stream:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    events = [json.loads(one[6:]) for one in body.decode().split("\n\n") if one.startswith("data: {")]
    return "".join(piece["choices"][0]["delta"].get("content", "") for piece in events if piece["choices"])


def test_a_request_may_state_its_own_objective_and_hears_the_threshold(house: House) -> None:
    gateway, _ = house
    prompt = script(tag=unique())
    for objective, chosen in (("threshold=0", "large"), ("threshold=1", "small"), ("large_share=1", "large"),
                              ("large_share=0", "small"), ("cost_per_request_usd=100", "large")):  # fmt: skip
        status, headers, _ = gateway.chat("auto", prompt, headers={OBJECTIVE: objective})
        assert (status, headers["x-switchgear-model"]) == (200, chosen), objective
        assert 0.0 <= float(headers["x-switchgear-threshold"]) <= 2.0
    status, _, body = gateway.chat("auto", prompt, headers={OBJECTIVE: "largeshare=1"})
    assert (status, json.loads(body)["error"]["param"]) == (400, OBJECTIVE)


def test_a_key_has_an_objective_of_its_own_and_bounds_what_its_requests_may_wish_for(house: House) -> None:
    gateway, _ = house
    thrifty = {"authorization": f"Bearer {LIMITED}"}

    def ask(**headers: str) -> tuple[int, dict[str, str], bytes]:
        sent = thrifty | {name.replace("_", "-"): value for name, value in headers.items()}
        return gateway.chat("auto", script(tag=unique()), headers=sent)

    status, headers, _ = ask()
    assert (status, headers["x-switchgear-model"], headers["x-switchgear-threshold"]) == (
        200,
        "small",
        "2.0000",
    )
    status, headers, _ = ask(x_switchgear_objective="large_share=0.2")
    assert status == 200
    assert float(headers["x-switchgear-threshold"]) <= 1.0
    for wish in ({"x_switchgear_objective": "large_share=0.3"}, {"x_switchgear_objective": "quality=0.9"},
                 {"x_switchgear_tier": "large"}):  # fmt: skip
        status, _, body = ask(**wish)
        assert (status, json.loads(body)["error"]["code"]) == (403, "model_not_allowed"), wish
    assert ask(x_switchgear_tier="small")[1]["x-switchgear-reason"] == "client"


def test_a_request_in_a_language_that_the_cheap_tier_does_not_speak_goes_up_and_says_so(
    house: House,
) -> None:
    gateway, _ = house
    for text, chosen, reason in (
        ("What is the capital of France, and why?", "english", "score"),
        ("Was ist die Hauptstadt von Frankreich, und warum?", "large", "language"),
        ("フランスの首都はどこですか？", "large", "language"),
    ):
        _, headers, _ = gateway.chat("babel", text)
        assert (headers["x-switchgear-model"], headers["x-switchgear-reason"]) == (chosen, reason)


def test_a_decision_is_explained_by_features_and_known_examples(house: House) -> None:
    gateway, _ = house
    words = "How many ways are there to seat 7 couples at a table so that no couple sits together? Prove it. "
    _, headers, _ = gateway.chat("auto", words + script(tag=unique()))
    request_id = headers["x-request-id"]
    gateway.row(request_id)
    status, shown = admin(gateway, "GET", f"/requests/{request_id}")
    assert status == 200
    decision, why = shown["decision"], shown["explanation"]
    assert decision["objective"] == "threshold=0.5"
    assert decision["threshold"] == 0.5
    assert len(why["effects"]) == 5
    assert len(why["examples"]) == 3
    assert all(one["kind"] and -1 <= one["similarity"] <= 1.001 for one in why["examples"])


def test_what_if_for_a_prompt_and_for_a_file(house: House) -> None:
    gateway, _ = house
    status, one = admin(gateway, "POST", "/routing/what-if", {"prompt": "Thanks!", "route": "auto"})
    assert status == 200
    assert (one["routes"][0]["tier"], one["routes"][0]["thresholds"]) == ("small", [0.5])
    assert one["explanation"]["examples"]
    rows = [
        {"prompt": f"Compute {n} * {n + 1}", "small_score": float(n % 2), "large_score": 1.0}
        for n in range(40)
    ]
    wanted = {"rows": rows, "route": "auto", "objective": {"large_share": 0.25}, "picture": True}
    status, many = admin(gateway, "POST", "/routing/what-if", wanted)
    assert status == 200
    verdict = many["routes"][0]
    assert (verdict["forecast"]["share"], verdict["forecast"]["queries"]) == (0.25, 40)
    assert verdict["forecast"]["labelled"]
    assert verdict["forecast"]["cost_usd"] > 0
    assert {"share", "quality", "random", "oracle", "cost_usd"} == set(verdict["forecast"]["curve"][0])
    assert verdict["picture"].startswith("<svg ")
    _, general = admin(gateway, "POST", "/routing/what-if", {"route": "auto", "objective": {"quality": 0.9}})
    found = general["routes"][0]["forecast"]
    assert not found["labelled"]  # the validation rows stand for the traffic
    assert found["quality"] == pytest.approx(0.9, abs=0.01)
    wrong: list[dict[str, Any]] = [
        {"prompt": "x", "rows": rows},
        {"rows": []},
        {"prompt": "x", "objective": {}},
        {"prompt": "x", "route": "none"},
    ]
    for bad in wrong:
        assert admin(gateway, "POST", "/routing/what-if", bad)[0] in (400, 404), bad


def test_what_if_says_what_the_route_does(house: House) -> None:
    """Also with another objective, and of what the classifier cannot read."""
    gateway, _ = house
    for prompt in ("Thanks!", "フランスの首都はどこですか？", "How many primes are below 50? Prove it."):
        for bound in (0.0, 0.5, 1.0):
            stated = {"threshold": bound}
            tried = {"prompt": prompt, "route": "auto", "objective": stated}
            _, told = admin(gateway, "POST", "/routing/what-if", tried)
            _, headers, _ = gateway.chat("auto", prompt, headers={OBJECTIVE: f"threshold={bound}"})
            assert told["routes"][0]["tier"] == headers["x-switchgear-model"], (prompt, bound)


def test_a_conversation_does_not_fall_back(house: House) -> None:
    gateway, _ = house
    first = {"role": "user", "content": script(tag=unique())}

    def ask(*messages: dict[str, str], objective: str) -> dict[str, str]:
        body = json.dumps({"model": "auto", "messages": messages}).encode()
        return gateway.call("POST", "/v1/chat/completions", body, {OBJECTIVE: objective})[1]

    assert ask(first, objective="threshold=0")["x-switchgear-model"] == "large"
    later = (first, {"role": "assistant", "content": "w0"}, {"role": "user", "content": "and then?"})
    headers = ask(*later, objective="threshold=1")
    assert (headers["x-switchgear-model"], headers["x-switchgear-reason"]) == ("large", "conversation")


@pytest.mark.parametrize(
    ("route", "first", "why"),
    [
        ("babel", "フランスの首都はどこですか？", "language"),
        ("cheap", script(tag="doubted", says=["Maybe.", "Paris."], logprobs=[-2.0, -0.1], n=1), "cascade"),
        ("backed", script("500", "ok", tag="broken", n=1), "fallback"),
    ],
)
def test_whatever_has_raised_a_conversation_it_does_not_fall_back(
    house: House, route: str, first: str, why: str
) -> None:
    gateway, _ = house
    messages = [{"role": "user", "content": first}]

    def ask() -> tuple[str, str]:
        body = json.dumps({"model": route, "messages": messages}).encode()
        _, headers, _ = gateway.call("POST", "/v1/chat/completions", body)
        return headers["x-switchgear-model"], headers["x-switchgear-reason"]

    assert ask() == ("large", why)
    messages += [{"role": "assistant", "content": "Paris."},
                 {"role": "user", "content": "What is it known for, in two words?"}]  # fmt: skip
    assert ask() == ("large", "conversation")


def test_a_cascade_judges_the_answer_to_what_the_classifier_cannot_read(house: House) -> None:
    gateway, _ = house
    prompt = "日本語の質問です。" * 40 + script(tag=unique(), says=["", "Paris."], n=1)
    _, headers, body = gateway.chat("cheap", prompt)
    assert (headers["x-switchgear-model"], headers["x-switchgear-reason"]) == ("large", "cascade")
    assert said(body, stream=False) == "Paris."


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize(
    ("options", "model_name", "reason"),
    [
        ({"says": ["Paris."], "logprobs": [-0.1]}, "small", "score"),
        ({"says": ["Maybe.", "Paris."], "logprobs": [-2.0, -0.1]}, "large", "cascade"),
        ({"says": ["I'm sorry, I cannot do that.", "Paris."], "logprobs": [-0.1]}, "large", "cascade"),
        ({"says": ["", "Paris."], "logprobs": [-0.1]}, "large", "cascade"),
    ],
)
def test_a_cascade_keeps_a_sure_answer_and_replaces_a_doubtful_one(
    house: House, options: dict[str, Any], model_name: str, reason: str, stream: bool
) -> None:
    gateway, _ = house
    prompt = script(tag=unique(), n=1, **options)
    status, headers, body = gateway.chat("cheap", prompt, stream=stream, temperature=0)
    assert (status, headers["x-switchgear-model"]) == (200, model_name)
    assert headers["x-switchgear-reason"] == reason
    assert said(body, stream) == "Paris."
    assert b'"logprob"' not in body
    row = gateway.row(headers["x-request-id"])
    assert (row["model"], row["completion_tokens"], row["status"]) == (model_name, 1, "ok")


def test_a_cascade_replaces_an_answer_that_breaks_its_schema(house: House) -> None:
    gateway, _ = house
    schema = {"type": "array", "items": {"type": "integer"}}
    shape = {"type": "json_schema", "json_schema": {"name": "years", "schema": schema}}
    for first, chosen in (("[1969]", "small"), ("[19.69]", "large")):
        prompt = script(tag=unique(), says=[first, "[1969]"], logprobs=[-0.1], n=1)
        _, headers, body = gateway.chat("cheap", prompt, response_format=shape)
        assert headers["x-switchgear-model"] == chosen
        assert said(body, stream=False) == "[1969]"


@pytest.mark.parametrize(("route", "key"), [("barred", NARROWED), ("overheard", UNJUDGED)])
def test_a_shadow_sends_nothing_where_the_key_may_not(house: House, route: str, key: str) -> None:
    gateway, upstreams = house
    tag, later = unique(), unique()
    headers = {"authorization": f"Bearer {key}"}
    status, told, _ = gateway.chat(route, script(tag=tag, says=["It is 12."], n=1), headers=headers)
    assert (status, told["x-switchgear-model"]) == (200, "small")
    gateway.chat(route, script(tag=later, says=["It is 12."], n=1))  # shadows run in turn
    until(lambda: gateway.metric("switchgear_shadow_total", route=route) >= 1)
    until(lambda: len(upstreams.seen(later)["requests"]) >= 2)
    assert len(upstreams.seen(tag)["requests"]) == 1


def test_a_shadow_asks_no_tier_that_cannot_take_the_request(house: House) -> None:
    """The cheapest tier speaks English alone."""
    gateway, upstreams = house
    tags = unique(), unique()
    for tag, text in zip(tags, ("Was ist die Hauptstadt von Frankreich, und warum? ", ""), strict=True):
        _, told, _ = gateway.chat("foreign", text + script(tag=tag, says=["It is 12."], n=1))
        assert told["x-switchgear-model"] == "large"
    until(lambda: len(upstreams.seen(tags[1])["requests"]) == 2)  # shadows run in turn
    assert len(upstreams.seen(tags[0])["requests"]) == 1


def test_a_shadow_asks_the_other_tier_and_teaches(house: House) -> None:
    gateway, upstreams = house
    tag = unique()
    status, headers, _ = gateway.chat("shadowed", script(tag=tag, says=["It is 12.", "It is 13."], n=1))
    assert (status, headers["x-switchgear-model"]) == (200, "small")
    until(lambda: gateway.metric("switchgear_shadow_total", route="shadowed", outcome="judged") == 1)
    assert len(upstreams.seen(tag)["requests"]) == 2
    assert gateway.metric("switchgear_shadow_nanousd_total", route="shadowed") > 0
    assert [row["request_id"] for row in gateway.rows()].count(headers["x-request-id"]) <= 1

    def learnt() -> bool:
        lessons = admin(gateway, "GET", "/routing/learning")[1]["data"]
        return any(one["route"] == "shadowed" and one["both"] == 1 for one in lessons)

    until(learnt)
    (lesson,) = [
        one for one in admin(gateway, "GET", "/routing/learning")[1]["data"] if one["route"] == "shadowed"
    ]
    assert lesson["regret"] == 1.0  # the large one's number was another
    assert gateway.metric("switchgear_routing_regret", route="shadowed") == 1.0
    engine = database.connect(f"sqlite:///{gateway.directory / 'gateway.db'}")
    with engine.connect() as connection:
        kept = b"".join(connection.execute(sa.select(tables.routing_labels.c.body)).scalars())
    engine.dispose()
    assert b"shadowed" in kept
    assert b"It is" not in kept
    assert tag.encode() not in kept


def test_what_if_reads_the_quality_that_the_route_s_own_labels_taught(house: House) -> None:
    """Where the small tier says what the large one says, no share of the large one is needed."""
    gateway, _ = house
    wanted = {"route": "taught", "objective": {"quality": 0.95}}

    def told() -> Any:
        return admin(gateway, "POST", "/routing/what-if", wanted)[1]["routes"][0]["forecast"]

    shipped = told()
    for number in range(60):
        gateway.chat("taught", script(tag=unique(), says=[f"It is {number}."]))

    def calibrated() -> bool:
        lessons = admin(gateway, "GET", "/routing/learning")[1]["data"]
        return any(one["route"] == "taught" and one["calibrated"] for one in lessons)

    until(calibrated)
    own = told()
    assert shipped["share"] > 0.1
    assert (own["share"], own["quality"], own["labelled"]) == (0.0, 1.0, False)
    assert own["ci"][0] < 0.9  # so few labels are not sure of it


def test_a_shadow_waits_behind_the_requests_of_clients(house: House) -> None:
    """One slot: whoever asks while the shadow waits for it is served before it."""
    gateway, upstreams = house
    first, shadowed, later = unique(), unique(), unique()
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(gateway.chat, "narrow", script(tag=first, n=1, lockstep=True))
        until(lambda: upstreams.states(first) == ["running"])
        gateway.chat("behind", script(tag=shadowed, says=["4", "4"], n=1))
        until(lambda: gateway.metric("switchgear_queue_depth", model="narrow") == 1)
        asked = pool.submit(gateway.chat, "narrow", script(tag=later, n=1))
        until(lambda: gateway.metric("switchgear_queue_depth", model="narrow") == 2)
        upstreams.control(release=first, times=10)
        assert [one.result()[0] for one in (held, asked)] == [200, 200]
    until(lambda: len(upstreams.states(shadowed)) == 2)
    tags = [one["tag"] for one in upstreams.seen()["requests"]]
    assert tags.index(later) < len(tags) - 1 - tags[::-1].index(shadowed)


@pytest.mark.parametrize("route", ["babel", "auto"])
def test_the_drift_of_live_scores_from_the_shipped_ones_is_told(house: House, route: str) -> None:
    """Whatever the route and its requests aim at: a share, or a fixed threshold, where it matters most."""
    gateway, _ = house
    prompts = ("What is the capital of France?", "Thanks!", "Name a river.")
    for prompt in prompts * 50:
        gateway.chat(route, prompt)
    drifted = gateway.metric("switchgear_routing_drift", route=route)
    assert 0.3 < drifted <= 1.0
    gateway.chat(route, prompts[0], headers={OBJECTIVE: "large_share=0.31"})
    assert gateway.metric("switchgear_routing_drift", route=route) == pytest.approx(drifted, abs=0.02)


def test_a_judge_decides_and_the_cost_of_a_day_is_capped(house: House) -> None:
    gateway, _ = house
    gateway.chat("judged", script(tag=unique(), says=["a", "b", "0.25"], n=1))
    until(lambda: gateway.metric("switchgear_shadow_total", route="judged", outcome="judged") == 1)
    gateway.chat("judged", script(tag=unique(), says=["a", "b"], n=1))
    until(lambda: gateway.metric("switchgear_shadow_total", route="judged", outcome="capped") == 1)


def test_feedback_becomes_a_label_of_the_tenant_that_was_answered(house: House) -> None:
    gateway, _ = house
    _, headers, _ = gateway.chat("auto", script(tag=unique()))

    def tell(request_id: str) -> bool:
        body = json.dumps({"request_id": request_id, "score": 0.2}).encode()
        status, _, got = gateway.call("POST", "/v1/feedback", body)
        assert status == 200
        return bool(json.loads(got)["learnt"])

    assert tell(headers["x-request-id"])
    assert not tell(headers["x-request-id"])  # the first word counts
    assert not tell("unknown")
    assert gateway.metric("switchgear_routing_labels_total", route="auto", source="feedback") == 1
    _, named, _ = gateway.chat("small", script(tag=unique()))
    assert not tell(named["x-request-id"])


def test_what_was_learnt_can_be_reset_and_back_and_that_is_audited(house: House) -> None:
    gateway, _ = house
    assert admin(gateway, "POST", "/routing/learning/reset", {"route": "none"})[0] == 404
    _, headers, _ = gateway.chat("auto", script(tag=unique()))
    body = json.dumps({"request_id": headers["x-request-id"], "score": 1}).encode()
    gateway.call("POST", "/v1/feedback", body)
    until(lambda: admin(gateway, "POST", "/routing/learning/reset", {"route": "auto"})[0] == 200)
    status, shown = admin(gateway, "POST", "/routing/learning/restore", {"route": "auto"})
    assert (status, [one["restorable"] for one in shown["data"] if one["route"] == "auto"]) == (200, [False])
    assert admin(gateway, "POST", "/routing/learning/restore", {"route": "auto"})[0] == 409
    for action in ("routing.reset", "routing.restore"):
        lines = admin(gateway, "GET", f"/audit?action={action}")[1]["data"]
        assert [line["subject"] for line in lines] == ["auto"]


def test_the_precise_grade_reads_a_vector_and_a_failure_is_visible(house: House) -> None:
    gateway, _ = house
    for width, outcome in ((384, "read"), (2, "failed")):
        status, headers, _ = gateway.chat("sharp", script(tag=unique(), width=width))
        assert status == 200
        assert headers["x-switchgear-reason"] == ("score" if outcome == "read" else "late")
        assert gateway.metric("switchgear_precise_grades_total", route="sharp", outcome=outcome) == 1


def test_a_grade_that_is_late_is_given_up_and_the_route_says_what_counts_then(house: House) -> None:
    """The embedding comes after half a second, the time-out is 20 ms; its answer decides nothing any more."""
    gateway, _ = house
    for route, chosen in (("hasty", "small"), ("careful", "large")):
        status, headers, _ = gateway.chat(route, script("late", tag=unique(), n=1))
        assert status == 200
        assert (headers["x-switchgear-model"], headers["x-switchgear-reason"]) == (chosen, "late")
        assert gateway.metric("switchgear_precise_grades_total", route=route, outcome="late") == 1


def test_a_cascade_goes_on_where_the_first_tier_fails_and_is_counted(house: House) -> None:
    gateway, _ = house
    # The last test: a replica that fails is out of routing for a while.
    _, headers, _ = gateway.chat("cheap", script("500", "500", "500", "ok", tag=unique()))
    assert headers["x-switchgear-model"] == "large"
    assert gateway.metric("switchgear_cascade_total", route="cheap", outcome="failed") == 1
    wanted = gateway.chat("cheap", script(tag=unique()), logprobs=True)
    assert wanted[0] == 200
