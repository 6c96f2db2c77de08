"""The admin API through the real door, on both databases: tenants, keys, versions, pages, the audit log."""

import time
from collections.abc import Iterator

import pytest

from gateway import database
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, Tenant, ask, change, chat, emptied, good, models, open_gateway
from tests.integration.gateway import Gateway, Upstreams, call, running, unique


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with an admin key."""
    directory = tmp_path_factory.mktemp("admin")
    url = f"sqlite:///{directory / 'gateway.db'}"
    if request.param == "postgresql":
        url = emptied(request.getfixturevalue("postgres"))
    upstreams = Upstreams(1)
    with running(open_gateway(directory, url, upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        yield gateway


LISTS = ["orgs", "projects", "keys", "people", "audit", "requests", "models", "routes", "replicas"]


@pytest.mark.parametrize("path", [*LISTS, "session", "orgs/o", "keys/k", "projects/p", "people/p"])
def test_without_the_admin_key_there_is_nothing(door: Gateway, path: str) -> None:
    for key in (None, "", "wrong", ADMIN[:-1], ADMIN + "a", "é"):
        headers = (
            {} if key is None else {"authorization": f"Bearer {key}".encode("latin-1").decode("latin-1")}
        )
        status, _, body = call(door.port, "GET", f"/admin/v1/{path}", headers=headers)
        assert (status, b"invalid_api_key" in body) == (401, True)


@pytest.mark.parametrize("path", LISTS)
def test_every_list_has_one_shape(door: Gateway, path: str) -> None:
    found = good(door, "GET", path)
    assert set(found) == {"data", "next"}


def test_from_an_organisation_to_an_answer_and_its_end(door: Gateway) -> None:
    tenant = Tenant(door)
    status, _, answer = chat(door, tenant.key)
    assert (status, answer["model"]) == (200, "small")
    (shown,) = good(door, "GET", f"keys?project=chat&org={tenant.org.replace(' ', '%20')}")["data"]
    assert (shown["id"], shown["org"], shown["revoked_s"]) == (tenant.key_id, tenant.org, None)
    assert shown["prefix"] == tenant.key[:10]
    assert not {"key", "sha256", "previous_sha256"} & set(shown)

    until(lambda: len(good(door, "GET", f"requests?key_id={tenant.key_id}")["data"]) == 1)
    (row,) = good(door, "GET", f"requests?key_id={tenant.key_id}")["data"]
    assert (row["org"], row["project"], row["status"]) == (tenant.org, "chat", "ok")

    revoked = good(door, "POST", f"keys/{tenant.key_id}/revoke")
    assert revoked["revoked_s"] > 0
    assert chat(door, tenant.key)[0] == 401
    assert good(door, "POST", f"keys/{tenant.key_id}/revoke") == revoked


def test_a_key_is_shown_once_and_never_written_down(door: Gateway) -> None:
    tenant = Tenant(door)
    for path in ("keys", f"keys/{tenant.key_id}", "audit"):
        assert tenant.key not in str(good(door, "GET", path))
    for file in door.directory.rglob("*"):
        assert file.is_dir() or tenant.key.encode() not in file.read_bytes()


def test_a_rotated_key_counts_by_both_texts_and_then_by_the_new_one(door: Gateway) -> None:
    tenant = Tenant(door)
    rotated = good(door, "POST", f"keys/{tenant.key_id}/rotate", {"overlap_s": 3600})
    assert rotated["id"] == tenant.key_id
    assert [models(door, key) for key in (tenant.key, rotated["key"])] == [200, 200]
    again = good(door, "POST", f"keys/{tenant.key_id}/rotate", {"overlap_s": 0})
    assert [models(door, key) for key in (tenant.key, rotated["key"], again["key"])] == [401, 401, 200]


def test_an_expired_key_is_unknown(door: Gateway) -> None:
    tenant = Tenant(door)
    change(door, f"keys/{tenant.key_id}", {"expires_s": time.time() - 1})
    assert models(door, tenant.key) == 401
    change(door, f"keys/{tenant.key_id}", {"expires_s": None})
    assert models(door, tenant.key) == 200


def test_scopes_are_kept_apart(door: Gateway) -> None:
    tenant = Tenant(door)
    usage, admin = (tenant.make_key(scopes=[scope])[1] for scope in ("usage", "admin"))
    for key in (usage, admin):
        status, _, body = chat(door, key)
        assert (status, body["error"]["code"]) == (403, "not_permitted")
    assert ask(door, "GET", "requests", key=usage)[0] == 200
    assert ask(door, "GET", "keys", key=usage)[0] == 403
    assert ask(door, "GET", "keys", key=tenant.key)[0] == 401


def test_terms_of_all_levels_bind_the_next_request(door: Gateway) -> None:
    tenant = Tenant(door)
    change(door, f"orgs/{tenant.org_id}", {"terms": {"models": ["small"]}})
    assert [chat(door, tenant.key, name=name)[0] for name in ("small", "large")] == [200, 403]
    change(door, f"projects/{tenant.project_id}", {"terms": {"models": ["large"]}})
    assert [chat(door, tenant.key, name=name)[0] for name in ("small", "large")] == [403, 403]
    change(door, f"orgs/{tenant.org_id}", {"terms": {"models": None}})
    assert [chat(door, tenant.key, name=name)[0] for name in ("small", "large")] == [403, 200]


def test_a_whole_number_is_whole_however_it_is_written(door: Gateway) -> None:
    """JSON has one kind of number; what is not whole, or a text, is refused by name all the same."""
    tenant = Tenant(door, rpm=5.0, end_user={"tpm": 1e3})
    terms = good(door, "GET", f"keys/{tenant.key_id}")["terms"]
    assert terms == {"rpm": 5, "end_user": {"tpm": 1000}}
    for bad in (5.5, "5", True):
        body = {"project_id": tenant.project_id, "name": "k", "terms": {"rpd": 2.0, "rpm": bad}}
        status, _, said = ask(door, "POST", "keys", body)
        assert (status, said["error"]["param"]) == (400, "terms.rpm")


def test_complaint_18_a_budget_that_is_posted_is_given_back_and_binds_the_next_request(door: Gateway) -> None:
    terms = {"budget_nanousd": 1, "budget_period": "day"}
    tenant = Tenant(door, **terms)
    assert good(door, "GET", f"keys/{tenant.key_id}")["terms"] == terms
    status, _, body = chat(door, tenant.key, unique())
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    change(door, f"keys/{tenant.key_id}", {"terms": {"budget_nanousd": 10**12}})
    assert chat(door, tenant.key, unique())[0] == 200


def test_complaint_17_where_no_budget_is_configured_none_is_exceeded(door: Gateway) -> None:
    tenant = Tenant(door)
    assert good(door, "GET", f"keys/{tenant.key_id}")["terms"] == {}
    assert {chat(door, tenant.key, unique())[0] for _ in range(20)} == {200}


@pytest.mark.parametrize("resource", ["orgs", "projects", "keys", "people"])
def test_a_change_needs_the_version_that_it_is_over(door: Gateway, resource: str) -> None:
    tenant = Tenant(door)
    made = {
        "orgs": tenant.org_id,
        "projects": tenant.project_id,
        "keys": tenant.key_id,
        "people": _person(door, tenant)["id"],
    }
    path = f"{resource}/{made[resource]}"
    field = "title" if resource in ("orgs", "projects") else "name"
    etag = ask(door, "GET", path)[1]["etag"]
    status, _, body = ask(door, "PATCH", path, {field: "new"})
    assert (status, body["error"]["code"], body["error"]["param"]) == (
        428,
        "precondition_required",
        "if-match",
    )
    status, headers, body = ask(door, "PATCH", path, {field: "new"}, if_match=etag)
    assert (status, body[field]) == (200, "new")
    assert headers["etag"] not in ("", etag)
    assert headers["etag"] == ask(door, "GET", path)[1]["etag"]
    status, _, body = ask(door, "PATCH", path, {field: "lost"}, if_match=etag)
    assert (status, body["error"]["code"]) == (412, "precondition_failed")
    assert ask(door, "PATCH", path, {field: "lost"}, if_match="W/x")[0] == 400
    assert good(door, "GET", path)[field] == "new"


def _person(door: Gateway, tenant: Tenant) -> dict[str, str]:
    person = {"org": tenant.org, "email": f"{unique()}@x.org", "name": "P", "role": "viewer"}
    made: dict[str, str] = good(door, "POST", "people", {**person, "password": "a long password"})
    return made


def test_pages_are_whole_and_without_repetition_while_rows_come(door: Gateway) -> None:
    tenant = Tenant(door)
    wanted = [tenant.key_id] + [tenant.make_key(name=f"k{number}")[0] for number in range(6)]
    path = f"keys?limit=3&org={tenant.org.replace(' ', '%20')}"
    found, cursor, pages = [], "", 0
    while True:
        page = good(door, "GET", f"{path}&cursor={cursor}" if cursor else path)
        found += [one["id"] for one in page["data"]]
        pages += 1
        if pages == 1:
            wanted.append(tenant.make_key(name="late")[0])
        cursor = page["next"]
        if cursor is None:
            break
    assert found == wanted
    assert pages == 3


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "orgs", {"name": "a/b"}, "name"),
        ("POST", "orgs", {"name": "*"}, "name"),
        ("POST", "orgs", {"name": ""}, "name"),
        ("POST", "orgs", {}, "name"),
        ("POST", "orgs", {"name": "x", "terms": {"rpm": 0}}, "terms.rpm"),
        ("POST", "orgs", {"name": "x", "terms": {"rpm": 2**53 + 1}}, "terms.rpm"),
        ("POST", "orgs", {"name": "x", "terms": {"end_user": {"tpm": "x"}}}, "terms.end_user.tpm"),
        ("POST", "orgs", {"name": "x", "terms": {"rpm": "5"}}, "terms.rpm"),
        ("POST", "orgs", {"name": "x", "terms": {"rpm": True}}, "terms.rpm"),
        ("POST", "orgs", {"name": "x", "terms": {"end_user": {"tpm": "5"}}}, "terms.end_user.tpm"),
        ("POST", "orgs", {"name": 7}, "name"),
        ("POST", "credits", {"kind": "grant", "org": "x", "amount_usd": "5"}, "amount_usd"),
        ("POST", "orgs", {"name": "x", "terms": {"rpx": 1}}, "terms.rpx"),
        ("POST", "orgs", {"name": "x", "colour": 1}, "colour"),
        ("POST", "projects", {"org": "nobody", "name": "x"}, "org"),
        ("POST", "keys", {"project_id": "p", "name": "x", "scopes": []}, "scopes"),
        ("POST", "keys", {"project_id": "p"}, "name"),
        ("GET", "orgs?limit=0", None, "limit"),
        ("GET", "orgs?limit=201", None, "limit"),
        ("GET", "orgs?cursor=eyJ9", None, "cursor"),
        ("GET", "keys?org=%00", None, "org"),
        ("GET", "models?cursor=nonsense", None, "cursor"),
    ],
)  # fmt: skip
def test_an_error_names_the_field(door: Gateway, method: str, path: str, body: object, param: str) -> None:
    status, _, answer = ask(door, method, path, body)
    assert status in (400, 404)
    assert answer["error"]["param"] == param, answer


def test_names_are_given_once(door: Gateway) -> None:
    tenant = Tenant(door)
    for path, body in (
        ("orgs", {"name": tenant.org}),
        ("projects", {"org": tenant.org, "name": "chat"}),
    ):
        status, headers, answer = ask(door, "POST", path, body)
        assert (status, answer["error"]["param"], headers["x-should-retry"]) == (409, "name", "false")


def test_the_audit_log_has_every_change_with_before_and_after_and_no_secret(door: Gateway) -> None:
    tenant = Tenant(door, rpm=100)
    change(door, f"keys/{tenant.key_id}", {"terms": {"rpm": 200}})
    good(door, "POST", f"keys/{tenant.key_id}/rotate", {"overlap_s": 60})
    good(door, "POST", f"keys/{tenant.key_id}/revoke")
    lines = good(door, "GET", f"audit?subject={tenant.key_id}")["data"]
    assert [line["action"] for line in lines] == ["key.revoke", "key.rotate", "key.change", "key.create"]
    assert {line["actor"] for line in lines} == {"admin-key"}
    changed = lines[2]
    assert (changed["before"]["terms"], changed["after"]["terms"]) == ({"rpm": 100}, {"rpm": 200})
    assert lines[3]["before"] is None
    assert "sha256" not in str(lines)
    person = _person(door, tenant)
    change(door, f"people/{person['id']}", {"password": "another long password"})
    line = good(door, "GET", f"audit?subject={person['id']}")["data"][0]
    assert line["after"]["password"] == "changed"
    assert "argon2" not in str(line)


def test_a_key_of_the_file_can_only_be_revoked(door: Gateway) -> None:
    (own,) = good(door, "GET", "keys?org=default&name=test")["data"]
    etag = ask(door, "GET", f"keys/{own['id']}")[1]["etag"]
    assert ask(door, "PATCH", f"keys/{own['id']}", {"name": "x"}, if_match=etag)[0] == 409
    status, _, body = ask(door, "POST", f"keys/{own['id']}/rotate", {})
    assert (status, "configuration file" in body["error"]["message"]) == (409, True)


def test_what_is_served_can_be_read_and_a_replica_drained(door: Gateway) -> None:
    assert [one["name"] for one in good(door, "GET", "models")["data"]] == ["large", "small"]
    first = good(door, "GET", "replicas?limit=1")
    assert [one["id"] for one in first["data"]] == ["large-0"]
    assert [one["id"] for one in good(door, "GET", f"replicas?cursor={first['next']}")["data"]] == ["small-0"]
    assert good(door, "POST", "replicas/large-0/drain")["phase"] == "draining"
    good(door, "POST", "replicas/large-0/resume")
    until(door.ready)
    assert ask(door, "POST", "replicas/nothing/drain")[0] == 404
    for verb in ("sleep", "wake"):
        assert ask(door, "POST", f"replicas/nothing/{verb}")[0] == 404
    assert ask(door, "POST", "replicas/nothing/reclaim", {})[0] == 404
    assert ask(door, "POST", "models/nothing/scale", {"replicas": 1})[0] == 404
    assert ask(door, "POST", "models/large/scale", {"replicas": 1})[0] == 409
    assert ask(door, "POST", "models/large/scale", {"replicas": -1})[0] == 400
    assert good(door, "POST", "replicas/large-0/reclaim", {"notice_s": 5})["phase"] in ("draining", "stopped")
    until(lambda: good(door, "POST", "replicas/large-0/wake")["phase"] in ("waiting", "ready"))


def test_the_latest_requests_of_a_replica_are_told_and_those_of_no_route_are_none(door: Gateway) -> None:
    until(door.ready)
    tenant = Tenant(door)
    replies = {one: chat(door, tenant.key, unique(), one) for one in ("small", "large")}
    assert [status for status, _, _ in replies.values()] == [200, 200]
    sent = {one: headers["x-request-id"] for one, (_, headers, _) in replies.items()}

    def served(replica: str) -> list[str]:
        path = f"requests/latest?seen=served&replica={replica}&limit=200"
        return [row["request_id"] for row in good(door, "GET", path)["data"]]

    until(lambda: sent["small"] in served("small-0") and sent["large"] in served("large-0"))
    assert sent["large"] not in served("small-0")
    assert served("nothing") == []
    assert ask(door, "GET", "requests/latest?seen=lost")[0] == 400
    assert good(door, "GET", "requests?route=never") == {"data": [], "next": None}


def test_the_file_is_read_again_and_a_bad_one_changes_nothing(door: Gateway) -> None:
    before = door.config.read_text()
    try:
        door.write(before + "\n[nonsense]\n")
        status, _, body = ask(door, "POST", "config/reload")
        assert (status, "nonsense" in body["error"]["message"]) == (400, True)
        door.write(before.replace('name = "large"', 'name = "huge"'))
        now = good(door, "POST", "config/reload")
        assert (now["models"], now["waiting"]) == (["small", "huge"], [])
        door.write(before + "\n[streams]\ntotal_bytes = 1000000\n")
        assert good(door, "POST", "config/reload")["waiting"] == ["streams.total_bytes"]
    finally:
        door.write(before)
        assert good(door, "POST", "config/reload")["models"] == ["small", "large"]
    until(door.ready)
    assert good(door, "GET", "audit?action=config.reload")["data"][0]["after"]["models"] == ["small", "large"]


def test_a_gateway_without_an_admin_key_answers_401_to_everything(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("keyless")
    upstreams = Upstreams(1)
    url = f"sqlite:///{directory / 'gateway.db'}"
    with running(open_gateway(directory, url, upstreams, SWITCHGEAR_ADMIN_KEY=""), upstreams) as (gateway, _):
        for key in ("", ADMIN, None):
            assert ask(gateway, "GET", "orgs", key=key)[0] == 401


def test_what_an_older_gateway_left_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An upgrade: the schema of before, with a key in it; the new gateway serves it with its limits."""
    directory = tmp_path_factory.mktemp("older")
    url = f"sqlite:///{directory / 'gateway.db'}"
    engine = database.connect(url)
    database.migrate(engine, "0001")
    digest = "a5a9ff2ad5ecc1c9bee9ee3ea5dcbbf9c1d1cdbbb0c2dbbd0a39e1c9f45aa0e1"
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO organisations (id, name, created_s) VALUES ('o', 'old', 1)")
        connection.exec_driver_sql(
            "INSERT INTO projects (id, organisation_id, name, created_s) VALUES ('p', 'o', 'chat', 1)"
        )
        connection.exec_driver_sql(
            "INSERT INTO api_keys (id, project_id, name, prefix, sha256, origin, created_s, rpm, "
            "floor_nanousd, band, models) "
            f"VALUES ('key_old', 'p', 'n', '', '{digest}', 'cli', 1, 7, 0, 'batch', '[]')"
        )
    engine.dispose()
    upstreams = Upstreams(1)
    with running(open_gateway(directory, url, upstreams), upstreams) as (gateway, _):
        found = good(gateway, "GET", "keys/key_old")
        assert (found["org"], found["terms"]) == ("old", {"rpm": 7, "floor_nanousd": 0, "band": "batch"})


def test_the_file_is_changed_through_the_door_and_taken_back(door: Gateway) -> None:
    first = good(door, "GET", "config")
    assert (first["read_only"], first["waiting"], first["finding"]) == (None, [], None)
    text = first["text"].replace('name = "large"', 'name = "huge"')
    trial = good(door, "POST", "config/trial", {"text": text})
    assert (trial["finding"], "+name" in trial["diff"]) == (None, True)
    assert "models.huge" in trial["changed"]
    assert ask(door, "PUT", "config", {"text": text, "over": "another"})[0] == 412
    status, _, body = ask(door, "PUT", "config", {"text": text + "[nonsense]\n", "over": first["digest"]})
    assert (status, "nonsense" in body["error"]["message"]) == (400, True)
    applied = good(door, "PUT", "config", {"text": text, "over": first["digest"]})
    assert (applied["text"], door.config.read_text()) == (text, text)
    assert [one["name"] for one in good(door, "GET", "models")["data"]] == ["huge", "small"]
    earlier = applied["earlier"][0]["id"]
    assert good(door, "GET", f"config/earlier/{earlier}")["text"] == first["text"]
    assert ask(door, "POST", "config/rollback", {"id": "none", "over": applied["digest"]})[0] == 404
    back = good(door, "POST", "config/rollback", {"id": earlier, "over": applied["digest"]})
    assert back["text"] == first["text"]
    until(door.ready)
    [line] = good(door, "GET", "audit?action=config.rollback")["data"]
    assert "models.huge" in line["after"]["changed"]
    managed = first["text"].replace("[server]\n", "[server]\nmanaged_config = true\n")
    assert managed != first["text"]
    good(door, "PUT", "config", {"text": managed, "over": first["digest"]})
    shown = good(door, "GET", "config")
    assert "managed_config" in shown["read_only"]
    assert ask(door, "PUT", "config", {"text": text, "over": shown["digest"]})[0] == 409
    door.write(first["text"])
    good(door, "POST", "config/reload")
    until(door.ready)


def test_plan_and_books_are_looked_at_through_the_door(door: Gateway) -> None:
    plans = good(door, "GET", "plan")["data"]
    assert [(one["model"], one["fits"], len(one["attached"])) for one in plans] == [
        ("small", True, 1),
        ("large", True, 1),
    ]
    found = good(door, "GET", "ledger/reconcile")
    assert found["well"] is True, found
