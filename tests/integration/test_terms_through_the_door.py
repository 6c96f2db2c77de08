"""Every term of every level through the door: it binds where it is set, the tightest wins, none is none."""

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import Tenant as Bare
from tests.integration.admin import emptied, good, open_gateway
from tests.integration.gateway import COMMAND, Gateway, Upstreams, model, running, unique

LEVELS = ("org", "project", "key")
Door = tuple[Gateway, Upstreams]


@pytest.fixture(scope="module")
def door(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    upstreams = Upstreams(1)
    single = model("single", upstreams.ports, max_concurrency=1)
    gateway = open_gateway(tmp_path_factory.mktemp("terms"), emptied(postgres), upstreams, more=single)
    with running(gateway, upstreams) as found:
        until(gateway.ready)
        yield found


class Tenant(Bare):
    """An organisation with a project and a key, with terms at each level."""

    def __init__(self, gateway: Gateway, **terms: dict[str, Any]) -> None:
        self.gateway = gateway
        self.org = f"org {unique()}"
        org = {"name": self.org, "terms": terms.get("org", {})}
        self.org_id = good(gateway, "POST", "orgs", org)["id"]
        project = {"org": self.org, "name": "chat", "terms": terms.get("project", {})}
        self.project_id = good(gateway, "POST", "projects", project)["id"]
        self.key_id, self.key = self.make_key(terms=terms.get("key", {}))


def tenant_with(door: Gateway, level: str, tight: dict[str, Any], loose: dict[str, Any]) -> Tenant:
    """Make a tenant that has ``tight`` terms at one level and ``loose`` ones at the two others."""
    return Tenant(door, **{name: tight if name == level else loose for name in LEVELS})


def said(door: Gateway, key: str, prompt: str = "", **fields: Any) -> tuple[int, str]:
    """Ask for five tokens; gives the status, and the model or what the error says."""
    fields.setdefault("max_tokens", 5)
    headers = {"authorization": f"Bearer {key}", **fields.pop("headers", {})}
    name = fields.pop("model", "small")
    prompt = prompt or script("ok", n=5, tag=unique())
    status, _, body = door.chat(name, prompt, headers=headers, **fields)
    answer = json.loads(body)
    return status, answer["model"] if status == 200 else answer["error"]["message"]


WORDS = {"org": "organisation", "project": "project", "key": "key"}
# A request for 20 tokens reserves some 200,000 nano-dollars and costs 45,500.
RATES: list[Any] = [
    ({"rpm": 1}, {"rpm": 1000}, "1 requests per minute"),
    pytest.param({"rpd": 1}, {"rpd": 1000}, "1 requests per day", marks=pytest.mark.soak),
    ({"tpm": 20}, {"tpm": 10**6}, "20 tokens per minute"),
    pytest.param({"tpd": 20}, {"tpd": 10**6}, "20 tokens per day", marks=pytest.mark.soak),
    ({"budget_nanousd": 300_000}, {"budget_nanousd": 10**12}, "budget of this {level} for this month"),
    ({"budget_nanousd": 300_000, "budget_period": "day"}, {"budget_nanousd": 10**12}, "for this day"),
    pytest.param(
        {"budget_nanousd": 300_000, "budget_period": "total"},
        {"budget_nanousd": 10**12},
        "budget of this",
        marks=pytest.mark.soak,
    ),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("tight", "loose", "words"), RATES, ids=lambda one: str(one)[:30])
def test_a_limit_binds_at_the_level_that_has_it_and_names_it(
    door: Door, level: str, tight: dict[str, Any], loose: dict[str, Any], words: str
) -> None:
    tenant = tenant_with(door[0], level, tight, loose)
    times = 4 if "budget_nanousd" in tight else 2
    replies = [
        said(door[0], tenant.key, script("ok", n=20, tag=unique()), max_tokens=20) for _ in range(times)
    ]
    assert replies[0][0] == 200
    status, message = replies[-1]
    assert (status, f"this {WORDS[level]}" in message) == (429, True), message
    assert words.format(level=WORDS[level]) in message


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("tight", "loose", "words"), RATES[:5], ids=lambda one: str(one)[:30])
def test_a_limit_of_end_users_binds_each_of_them_at_the_level_that_has_it(
    door: Door, level: str, tight: dict[str, Any], loose: dict[str, Any], words: str
) -> None:
    gateway = door[0]
    tenant = tenant_with(gateway, level, {"end_user": tight}, {"end_user": loose} if loose else {})
    prompt = script("ok", n=20)
    asked = [said(gateway, tenant.key, f"{prompt} {n}", user="ann", max_tokens=20) for n in range(4)]
    assert asked[0][0] == 200
    assert (asked[-1][0], "this end user" in asked[-1][1]) == (429, True), asked[-1][1]
    assert words.format(level="end user") in asked[-1][1]
    assert said(gateway, tenant.key, user="bob")[0] == 200
    assert said(gateway, tenant.key)[0] == 200


@pytest.mark.parametrize(("level", "bound"), [("org", (True, True)), ("project", (True, False)),
                                              ("key", (False, False))])  # fmt: skip
def test_what_a_level_limits_it_limits_in_all_that_is_below_it(
    door: Door, level: str, bound: tuple[bool, bool]
) -> None:
    """An end user's limit too: who goes on with another key or in another project is still who it was."""
    gateway = door[0]
    for terms, fields in (({"rpm": 1}, {}), ({"end_user": {"rpm": 1}}, {"safety_identifier": "ann"})):
        tenant = tenant_with(gateway, level, terms, {})
        sibling = tenant.make_key()[1]
        other = good(gateway, "POST", "projects", {"org": tenant.org, "name": "other"})["id"]
        cousin = good(gateway, "POST", "keys", {"project_id": other, "name": "k"})["key"]
        assert said(gateway, tenant.key, **fields)[0] == 200
        assert said(gateway, tenant.key, **fields)[0] == 429
        found = [said(gateway, key, **fields)[0] for key in (sibling, cousin)]
        assert found == [429 if one else 200 for one in bound]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("of_users", [False, True], ids=["all", "end user"])
def test_requests_at_once_are_counted_at_each_level(door: Door, level: str, of_users: bool) -> None:
    gateway, upstreams = door
    terms: list[dict[str, Any]] = [{"concurrency": 1}, {"concurrency": 9}]
    tight, loose = ({"end_user": one} for one in terms) if of_users else terms
    tenant, tag = tenant_with(gateway, level, tight, loose), unique()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(
            said, gateway, tenant.key, script("ok", n=5, lockstep=True, tag=tag), user="ann", stream=False
        )
        until(lambda: upstreams.states(tag) == ["running"])
        status, message = said(gateway, tenant.key, user="ann")
        upstreams.control(release=tag, times=20)
        assert first.result()[0] == 200
    assert (status, "at once" in message) == (429, True), message
    until(lambda: said(gateway, tenant.key, user="ann")[0] == 200)


@pytest.mark.parametrize("level", LEVELS)
def test_credit_binds_at_each_level_down_to_its_floor(door: Door, level: str) -> None:
    gateway = door[0]
    for terms, status in (
        ({"credit": "prepaid"}, 429),
        ({"credit": "prepaid", "floor_nanousd": -(10**9)}, 200),
        ({"credit": "payg", "floor_nanousd": 0}, 429),
        ({"credit": "payg", "floor_nanousd": -(10**9)}, 200),
        ({"credit": "payg"}, 200),
    ):
        tenant = tenant_with(gateway, level, terms, {})
        found, message = said(gateway, tenant.key)
        assert found == status, (terms, message)
        assert status == 200 or f"This {WORDS[level]} has no credit" in message


@pytest.mark.parametrize("level", LEVELS)
def test_models_band_and_cache_scope_are_the_narrowest_of_the_levels(door: Door, level: str) -> None:
    gateway = door[0]
    tight = {"models": ["small"], "band": "batch", "cache_scope": "key", "metadata": {"cost": "7"}}
    loose = {"models": ["small", "large"], "band": "interactive", "cache_scope": "organisation"}
    tenant = tenant_with(gateway, level, tight, loose)
    assert said(gateway, tenant.key, model="large")[0] == 403
    prompt = script("ok", n=5, tag=unique())
    cached: Callable[[str], str] = lambda key: gateway.chat(  # noqa: E731  # one word for a call
        "small", prompt, headers={"authorization": f"Bearer {key}"}, service_tier="priority"
    )[1]["x-switchgear-cache"]
    sibling = tenant.make_key()[1]
    assert [cached(key) for key in (tenant.key, tenant.key)] == ["miss", "hit-exact"]
    assert cached(sibling) == "miss"
    until(lambda: len(good(gateway, "GET", f"requests?key_id={tenant.key_id}")["data"]) == 2)
    rows = good(gateway, "GET", f"requests?key_id={tenant.key_id}")["data"]
    assert {row["service"] for row in rows} == {"batch"}, "whatever service_tier a client names"


@pytest.mark.parametrize("level", LEVELS)
def test_a_busy_model_is_shared_by_weight_at_each_level(door: Door, level: str) -> None:
    """Three to one while both wait, of two organisations, two projects of one, or two keys of one."""
    gateway, upstreams = door
    tenants = [Tenant(gateway, **{level: {"weight": weight}}) for weight in (3, 1)]
    keys = [tenant.key for tenant in tenants]
    if level == "project":
        terms = {"org": tenants[0].org, "name": "light", "terms": {"weight": 1}}
        light = good(gateway, "POST", "projects", terms)["id"]
        keys[1] = good(gateway, "POST", "keys", {"project_id": light, "name": "k"})["key"]
    elif level == "key":
        keys[1] = tenants[0].make_key(terms={"weight": 1})[1]
    hold, tags = unique(), (unique(), unique())

    def ask(key: str, tag: str, number: int) -> int:
        return said(gateway, key, script("ok", n=5, tag=tag), model="single", seed=100 + number)[0]

    with ThreadPoolExecutor(25) as pool:
        first = pool.submit(said, gateway, keys[0], script("ok", lockstep=True, tag=hold), model="single")
        until(lambda: upstreams.states(hold) == ["running"])
        asked = [
            pool.submit(ask, key, tag, n) for n in range(12) for key, tag in zip(keys, tags, strict=True)
        ]
        until(lambda: gateway.metric("switchgear_queue_depth", model="single") == 24)
        upstreams.control(release=hold, times=20)
        assert {one.result() for one in asked} == {200}
        assert first.result()[0] == 200
    came = [one["tag"] for one in upstreams.seen()["requests"] if one["tag"] in tags]
    assert 8 <= came[:12].count(tags[0]) <= 10


def test_nothing_configured_is_no_limit_at_all(door: Door) -> None:
    tenant = Tenant(door[0])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: said(door[0], tenant.key, user="ann", max_tokens=10**6), range(40)))
    assert {status for status, _ in found} == {200}


@pytest.mark.parametrize("level", [*(pytest.param(one, marks=pytest.mark.soak) for one in LEVELS[:2]), "key"])
def test_content_is_kept_no_longer_than_a_level_says_and_nothing_else_goes(door: Door, level: str) -> None:
    """Answers, idempotency keys, end users and metadata; what a neighbour keeps, and all money, stays."""
    gateway, upstreams = door
    tenants = [
        tenant_with(gateway, level, {"retention_days": days}, {"retention_days": 9}) for days in (0, 9)
    ]
    fields = {"metadata": {"team": "a"}, "safety_identifier": "ann"}
    found = {}
    for tenant in tenants:
        tag = unique()

        def asked(prompt: str, key: str = tenant.key, **headers: str) -> str:
            sent = {"authorization": f"Bearer {key}", **headers}
            status, got, body = gateway.chat("small", prompt, headers=sent, **fields)
            assert status == 200, body
            return got["x-switchgear-cache"]

        cached = [asked(script("ok", tag=tag)) for _ in range(2)]
        for _ in range(2):
            asked(script("ok", tag=f"{tag}-once"), **{"idempotency-key": tag, "x-switchgear-cache": "bypass"})
        found[tenant.key_id] = (*cached, len(upstreams.seen(f"{tag}-once")["requests"]))
    assert list(found.values()) == [("bypass", "bypass", 2), ("miss", "hit-exact", 1)]

    def rows(tenant: Tenant) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = good(gateway, "GET", f"ledger?key_id={tenant.key_id}")["data"]
        return listed

    until(lambda: [len(rows(tenant)) for tenant in tenants] == [4, 3])
    before = [rows(tenant) for tenant in tenants]
    assert all(row["end_user"] and row["metadata"] for listed in before for row in listed)
    gateway.stop()
    gateway.start()  # it looks at once, and then every ten minutes
    until(gateway.ready)
    until(lambda: not any(row["end_user"] or row["metadata"] for row in rows(tenants[0])))
    forgotten = [{**row, "end_user": "", "metadata": ""} for row in before[0]]
    assert [rows(tenant) for tenant in tenants] == [forgotten, before[1]]
    command = [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["gap_nanousd"] == 0
