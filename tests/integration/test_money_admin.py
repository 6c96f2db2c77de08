"""Prices, credits, usage and invoices through the admin API, on both databases."""

import csv
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import CACHED_TOKENS, PROMPT_TOKENS, script
from tests.integration.admin import ADMIN, Tenant, ask, change, emptied, good, open_gateway
from tests.integration.gateway import Gateway, Upstreams, call, chat_body, running, unique

PROMPT = (PROMPT_TOKENS - CACHED_TOKENS) * 1000 + CACHED_TOKENS * 500
COST = PROMPT + 5 * 2000


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("money")
    url = f"sqlite:///{directory / 'gateway.db'}"
    if request.param == "postgresql":
        url = emptied(request.getfixturevalue("postgres"))
    upstreams = Upstreams(1)
    with running(open_gateway(directory, url, upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        yield gateway


def served(door: Gateway, key: str, **fields: object) -> int:
    body = chat_body("small", script("ok", tag=unique()), **{"max_tokens": 5, **fields})
    return call(door.port, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})[0]


def rows(door: Gateway, tenant: Tenant) -> list[dict[str, object]]:
    return list(good(door, "GET", f"ledger?org={quote(tenant.org)}")["data"])


def test_credit_counts_at_the_next_request(door: Gateway) -> None:
    """maximhq/bifrost#5673: what was set was not what was enforced."""
    tenant = Tenant(door, credit="prepaid")
    assert served(door, tenant.key) == 429
    credit = {"kind": "top_up", "amount_usd": 1.5, "key_id": tenant.key_id, "idempotency_key": unique()}
    first = good(door, "POST", "credits", credit)
    assert (first["debit"], first["credit"]) == ("cash", f"key:{tenant.key_id}")
    assert good(door, "POST", "credits", credit)["id"] == first["id"]
    assert served(door, tenant.key) == 200
    until(lambda: len(rows(door, tenant)) == 1)
    (entry,) = rows(door, tenant)
    assert (entry["debit"], entry["credit"]) == (f"key:{tenant.key_id}", "revenue")
    assert (entry["amount_nanousd"], entry["baseline_nanousd"]) == (COST, COST)
    left = good(door, "GET", f"balance?account=key:{tenant.key_id}")
    assert left["balance_nanousd"] == 1_500_000_000 - COST
    taken = {"kind": "correction", "amount_usd": -1.5, "key_id": tenant.key_id}
    good(door, "POST", "credits", taken)
    assert served(door, tenant.key) == 429
    assert [one["kind"] for one in good(door, "GET", f"credits?org={quote(tenant.org)}")["data"]] == [
        "correction",
        "top_up",
    ]
    audit = good(door, "GET", "audit?action=credit.add")["data"]
    assert {one["subject"] for one in audit} >= {first["id"]}


def test_complaint_16_a_budget_that_is_inherited_binds_like_an_own_one(door: Gateway) -> None:
    """litellm#26672: a budget that a key inherits was not enforced."""
    tenant = Tenant(door)
    change(door, f"orgs/{tenant.org_id}", {"terms": {"budget_nanousd": 10, "budget_period": "day"}})
    assert served(door, tenant.key) == 429
    change(door, f"orgs/{tenant.org_id}", {"terms": {"budget_nanousd": None}})
    assert served(door, tenant.key) == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [({"kind": "grant", "amount_usd": 0}, "amount_usd"), ({"kind": "grant", "amount_usd": -1}, "amount_usd"),
     ({"kind": "refund", "amount_usd": 1, "expires_s": 5}, "expires_s")],
)  # fmt: skip
def test_a_movement_that_makes_no_sense_is_refused(
    door: Gateway, body: dict[str, object], param: str
) -> None:
    tenant = Tenant(door)
    status, _, answer = ask(door, "POST", "credits", {**body, "key_id": tenant.key_id})
    assert (status, answer["error"]["param"]) == (400, param)


def test_credit_that_has_expired_is_not_spent(door: Gateway) -> None:
    tenant = Tenant(door, credit="prepaid")
    grant = {"kind": "grant", "amount_usd": 1, "key_id": tenant.key_id, "idempotency_key": unique()}
    status, _, body = ask(door, "POST", "credits", {**grant, "expires_s": time.time() - 1})
    assert (status, body["error"]["param"]) == (400, "expires_s")
    soon: dict[str, Any] = {**grant, "expires_s": time.time() + 2}
    first = good(door, "POST", "credits", soon)
    answered = 0
    while served(door, tenant.key) == 200:
        answered += 1
        assert time.time() < soon["expires_s"] + 60
    assert answered
    until(lambda: good(door, "GET", f"usage?key_id={tenant.key_id}")["data"][0]["requests"] == answered)
    (expiry,) = good(door, "GET", f"credits?kind=expiry&org={quote(tenant.org)}")["data"]
    late = sum(
        row["ts"] > expiry["ts"] for row in good(door, "GET", f"requests?key_id={tenant.key_id}")["data"]
    )
    left = good(door, "GET", f"balance?account=key:{tenant.key_id}")["balance_nanousd"]
    assert -COST * (late + 1) <= left <= 0, "what was used of it before is not taken back"
    assert good(door, "POST", "credits", soon)["id"] == first["id"]
    assert served(door, tenant.key) == 429


def test_more_credit_than_the_books_can_hold_is_refused(door: Gateway) -> None:
    tenant = Tenant(door, credit="prepaid")
    grant = {"kind": "grant", "amount_usd": 1e9, "key_id": tenant.key_id}
    replies = [ask(door, "POST", "credits", grant) for _ in range(6)]
    statuses = [status for status, _, _ in replies]
    assert set(statuses) == {201, 400}
    assert replies[statuses.index(400)][2]["error"]["param"] == "amount_usd"
    held = statuses.count(201) * 10**18
    assert good(door, "GET", f"balance?account=key:{tenant.key_id}")["balance_nanousd"] == held
    assert served(door, tenant.key) == 200
    good(door, "POST", "credits", {"kind": "correction", "amount_usd": -1e9, "key_id": tenant.key_id})


@pytest.mark.parametrize(
    ("whose", "status", "param"),
    [({}, 400, "org"), ({"org": "nobody"}, 404, "org"), ({"key_id": "key_none"}, 404, None)],
)
def test_an_account_that_is_not_there_is_said(
    door: Gateway, whose: dict[str, str], status: int, param: str | None
) -> None:
    found, _, answer = ask(door, "POST", "credits", {"kind": "grant", "amount_usd": 1, **whose})
    assert (found, answer["error"]["param"]) == (status, param)


def test_a_price_of_an_organisation_is_its_own(door: Gateway) -> None:
    tenant, other = Tenant(door), Tenant(door)
    wanted = {"model": "small", "org": tenant.org, "price": {"input": 10.0, "output": 20.0}}
    made = good(door, "POST", "prices", wanted)
    assert (made["input_nanousd"], made["origin"], made["valid_to_s"]) == (10_000, "admin", None)
    for one in (tenant, other):
        assert served(door, one.key) == 200
    until(lambda: len(rows(door, tenant)) == len(rows(door, other)) == 1)
    assert rows(door, tenant)[0]["amount_nanousd"] == PROMPT_TOKENS * 10_000 + 5 * 20_000
    assert rows(door, tenant)[0]["price_version"] == made["version"]
    assert rows(door, other)[0]["amount_nanousd"] == COST
    assert good(door, "POST", f"prices/{made['id']}/end", {})["valid_to_s"] is not None
    assert served(door, tenant.key) == 200
    until(lambda: len(rows(door, tenant)) == 2)
    assert rows(door, tenant)[0]["amount_nanousd"] == COST
    listed = good(door, "GET", f"prices?org={quote(tenant.org)}")["data"]
    assert [one["id"] for one in listed] == [made["id"]]
    fine = {**wanted, "price": {"input": 0.00001}}
    status, _, answer = ask(door, "POST", "prices", fine)
    assert (status, answer["error"]["param"]) == (400, "price")


def test_a_question_that_is_remembered_is_admitted_at_the_prices_and_limits_of_today(door: Gateway) -> None:
    tenant = Tenant(door)
    body = chat_body("small", script("ok", tag=unique()), max_tokens=5, temperature=0.0)

    def asked() -> tuple[int, str]:
        sent = {"authorization": f"Bearer {tenant.key}"}
        status, headers, _ = call(door.port, "POST", "/v1/chat/completions", body, sent)
        return status, headers.get("x-switchgear-cache", "")

    assert [asked() for _ in range(4)] == [(200, "miss")] + [(200, "hit-exact")] * 3
    wanted = {"model": "small", "org": tenant.org, "price": {"input": 10.0, "output": 20.0}}
    made = good(door, "POST", "prices", wanted)
    assert asked() == (200, "hit-exact")
    until(lambda: len(rows(door, tenant)) == 5)
    assert rows(door, tenant)[0]["price_version"] == made["version"]
    change(door, f"keys/{tenant.key_id}", {"terms": {"budget_nanousd": PROMPT_TOKENS * 10_000}})
    assert asked()[0] == 429  # what it reserves is of the new price, too
    change(door, f"keys/{tenant.key_id}", {"terms": {"budget_nanousd": None}})
    assert asked() == (200, "hit-exact")


def test_a_price_counts_from_its_first_moment_to_its_last(door: Gateway) -> None:
    tenant = Tenant(door)
    now_s = time.time()

    def add(factor: int, from_s: float, to_s: float | None = None) -> Any:
        span = {"valid_from_s": from_s, "valid_to_s": to_s}
        price = {"input": 1.0 * factor, "output": 2.0 * factor}
        return good(door, "POST", "prices", {"model": "small", "org": tenant.org, "price": price, **span})

    add(100, now_s + 3600)
    add(50, now_s - 20, now_s - 10)
    soon = add(10, now_s + 2, now_s + 1800)

    def last() -> Any:
        before = len(rows(door, tenant))
        assert served(door, tenant.key) == 200
        until(lambda: len(rows(door, tenant)) == before + 1)
        return rows(door, tenant)[0]

    first = last()
    assert first["price_version"] == soon["version"] or first["amount_nanousd"] == COST
    until(lambda: last()["price_version"] == soon["version"])
    assert last()["amount_nanousd"] == 10 * (PROMPT_TOKENS * 1000 + 5 * 2000)
    bad = {"model": "small", "price": {"input": 1.0}, "valid_from_s": 20.0, "valid_to_s": 10.0}
    status, _, said = ask(door, "POST", "prices", bad)
    assert (status, said["error"]["param"]) == (400, "valid_to_s")


def test_usage_by_day_by_metadata_and_as_an_invoice(door: Gateway) -> None:
    tenant = Tenant(door)
    for team in ("red", "red", "blue"):
        assert served(door, tenant.key, metadata={"team": team}) == 200
    assert served(door, tenant.key) == 200
    until(lambda: len(rows(door, tenant)) == 4)
    org = quote(tenant.org)
    (day,) = good(door, "GET", f"usage?org={org}")["data"]
    assert (day["requests"], day["amount_nanousd"], day["model"]) == (4, 4 * COST, None)
    by_model = good(door, "GET", f"usage?org={org}&by=model&by=status")["data"]
    assert [(one["model"], one["status"], one["day"]) for one in by_model] == [("small", "ok", None)]
    span = f"from_s={time.time() - 3600}&to_s={time.time() + 3600}"
    shares = good(door, "GET", f"usage/metadata?key=team&org={org}&{span}")["data"]
    assert {one["value"]: one["amount_nanousd"] for one in shares} == {
        "red": 2 * COST, "blue": COST, None: COST,
    }  # fmt: skip
    good(door, "POST", "credits", {"kind": "top_up", "amount_usd": 1, "org": tenant.org})
    invoice = good(door, "GET", f"usage/invoice?org={org}&month={day['day'][:7]}")
    assert (invoice["usage_nanousd"], invoice["transfers"]) == (4 * COST, {"top_up": 10**9})
    assert [(line["project"], line["model"]) for line in invoice["lines"]] == [("chat", "small")]


def test_export_is_the_ledger_in_two_formats(door: Gateway) -> None:
    tenant = Tenant(door)
    _, admin = tenant.make_key(scopes=["admin"])
    assert served(door, tenant.key) == 200
    until(lambda: len(rows(door, tenant)) == 1)
    headers = {"authorization": f"Bearer {admin}"}
    status, got, body = call(door.port, "GET", "/admin/v1/usage/export", b"", headers)
    assert (status, got["content-type"].split(";")[0]) == (200, "application/x-ndjson")
    (row,) = map(json.loads, body.splitlines())
    assert (row["org"], row["amount_nanousd"], row["replicas"]) == (tenant.org, COST, ["small-0"])
    body = call(door.port, "GET", "/admin/v1/usage/export.csv", b"", headers)[2]
    (line,) = csv.DictReader(body.decode().splitlines())
    assert (line["request_id"], line["amount_nanousd"]) == (row["request_id"], str(COST))


def test_an_export_holds_what_its_filters_say_and_nothing_else(door: Gateway) -> None:
    tenant = Tenant(door)
    second_id, second = tenant.make_key()
    other = good(door, "POST", "projects", {"org": tenant.org, "name": "other"})["id"]
    third = good(door, "POST", "keys", {"project_id": other, "name": "k"})["key"]
    headers = {"authorization": f"Bearer {second}"}
    assert [served(door, key) for key in (tenant.key, second, third)] == [200] * 3
    large = chat_body("large", script("ok", tag=unique()), max_tokens=5)
    assert call(door.port, "POST", "/v1/chat/completions", large, headers)[0] == 200
    until(lambda: len(rows(door, tenant)) == 4)
    times = sorted(float(str(row["ts"])) for row in rows(door, tenant))

    def found(filters: str) -> int:
        """Count the rows in both formats, which must agree."""
        lines, table = (
            call(door.port, "GET", f"/admin/v1/usage/export{form}?org={quote(tenant.org)}{filters}", b"",
                 {"authorization": f"Bearer {ADMIN}"})[2].decode()
            for form in ("", ".csv")
        )  # fmt: skip
        ids = [json.loads(line)["request_id"] for line in lines.splitlines()]
        assert ids == [line["request_id"] for line in csv.DictReader(table.splitlines())]
        return len(set(ids))

    for filters, count in (
        ("", 4), ("&project=other", 1), ("&project=none", 0), (f"&key_id={second_id}", 2),
        (f"&key_id={second_id}&model=large", 1), ("&model=small", 3), ("&model=none", 0),
        (f"&from_s={times[1]!r}", 3), (f"&to_s={times[1]!r}", 1),
        (f"&from_s={times[1]!r}&to_s={times[3]!r}", 2),
    ):  # fmt: skip
        assert found(filters) == count, filters


def test_a_key_sees_its_own_usage_and_what_is_left(door: Gateway) -> None:
    tenant = Tenant(door, credit="prepaid")
    good(door, "POST", "credits", {"kind": "grant", "amount_usd": 1, "key_id": tenant.key_id})
    _, other = tenant.make_key()
    assert served(door, tenant.key) == 200
    until(lambda: len(rows(door, tenant)) == 1)

    def asked(key: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            call(door.port, "GET", "/v1/usage", b"", {"authorization": f"Bearer {key}"})[2]
        )
        return found

    own = asked(tenant.key)
    assert isinstance(own["data"], list)
    assert [(one["model"], one["requests"], one["cost_usd"]) for one in own["data"]] == [
        ("small", 1, COST / 1e9)
    ]
    assert own["balance_usd"] == (10**9 - COST) / 1e9
    assert asked(other) == {"object": "list", "data": [], "balance_usd": None}
    assert call(door.port, "GET", "/v1/usage", b"", {"authorization": "Bearer x"})[0] == 401


def test_a_tenant_sees_no_money_of_another(door: Gateway) -> None:
    tenant, other = Tenant(door), Tenant(door)
    good(door, "POST", "credits", {"kind": "grant", "amount_usd": 1, "org": other.org})
    _, admin = tenant.make_key(scopes=["admin"])
    assert good(door, "GET", "credits", key=admin)["data"] == []
    assert good(door, "GET", f"credits?org={quote(other.org)}", key=admin)["data"] == []
    for path in (
        f"balance?account=org:{quote(other.org)}",
        f"balance?account=key:{other.key_id}",
        f"usage/invoice?org={quote(other.org)}&month=2026-11",
    ):
        assert ask(door, "GET", path, key=admin)[0] == 404
    assert (
        ask(door, "POST", "credits", {"kind": "grant", "amount_usd": 1, "org": tenant.org}, key=admin)[0]
        == 403
    )
    assert good(door, "GET", f"usage?org={quote(other.org)}", key=admin)["data"] == []
