"""Webhooks: who may be called, how messages are signed, when they are tried again."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.outbound.addresses import PRIVATE, public
from gateway.outbound.webhooks import PostFailed, post
from gateway.tenancy.deliveries import GIVE_UP_S, LONGEST_DELAY_S, Parcel, outcome
from gateway.tenancy.webhooks import UrlError, check_url, master_secret, secret, signed
from tests.fakes.peer import Peer, peer
from tests.fakes.receiver import Receiver, documented_verify

MASTER = b"m" * 32
verify = documented_verify()


def test_a_message_is_signed_as_the_convention_says() -> None:
    headers = signed(
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        1731705121,
        b'{"event_type":"ping","data":{"success":true}}',
    )
    assert headers["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@given(body=st.binary(max_size=200), endpoint=st.text("abc_0", min_size=1), at_s=st.integers(0, 2**40))
def test_the_document_s_example_verifies_what_we_sign(body: bytes, endpoint: str, at_s: int) -> None:
    own = secret(MASTER, endpoint)
    headers = signed(own, "msg_1", at_s, body)
    verify(own, headers, body, now_s=at_s + 1)
    with pytest.raises(ValueError, match="not signed"):
        verify(own, headers, body + b" ", now_s=at_s + 1)
    with pytest.raises(ValueError, match="not signed"):
        verify(secret(MASTER, endpoint + "x"), headers, body, now_s=at_s + 1)
    with pytest.raises(ValueError, match="not signed"):
        verify(own, {**headers, "webhook-id": "msg_2"}, body, now_s=at_s + 1)
    with pytest.raises(ValueError, match="too old"):
        verify(own, headers, body, now_s=at_s + 301)


def test_secrets_follow_from_the_master_secret_and_the_endpoint() -> None:
    made = {secret(master, endpoint) for master in (MASTER, b"n" * 32) for endpoint in ("wh_1", "wh_2")}
    assert len(made) == 4
    assert secret(MASTER, "wh_1") in made
    assert all(one.startswith("whsec_") for one in made)
    assert master_secret({}) is None
    assert master_secret({"SWITCHGEAR_WEBHOOK_SECRET": ""}) is None
    assert master_secret({"SWITCHGEAR_WEBHOOK_SECRET": "x"}) == b"x"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
        "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2002:7f00:1::",
        "2001:0:a00:1::", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_addresses_of_our_own_network_are_not_public(address: str) -> None:
    assert not public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/x", "https://HOST"),
        ("example.com/x", "https://HOST"),
        ("https:///x", "https://HOST"),
        ("https://example.com:0/", "https://HOST"),
        ("https://example.com:port/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://user:pass@example.com/", "leave out"),
        ("https://example.com/#x", "leave out"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/a b", "ASCII"),
        ("http://127.0.0.1:8080/x", PRIVATE),
        ("http://[::ffff:169.254.169.254]/latest", PRIVATE),
    ],
)
def test_an_address_that_cannot_be_called_is_said(url: str, words: str) -> None:
    with pytest.raises(UrlError) as caught:
        check_url(url, allow_private=False)
    assert words in str(caught.value)


def test_good_addresses_are_good() -> None:
    check_url("https://example.com:8443/a/b?c=d%20e", allow_private=False)
    check_url("http://127.0.0.1:1/x", allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "[::1]", "0"])
def test_nothing_is_sent_into_our_own_network(host: str) -> None:
    with Receiver().open() as receiver:
        url = f"http://{host}:{receiver.port}/x"
        with pytest.raises(PostFailed, match=f"^({PRIVATE}|the address cannot be called)$"):
            asyncio.run(post(url, {}, b"{}", allow_private=False))
        assert receiver.messages == []


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    with Receiver().open() as receiver:
        receiver.script["/x"] = [302, 500]
        for status in (302, 500, 204):
            url = receiver.url("/x").replace("127.0.0.1", "localhost")
            assert asyncio.run(post(url, {"webhook-id": "m"}, b"{}", allow_private=True)) == status
        assert [(one.path, one.body, one.headers["webhook-id"]) for one in receiver.messages] == [
            ("/x", b"{}", "m")
        ] * 3


def test_what_goes_wrong_is_said_in_our_own_words() -> None:
    async def garbage(one: Peer) -> None:
        await one.say(b"secret nonsense\r\n\r\n")
        one.close()

    async def leave(one: Peer) -> None:
        one.reset()

    async def failure(behave: Callable[[Peer], Awaitable[None]]) -> str:
        async with peer(behave) as url:
            return await said(url)

    async def said(url: str) -> str:
        with pytest.raises(PostFailed) as caught:
            await post(url, {}, b"{}", allow_private=True)
        return str(caught.value)

    for behave in (garbage, leave):
        assert asyncio.run(failure(behave)) == "the answer is not HTTP, or broke off"
    assert asyncio.run(said("http://127.0.0.1:1/")) == "the connection failed"
    assert asyncio.run(said("http://nowhere.invalid/")) == "the name cannot be resolved"


@given(st.lists(st.one_of(st.none(), st.integers(100, 599)), min_size=200, max_size=200))
def test_a_message_is_delivered_or_given_up_after_a_day(statuses: list[int | None]) -> None:
    now_s = created_s = 1000.0
    delays = []
    for attempt, status in enumerate(statuses, 1):
        parcel = Parcel(id="m", endpoint_id="e", url="u", body="", created_s=created_s, attempts=attempt)
        state, next_s = outcome(parcel, status, now_s)
        assert (state == "delivered") == (status is not None and status // 100 == 2)
        if state != "pending":
            break
        delays.append(next_s - now_s)
        now_s = next_s
    assert state != "pending"
    assert now_s <= created_s + GIVE_UP_S
    assert delays == [min(LONGEST_DELAY_S, 2.0 ** (number + 1)) for number in range(len(delays))]
    assert state == "delivered" or now_s + LONGEST_DELAY_S > created_s + GIVE_UP_S
