"""A tenant cannot read, list, guess or time another's data; a role cannot do more than its row says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.tenancy.access import ROLES, Caller
from tests.fakes.processes import until
from tests.integration.admin import Browser, Tenant, ask, change, chat, emptied, good, open_gateway
from tests.integration.gateway import Gateway, Upstreams, call, running, unique


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("isolation")
    url = f"sqlite:///{directory / 'gateway.db'}"
    if request.param == "postgresql":
        url = emptied(request.getfixturevalue("postgres"))
    upstreams = Upstreams(1)
    with running(open_gateway(directory, url, upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        yield gateway


@pytest.fixture(scope="module")
def pair(door: Gateway) -> tuple[Tenant, Tenant]:
    """Two tenants; the second has asked something, has a person, and is who must not be seen."""
    mine, other = Tenant(door), Tenant(door)
    assert chat(door, other.key, f"the secret of {other.org}")[0] == 200
    until(lambda: good(door, "GET", f"requests?key_id={other.key_id}")["data"] != [])
    return mine, other


def organisation_admins(tenant: Tenant) -> list[Any]:
    """Everything that an organisation can hold which administers it: a key, and people by role."""
    _, key = tenant.make_key(scopes=["admin"])
    by_key = lambda *request, **more: ask(tenant.gateway, *request, key=key, **more)  # noqa: E731  # one of several askers
    return [by_key, tenant.sign_in("owner").ask, tenant.sign_in("admin").ask]


def test_lists_hold_only_the_own_organisation(door: Gateway, pair: tuple[Tenant, Tenant]) -> None:
    mine, other = pair
    other.sign_in("viewer")
    hidden = (other.org, other.org_id, other.project_id, other.key_id)
    for asked in organisation_admins(mine):
        for path in ("orgs", "projects", "keys", "people", "audit", "requests"):
            for filters in ("", f"&org={other.org.replace(' ', '%20')}" if path != "audit" else ""):
                status, _, body = asked("GET", f"{path}?limit=200{filters}")
                assert status == 200
                assert not any(text in str(body) for text in hidden), path
    assert other.key_id in str(good(door, "GET", "keys?limit=200"))


def test_what_lies_outside_looks_like_what_is_not(pair: tuple[Tenant, Tenant]) -> None:
    """The same status and words for another's id as for one that never was, whatever is asked of it."""
    mine, other = pair
    theirs = {"orgs": other.org_id, "projects": other.project_id, "keys": other.key_id}
    for asked in organisation_admins(mine):
        for resource, their_id in theirs.items():
            never = their_id[:-20] + "0" * 20
            found = [_texts(asked("GET", f"{resource}/{one}"), one) for one in (their_id, never)]
            assert found[0] == found[1]
            assert found[0][0] == 404
        for verb in ("revoke", "rotate"):
            wish: dict[str, Any] | None = {} if verb == "rotate" else None
            found = [
                _texts(asked("POST", f"keys/{one}/{verb}", wish), one)
                for one in (other.key_id, "key_" + "0" * 20)
            ]
            assert found[0] == found[1]
            assert found[0][0] == 404
        for resource in ("projects", "keys"):
            status = asked("PATCH", f"{resource}/{theirs[resource]}", {}, if_match='"1"')[0]
            assert status == 404
        for path, body in (
            ("projects", {"org": other.org, "name": "mine now"}),
            ("keys", {"project_id": other.project_id, "name": "mine now"}),
        ):
            assert asked("POST", path, body)[0] == 404


def _texts(reply: tuple[int, dict[str, str], Any], asked_id: str) -> tuple[int, str]:
    return reply[0], str(reply[2]).replace(asked_id, "ID")


def test_an_organisation_cannot_raise_itself(door: Gateway, pair: tuple[Tenant, Tenant]) -> None:
    mine, _ = pair
    for asked in organisation_admins(mine):
        status, _, body = asked("PATCH", f"orgs/{mine.org_id}", {"terms": {"rpm": 10**9}}, if_match='"1"')
        assert (status, body["error"]["code"]) == (403, "not_permitted")
        for method, path in (
            ("POST", "orgs"),
            ("GET", "replicas"),
            ("POST", "config/reload"),
            ("POST", "replicas/small-0/drain"),
        ):
            status = asked(method, path, {"name": "x"} if path == "orgs" else None)[0]
            assert status == 403, path
        for terms in ({"band": "interactive"}, {"band": "interactive", "weight": 2.0}):
            key = {"project_id": mine.project_id, "name": "fast", "terms": terms}
            for method, path, body in (
                ("POST", "keys", key),
                ("POST", "projects", {"org": mine.org, "name": "fast", "terms": terms}),
                ("PATCH", f"keys/{mine.key_id}", {"terms": terms}),
                ("PATCH", f"projects/{mine.project_id}", {"terms": terms}),
            ):
                status, _, said = asked(method, path, body, if_match='"1"')
                assert (status, said["error"]["param"]) == (403, f"terms.{next(iter(terms))}"), path
    person = {"org": "*", "email": "x@y", "name": "x", "role": "owner", "password": "a long password"}
    assert mine.sign_in("owner").ask("POST", "people", person)[0] == 404


def test_a_usage_key_sees_what_it_used_itself(door: Gateway, pair: tuple[Tenant, Tenant]) -> None:
    tenant = Tenant(door)
    both = tenant.make_key(scopes=["inference", "usage"])
    for key in (tenant.key, both[1]):
        assert chat(door, key, unique())[0] == 200
    until(lambda: len(good(door, "GET", f"requests?org={tenant.org.replace(' ', '%20')}")["data"]) == 2)
    for filters in ("", f"?key_id={tenant.key_id}", f"?key_id={pair[1].key_id}"):
        found = good(door, "GET", f"requests{filters}", key=both[1])["data"]
        assert {row["key_id"] for row in found} <= {both[0]}
    assert len(good(door, "GET", "requests", key=both[1])["data"]) == 1


def test_cached_answers_are_shared_within_the_scope_and_no_further(door: Gateway) -> None:
    first, second = Tenant(door), Tenant(door)
    sibling = first.make_key()[1]
    prompt = unique()

    def cache(key: str) -> str:
        return chat(door, key, prompt)[1]["x-switchgear-cache"]

    assert [cache(key) for key in (first.key, first.key, sibling)] == ["miss", "hit-exact", "hit-exact"]
    assert cache(second.key) == "miss"
    prompt = unique()
    change(door, f"orgs/{first.org_id}", {"terms": {"cache_scope": "key"}})
    change(door, f"projects/{first.project_id}", {"terms": {"cache_scope": "organisation"}})
    assert [cache(key) for key in (first.key, sibling, first.key)] == ["miss", "miss", "hit-exact"]


def test_no_header_of_a_client_changes_who_it_is(door: Gateway, pair: tuple[Tenant, Tenant]) -> None:
    mine, other = pair
    prompt = f"the secret of {other.org}"
    claims = {"openai-organization": other.org, "openai-project": other.project_id, "x-tenant": other.org}
    status, headers, _ = chat(door, mine.key, prompt, **claims)
    assert (status, headers["x-switchgear-cache"]) == (200, "miss")
    until(lambda: good(door, "GET", f"requests?key_id={mine.key_id}")["data"] != [])
    assert {row["org"] for row in good(door, "GET", f"requests?key_id={mine.key_id}")["data"]} == {mine.org}


def test_what_a_request_left_behind_answers_others_as_if_it_were_not_there(
    door: Gateway, pair: tuple[Tenant, Tenant]
) -> None:
    """Request ids, streams, idempotency keys: the very bytes that an id gets which never was."""
    mine, other = pair
    prompt, key = unique(), unique()
    status, headers, _ = chat(door, other.key, prompt, **{"idempotency-key": key})
    assert status == 200
    request_id = headers["x-request-id"]

    def told(path: str, one: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        sent = {"authorization": f"Bearer {mine.key}", "content-type": "application/json"}
        data = b"" if body is None else json.dumps(body).encode()
        got = call(door.port, "GET" if body is None else "POST", path, data, sent)
        return got[0], got[2].decode().replace(one, "ID")

    never = "req_" + "0" * 32
    for one in (request_id, never):
        assert (
            told("/v1/feedback", one, {"request_id": one, "score": 0.0})[1].count('"quarantined":false') == 1
        )
    for path in ("/v1/streams/", "/v1/files/", "/v1/batches/", "/v1/responses/"):
        assert told(path + request_id, request_id) == told(path + never, never)
        assert told(path + never, never)[0] == 404
    again = chat(door, mine.key, prompt, **{"idempotency-key": key})
    assert (again[0], again[1]["x-switchgear-cache"]) == (200, "miss")
    assert again[1]["x-request-id"] != request_id
    assert chat(door, other.key, prompt)[1]["x-switchgear-cache"] == "hit-exact", "still kept for its own"


# ---------------------------------------------------------------- people
def test_each_role_may_do_what_its_row_says(door: Gateway) -> None:
    tenant = Tenant(door)
    person = {"org": tenant.org, "name": "x", "role": "viewer", "password": "a long password"}
    probes: dict[str, Any] = {
        "tenants.read": lambda: ("GET", "keys", None),
        "tenants.write": lambda: ("POST", "keys", {"project_id": tenant.project_id, "name": unique()}),
        "people.read": lambda: ("GET", "people", None),
        "people.write": lambda: ("POST", "people", {**person, "email": f"{unique()}@x.org"}),
        "audit.read": lambda: ("GET", "audit", None),
        "usage.read": lambda: ("GET", "requests", None),
        "orgs.write": lambda: ("POST", "orgs", {"name": unique()}),
        "fleet.read": lambda: ("GET", "replicas", None),
        "config.write": lambda: ("POST", "config/reload", None),
    }
    for role in ("owner", "admin", "billing", "viewer"):
        browser = tenant.sign_in(role)
        caller = Caller(actor="", role=role, org=tenant.org)
        assert browser.session["rights"] == sorted(
            one for one in ROLES[role] if caller.reach(one) is not None
        )
        for action, probe in probes.items():
            allowed = action in browser.session["rights"]
            assert (browser.ask(*probe())[0] in (200, 201)) == allowed, (role, action)


def test_a_session_is_a_cookie_that_scripts_cannot_read_and_changes_need_the_token(door: Gateway) -> None:
    tenant = Tenant(door)
    owner = tenant.sign_in("owner")
    assert owner.attributes["httponly"]
    assert owner.attributes["samesite"] == "strict"
    assert "secure" not in owner.attributes
    body = {"project_id": tenant.project_id, "name": "k"}
    for token in ("", "wrong", tenant.sign_in("owner").session["csrf_token"]):
        status, _, answer = owner.ask("POST", "keys", body, x_csrf_token=token)
        assert (status, answer["error"]["code"]) == (403, "not_permitted")
    assert owner.ask("POST", "keys", body)[0] == 201
    assert owner.ask("GET", "session")[2]["csrf_token"] == owner.session["csrf_token"]
    assert owner.ask("DELETE", "session")[0] == 204
    assert owner.ask("GET", "session")[0] == 401
    assert tenant.make_key()[0]


def test_over_tls_the_cookie_is_for_tls_only(door: Gateway) -> None:
    owner = Tenant(door).sign_in("owner")
    headers = ask(door, "POST", "session", owner.who, key=None, x_forwarded_proto="https")[1]
    assert "Secure" in headers["set-cookie"]


def test_a_form_of_another_site_cannot_sign_in(door: Gateway) -> None:
    owner = Tenant(door).sign_in("owner")
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert _post(door, "session", owner.who, kind) == 400


def _post(door: Gateway, path: str, body: dict[str, str], kind: str) -> int:
    return door.call("POST", f"/admin/v1/{path}", json.dumps(body).encode(), {"content-type": kind})[0]


def test_a_password_is_guessed_five_times_and_no_more(door: Gateway) -> None:
    owner = Tenant(door).sign_in("owner")
    wrong = {**owner.who, "password": "not this one"}
    unknown = {**wrong, "email": f"{unique()}@example.com"}
    replies = {}
    for name, who in (("known", wrong), ("unknown", unknown)):
        replies[name] = [ask(door, "POST", "session", who, key=None) for _ in range(7)]
    for found in replies.values():
        assert [status for status, _, _ in found] == [401] * 5 + [429] * 2
        assert int(found[-1][1]["retry-after"]) > 0
    known, unknown_ones = ([str(body) for _, _, body in found] for found in replies.values())
    assert known == unknown_ones
    assert ask(door, "POST", "session", owner.who, key=None)[0] == 429
    assert owner.ask("GET", "session")[0] == 200  # who is in already stays in


def test_the_same_address_may_belong_to_two_organisations(door: Gateway) -> None:
    first, second = Tenant(door), Tenant(door)
    for number, tenant in enumerate((first, second)):
        person = {"org": tenant.org, "email": "both@example.com", "name": "B", "role": "viewer"}
        good(door, "POST", "people", {**person, "password": f"long password {number}"})
    for number, tenant in enumerate((first, second)):
        who = {"org": tenant.org, "email": "Both@Example.com", "password": f"long password {number}"}
        assert Browser(door, who).session["org"] == tenant.org
        assert (
            ask(door, "POST", "session", {**who, "password": f"long password {1 - number}"}, key=None)[0]
            == 401
        )


@pytest.mark.parametrize(
    "wish", [{"password": "another long password"}, {"disabled": True}, {"role": "viewer"}], ids=str
)
def test_what_changes_an_account_ends_its_sessions(door: Gateway, wish: dict[str, Any]) -> None:
    tenant = Tenant(door)
    owner = tenant.sign_in("owner")
    person_id = owner.session["actor"].removeprefix("person:")
    change(door, f"people/{person_id}", wish)
    assert owner.ask("GET", "session")[0] == 401
    status = ask(door, "POST", "session", owner.who, key=None)[0]
    assert status == (201 if "role" in wish else 401)


def test_somebody_changes_the_own_password(door: Gateway) -> None:
    viewer = Tenant(door).sign_in("viewer")
    wish = {"password": "wrong password", "new_password": "a new long password"}
    assert viewer.ask("POST", "session/password", wish)[0] == 401
    assert viewer.ask("POST", "session/password", {**wish, "password": viewer.who["password"]})[0] == 204
    assert viewer.ask("GET", "session")[0] == 401
    Browser(door, {**viewer.who, "password": wish["new_password"]})
    status, _, body = ask(door, "POST", "session/password", wish)
    assert (status, body["error"]["code"]) == (403, "not_permitted")


def test_people_of_the_installation_reach_everything_that_their_role_may(door: Gateway) -> None:
    tenant = Tenant(door)
    person = {"org": "*", "email": f"{unique()}@x.org", "name": "Op", "role": "viewer"}
    good(door, "POST", "people", {**person, "password": "a long password"})
    browser = Browser(door, {"email": person["email"], "password": "a long password"})
    assert tenant.key_id in str(browser.ask("GET", f"keys/{tenant.key_id}")[2])
    assert browser.ask("GET", "replicas")[0] == 200
    assert browser.ask("POST", "orgs", {"name": unique()})[0] == 403
