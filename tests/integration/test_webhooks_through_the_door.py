"""Alerts as a customer's own server sees them: two gateway processes, one database, one receiver."""

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.receiver import CUT, HANG, Message, Receiver, documented_verify
from tests.fakes.upstream import script
from tests.integration.admin import ADMIN, Tenant, ask, good, models
from tests.integration.gateway import Gateway, Upstreams, config, model, running, unique

FULL = 4 * 1000 + 3 * 500 + 5 * 2000  # what a chat costs, in nano-dollars
BUDGET = 40 * FULL
SECRET = "master-" + "s" * 40
verify = documented_verify()


class House:
    def __init__(self, gateways: list[Gateway], receiver: Receiver) -> None:
        self.gateways, self.receiver = gateways, receiver

    def webhook(self, org: str, url: str) -> Any:
        return good(self.gateways[0], "POST", "webhooks", {"org": org, "url": url})

    def ping(self, webhook: Any, gateway: int = 0) -> str:
        status, _, made = ask(self.gateways[gateway], "POST", f"webhooks/{webhook['id']}/ping")
        assert status == 202, made
        found: str = made["id"]
        return found

    def delivery(self, webhook: Any, message_id: str) -> Any:
        page = good(self.gateways[0], "GET", f"webhooks/{webhook['id']}/deliveries")
        (found,) = [one for one in page["data"] if one["id"] == message_id]
        return found

    def spend(self, tenant: Tenant, chats: int) -> None:
        for number in range(chats):
            gateway = self.gateways[number % len(self.gateways)]
            until(lambda gateway=gateway: models(gateway, tenant.key) == 200)  # type: ignore[misc]  # bound now
            status, _, body = self.chat(tenant, gateway)
            assert status == 200, body

    def chat(self, tenant: Tenant, gateway: Gateway) -> tuple[int, dict[str, str], bytes]:
        headers = {"authorization": f"Bearer {tenant.key}"}
        return gateway.chat("small", script("ok"), max_tokens=8, headers=headers)

    def restart(self, number: int) -> None:
        assert self.gateways[number].stop() == 0
        self.gateways[number].start()
        until(self.gateways[number].ready)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    upstreams = Upstreams(1)
    shared = tmp_path_factory.mktemp("shared") / "gateway.db"
    environ = {"SWITCHGEAR_ADMIN_KEY": ADMIN, "SWITCHGEAR_WEBHOOK_SECRET": SECRET}
    gateways = []
    for _ in range(2):
        directory = tmp_path_factory.mktemp("gateway")
        more = "[webhooks]\nallow_private = true"
        text = config(model("small", upstreams.ports), directory=directory, more=more)
        text = text.replace(str(directory / "gateway.db"), str(shared))
        gateways.append(Gateway(directory, text, **environ))
    with running(gateways[1], upstreams), running(gateways[0], upstreams), Receiver().open() as receiver:
        for one in gateways:
            until(one.ready)
        yield House(gateways, receiver)


def thresholds(messages: list[Message]) -> Counter[tuple[str, int]]:
    return Counter(
        (one.content["data"]["account"], one.content["data"]["threshold_percent"]) for one in messages
    )


def test_each_threshold_is_told_once_by_two_processes_and_not_again_after_a_restart(house: House) -> None:
    tenant = Tenant(house.gateways[0], budget_nanousd=BUDGET)
    path = f"/{unique()}"
    webhook = house.webhook(tenant.org, house.receiver.url(path))
    wanted = Counter({(f"key:{tenant.key_id}", 50): 1, (f"key:{tenant.key_id}", 80): 1})

    def told() -> list[Message]:
        return house.receiver.at(path, "budget.threshold")

    house.spend(tenant, 36)
    until(lambda: len(told()) >= 2, 90.0)
    assert thresholds(told()) == wanted
    for one in told():
        verify(webhook["secret"], one.headers, one.body)
        assert one.headers["content-type"] == "application/json"
        data = one.content["data"]
        assert (data["org"], data["project"], data["limit_nanousd"]) == (tenant.org, "chat", BUDGET)
        assert data["used_nanousd"] >= BUDGET * data["threshold_percent"] // 100
    listed = good(house.gateways[1], "GET", f"alerts?key_id={tenant.key_id}")["data"]
    assert sorted(one["threshold_percent"] for one in listed) == [50, 80]
    house.restart(0)
    house.restart(1)
    after = Tenant(house.gateways[1], budget_nanousd=BUDGET)
    other = house.webhook(after.org, house.receiver.url(f"{path}-after"))
    house.spend(after, 24)
    until(lambda: bool(house.receiver.at(f"{path}-after", "budget.threshold")), 90.0)
    house.ping(webhook)
    until(lambda: bool(house.receiver.at(path, "ping")), 90.0)
    assert thresholds(told()) == wanted, "who looked again told nothing again"
    (message,) = house.receiver.at(f"{path}-after")
    verify(other["secret"], message.headers, message.body)
    with pytest.raises(ValueError, match="not signed"):
        verify(webhook["secret"], message.headers, message.body)


@pytest.mark.parametrize("stream", [False, True])
def test_who_is_refused_for_the_budget_has_been_told_that_it_is_used_up(house: House, stream: bool) -> None:
    """The last rest is too little for any request, and is never spent: that is 100 % too."""
    gateway, budget = house.gateways[0], 2 * BUDGET + 7
    tenant = Tenant(gateway, budget_nanousd=budget)
    path = f"/{unique()}"
    webhook = house.webhook(tenant.org, house.receiver.url(path))
    headers = {"authorization": f"Bearer {tenant.key}"}
    prompt = script("ok", n=3000, gap_s=0.001) if stream else script("ok")
    most = {} if stream else {"max_tokens": 8}

    def refused() -> bool:
        status, _, body = gateway.chat("small", prompt, headers=headers, stream=stream, **most)
        assert status == 200 or b"insufficient_quota" in body
        return status == 429 or b'"stop_reason"' in body

    until(refused, 60.0)
    until(lambda: len(house.receiver.at(path, "budget.threshold")) >= 3, 90.0)
    account = f"key:{tenant.key_id}"
    assert thresholds(house.receiver.at(path)) == Counter({(account, one): 1 for one in (50, 80, 100)})
    for one in house.receiver.at(path):
        verify(webhook["secret"], one.headers, one.body)
        data = one.content["data"]
        assert min(data["threshold_percent"], 80) * budget <= 100 * data["used_nanousd"] <= 100 * budget


def test_a_receiver_that_fails_or_redirects_is_tried_again_with_the_same_id(house: House) -> None:
    tenant, path = Tenant(house.gateways[0]), f"/{unique()}"
    webhook = house.webhook(tenant.org, house.receiver.url(path))
    house.receiver.script[path] = [500, 302]
    name = house.ping(webhook, 1)
    until(lambda: house.delivery(webhook, name)["state"] == "delivered", 90.0)
    messages = house.receiver.at(path)
    assert [one.headers["webhook-id"] for one in messages] == [name] * 3
    for one in messages:
        verify(webhook["secret"], one.headers, one.body)
    assert house.receiver.at("/elsewhere") == []
    found = house.delivery(webhook, name)
    assert (found["attempts"], found["last_status"], found["last_error"]) == (3, 204, "")


def test_a_receiver_that_is_down_gets_its_messages_when_it_is_up(house: House) -> None:
    tenant, down = Tenant(house.gateways[0]), Receiver()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down.port = taken.getsockname()[1]
    webhook = house.webhook(tenant.org, down.url("/x"))
    name = house.ping(webhook)
    assert ask(house.gateways[1], "POST", f"webhooks/{webhook['id']}/ping")[0] == 409
    until(lambda: house.delivery(webhook, name)["last_error"] == "the connection failed", 90.0)
    assert house.delivery(webhook, name)["state"] == "pending"
    with down.open():
        until(lambda: house.delivery(webhook, name)["state"] == "delivered", 90.0)
        (message,) = down.messages
    verify(webhook["secret"], message.headers, message.body)
    assert message.content["type"] == "ping"


@pytest.mark.soak
def test_whatever_a_receiver_does_its_messages_come_once_it_is_well_and_nobody_waits_for_it(
    house: House,
) -> None:
    """It hangs until the time-out, hangs up, fails, refuses connections; a neighbour hears at once."""
    tenant, other = (Tenant(house.gateways[0], budget_nanousd=BUDGET) for _ in range(2))
    path, bad = f"/{unique()}", Receiver()
    with bad.open():
        bad.script[path] = [HANG, CUT, 500, 503, 404]
        webhook = house.webhook(tenant.org, bad.url(path))
        neighbour = house.webhook(other.org, house.receiver.url(path))
        name = house.ping(webhook)
        until(lambda: len(bad.at(path)) == 1, 60.0)
        told = house.ping(neighbour)
        until(lambda: house.delivery(neighbour, told)["state"] == "delivered", 60.0)
        assert house.delivery(webhook, name)["state"] == "pending", "the other still hangs"
        until(lambda: len(bad.at(path)) >= 4, 120.0)
    house.spend(tenant, 24)
    until(lambda: house.delivery(webhook, name)["last_error"] == "the connection failed", 120.0)
    with bad.open():
        until(lambda: house.delivery(webhook, name)["state"] == "delivered", 300.0)
        until(lambda: bool(bad.at(path, "budget.threshold")), 300.0)
    pings = bad.at(path, "ping")
    assert {one.headers["webhook-id"] for one in pings} == {name}
    times = [int(one.headers["webhook-timestamp"]) for one in pings]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[-1] >= 8 > gaps[0] - 10, "later and later; the first gap has the time-out in it"
    for one in bad.messages:
        verify(webhook["secret"], one.headers, one.body, now_s=int(one.headers["webhook-timestamp"]))
        assert one.content["data"].get("org", tenant.org) == tenant.org
    assert [one.content["type"] for one in house.receiver.at(path)] == ["ping"]


def test_webhooks_are_for_who_administers_the_organisation(house: House) -> None:
    gateway = house.gateways[0]
    own, other = Tenant(gateway), Tenant(gateway)
    _, admin = own.make_key(scopes=["admin"])
    _, stranger = other.make_key(scopes=["admin"])
    body = {"org": own.org, "url": house.receiver.url("/rights")}
    assert ask(gateway, "POST", "webhooks", body, key=stranger)[0] == 404
    status, headers, made = ask(gateway, "POST", "webhooks", body, key=admin)
    assert (status, headers["cache-control"]) == (201, "no-store")
    one = f"webhooks/{made['id']}"
    assert ask(gateway, "POST", "webhooks", body, key=admin)[0] == 409
    for method, path in (("DELETE", one), ("POST", f"{one}/ping"), ("GET", f"{one}/deliveries")):
        assert ask(gateway, method, path, key=stranger)[0] == 404
        assert ask(gateway, method, path, key=own.key)[0] == 401
    assert good(gateway, "GET", "webhooks", key=stranger)["data"] == []
    (listed,) = good(gateway, "GET", "webhooks", key=admin)["data"]
    assert "secret" not in listed
    assert good(gateway, "GET", f"alerts?org={own.org.replace(' ', '%20')}", key=stranger)["data"] == []
    viewer = own.sign_in("viewer")
    assert viewer.ask("GET", "webhooks")[0] == 403
    assert viewer.ask("GET", "alerts")[0] == 200
    assert ask(gateway, "DELETE", one, key=admin)[0] == 204
    assert ask(gateway, "DELETE", one, key=admin)[0] == 404
    lines = good(gateway, "GET", f"audit?subject={made['id']}")["data"]
    assert [line["action"] for line in lines] == ["webhook.delete", "webhook.create"]
    assert made["secret"] not in str(lines)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com", "https://"),
        ("https://a:b@example.com/", "leave out"),
        ("http://[::1/", "not a URL"),
    ],
)
def test_a_bad_address_is_a_bad_field(house: House, url: str, words: str) -> None:
    org = Tenant(house.gateways[0]).org
    status, _, answer = ask(house.gateways[0], "POST", "webhooks", {"org": org, "url": url})
    assert (status, answer["error"]["param"]) == (400, "url")
    assert words in answer["error"]["message"]


def test_what_is_private_and_what_cannot_be_signed_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    upstreams, directory = Upstreams(1), tmp_path_factory.mktemp("closed")
    text = config(model("small", upstreams.ports), directory=directory)
    environ = {"SWITCHGEAR_ADMIN_KEY": ADMIN, "SWITCHGEAR_WEBHOOK_SECRET": SECRET}
    with running(Gateway(directory, text, **environ), upstreams) as (gateway, _):
        until(gateway.ready)
        org = Tenant(gateway).org
        status, _, answer = ask(gateway, "POST", "webhooks", {"org": org, "url": "http://169.254.169.254/"})
        assert (status, answer["error"]["param"]) == (400, "url")
        with Receiver().open() as receiver:
            url = f"http://localhost:{receiver.port}/x"
            made = good(gateway, "POST", "webhooks", {"org": org, "url": url})
            assert ask(gateway, "POST", f"webhooks/{made['id']}/ping")[0] == 202

            def refused() -> bool:
                (one,) = good(gateway, "GET", f"webhooks/{made['id']}/deliveries")["data"]
                return bool(one["last_error"] == "the address is not a public one")

            until(refused, 90.0)
            assert receiver.messages == []
    unsigned, upstreams = Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN), Upstreams(1)
    with running(unsigned, upstreams):
        status, _, answer = ask(unsigned, "POST", "webhooks", {"org": org, "url": "https://example.com/"})
        assert (status, "SWITCHGEAR_WEBHOOK_SECRET" in answer["error"]["message"]) == (409, True)
