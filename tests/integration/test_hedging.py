"""Hedging over HTTP: the first byte wins, the loser's server is hung up on, and nobody pays for it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import PROMPT_TOKENS, script, text
from tests.integration.gateway import Gateway, Upstreams, config, model, running, unique

N = 4


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("hedging")
    upstreams = Upstreams(5)
    hedge = {"after_ms": 20, "budget": 0.1}
    ports = upstreams.ports
    models = "".join(
        model(name, own, hedge=hedge)
        for name, own in (("quick", ports[:2]), ("spent", ports[2:4]), ("alone", ports[4:]))
    )
    with running(Gateway(directory, config(models, directory=directory)), upstreams) as house:
        until(house[0].ready)
        yield house


@pytest.mark.parametrize("slow", ["hang", "hang-head", "comments"])
@pytest.mark.parametrize("streamed", [True, False])
def test_the_first_byte_wins_and_the_loser_is_cancelled_and_not_billed(
    house: tuple[Gateway, Upstreams], slow: str, streamed: bool
) -> None:
    gateway, upstreams = house
    tag = unique()
    status, headers, body = gateway.chat("quick", script(slow, "ok", n=N, tag=tag), stream=streamed)
    assert (status, headers["x-switchgear-attempts"]) == (200, "2")
    assert body.count(text(1).encode()) == 1
    until(lambda: upstreams.states(tag) == ["aborted", "done"])
    row = gateway.row(headers["x-request-id"])
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", PROMPT_TOKENS, N)
    served = next(one["port"] for one in upstreams.seen(tag)["requests"] if one["state"] == "done")
    assert headers["x-switchgear-replica"] == f"quick-{upstreams.ports.index(served)}"
    until(gateway.idle)


def test_a_client_that_leaves_has_both_cancelled(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    headers = {"x-switchgear-timeout-ms": "300"}
    assert gateway.chat("quick", script("hang", tag=tag), headers=headers)[0] == 504
    until(lambda: upstreams.states(tag) == ["aborted"] * 2)
    until(gateway.idle)


def test_second_requests_are_a_share_of_all_and_ten_more(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag, headers = unique(), {"x-switchgear-timeout-ms": "1500"}
    count = 16

    def ask(_: int) -> int:
        return gateway.chat("spent", script("hang", "ok", tag=tag), headers=headers)[0]

    with ThreadPoolExecutor(count) as pool:
        statuses = list(pool.map(ask, range(count)))
    assert 10 <= statuses.count(200) <= 10 + 0.1 * count
    assert statuses.count(200) + statuses.count(504) == count
    assert len(upstreams.states(tag)) == count + statuses.count(200)


def test_where_there_is_no_second_replica_the_first_is_waited_for(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    status, headers, _ = gateway.chat("alone", script("ok", tag=tag, gap_s=0.1))
    assert (status, headers["x-switchgear-attempts"]) == (200, "1")
    assert upstreams.states(tag) == ["done"]
