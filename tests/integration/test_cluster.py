"""Replicas that are pods, against an API server that drops, forgets, refuses, conflicts and is slow."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from backends.clients.kubernetes import KubeApi, KubeError
from backends.launchers.kubernetes import PAUSED, Workload, evicted, paused, raised, scaled
from backends.lease import ACTS_S, DURATION_S, Lease
from backends.load import Figures
from backends.watching import Watched
from gateway.cluster import PINS, Cluster, Hooks
from gateway.settings import KubernetesSettings, ModelSettings, PodSettings, Settings, WorkloadSettings
from tests.fakes.kubernetes import ApiServer, Refused, slice_of
from tests.fakes.processes import until_async

SPACE = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"
DEPLOYMENT = "/apis/apps/v1/namespaces/llm/deployments/small-v1"
SCALED_OBJECT = "/apis/keda.sh/v1alpha1/namespaces/llm/scaledobjects/small-v1"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/llm/leases"
WORKLOAD = Workload(name="small-v1", namespace="llm")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    found = ApiServer()
    yield found
    found.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60.0))


@asynccontextmanager
async def following(server: ApiServer) -> AsyncGenerator[tuple[Watched, list[Exception]]]:
    """A watch of slices that a loop keeps up; what its steps failed with."""
    api, failures = KubeApi(server.url), list[Exception]()
    watched = Watched(api, SPACE, lambda: None, "kubernetes.io/service-name")

    async def loop() -> None:
        while True:
            try:
                await watched.step()
            except KubeError as error:
                failures.append(error)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(loop())
    try:
        yield watched, failures
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


def names(watched: Watched) -> set[str]:
    return {name for _, name in watched.items}


def test_a_watch_goes_on_through_breaks_and_begins_anew_when_it_is_too_old(server: ApiServer) -> None:
    async def test() -> None:
        server.put(f"{SPACE}/a", slice_of("small-v1", "a"))
        async with following(server) as (watched, failures):
            await until_async(lambda: names(watched) == {"a"})
            for number in range(5):
                server.drop_watches()
                server.put(f"{SPACE}/b{number}", slice_of("small-v1", f"b{number}"))
            await until_async(lambda: len(names(watched)) == 6)
            assert server.asked.count(("GET", SPACE)) == 1, "a broken watch goes on where it was"
            with server.changed:  # while nobody watches, more happens than is remembered
                server._streams += 1
                server.objects.pop(f"{SPACE}/a")
                server._version += 10
                server.forget()
                server.changed.notify_all()
            await until_async(lambda: "a" not in names(watched))
            assert server.asked.count(("GET", SPACE)) == 2
            assert failures == []

    run(test())


def test_what_is_known_stays_while_the_server_refuses_or_is_away(server: ApiServer) -> None:
    async def test() -> None:
        server.put(f"{SPACE}/a", slice_of("small-v1", "a"))
        async with following(server) as (watched, failures):
            await until_async(lambda: names(watched) == {"a"})

            def forbidden(method: str, path: str) -> None:
                raise Refused(403, "endpointslices is forbidden")

            server.faults = forbidden
            server.drop_watches()
            await until_async(lambda: len(failures) > 2)
            assert "403 endpointslices is forbidden" in str(failures[-1])
            assert names(watched) == {"a"}
            server.faults = lambda method, path: None
            server.put(f"{SPACE}/b", slice_of("small-v1", "b"))
            await until_async(lambda: names(watched) == {"a", "b"})

    run(test())


def test_a_server_that_is_slow_or_speaks_nonsense_is_a_failure_with_its_name() -> None:
    async def test() -> None:
        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n<a>")
            await writer.drain()
            writer.close()

        listener = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        api = KubeApi(f"http://127.0.0.1:{port}")
        with pytest.raises(KubeError, match="GET /x: DecodeError"):
            await api.call("GET", "/x")
        listener.close()
        await listener.wait_closed()
        with pytest.raises(KubeError, match="GET /x: ClientConnectorError"):
            await api.call("GET", "/x")
        await api.close()

    run(test())


# Numbers of replicas


def conflicts(server: ApiServer, times: int) -> Callable[[str, str], None]:
    """Somebody else writes the workload between our reading and our writing."""
    left = [times]

    def fault(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/scale") and left[0]:
            left[0] -= 1
            server.put(DEPLOYMENT, {**server.objects[DEPLOYMENT], "touched": left[0]})

    return fault


def test_a_wake_survives_conflicts_and_never_undoes_a_larger_number(server: ApiServer) -> None:
    async def test() -> None:
        server.put(DEPLOYMENT, {"spec": {"replicas": 0}})
        server.faults = conflicts(server, 3)
        api = KubeApi(server.url)
        assert await raised(api, WORKLOAD)
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 1
        server.put(DEPLOYMENT, {"spec": {"replicas": 7}})
        assert not await raised(api, WORKLOAD)
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 7
        server.faults = conflicts(server, 99)
        with pytest.raises(KubeError, match="409"):
            await scaled(api, WORKLOAD, 3)
        await api.close()

    run(test())


def test_twenty_wakes_at_once_start_one_replica(server: ApiServer) -> None:
    async def test() -> None:
        server.put(DEPLOYMENT, {"spec": {"replicas": 0}})
        apis = [KubeApi(server.url) for _ in range(20)]
        raisings = await asyncio.gather(*(raised(api, WORKLOAD) for api in apis))
        assert sorted(raisings) == [False] * 19 + [True]
        for api in apis:
            await api.close()

    run(test())


def test_keda_is_paused_and_resumed_and_may_be_missing(server: ApiServer) -> None:
    async def test() -> None:
        api = KubeApi(server.url)
        await paused(api, WORKLOAD, True)  # there is none: nothing to do
        server.put(SCALED_OBJECT, {"metadata": {"annotations": {"kept": "1"}}})
        await paused(api, WORKLOAD, True)
        assert server.objects[SCALED_OBJECT]["metadata"]["annotations"] == {"kept": "1", PAUSED: "true"}
        await paused(api, WORKLOAD, False)
        assert server.objects[SCALED_OBJECT]["metadata"]["annotations"] == {"kept": "1"}
        await api.close()

    run(test())


def test_an_eviction_waits_for_the_disruption_budget(server: ApiServer) -> None:
    async def test() -> None:
        api, path = KubeApi(server.url), "/api/v1/namespaces/llm/pods/small-a"
        server.put(path, {"guarded": True})
        assert not await evicted(api, "llm", "small-a")
        server.put(path, {})
        assert await evicted(api, "llm", "small-a")
        assert await evicted(api, "llm", "small-a"), "it is gone: that is what was wanted"
        await api.close()

    run(test())


# The leader


@pytest.mark.parametrize("seed", range(3))
def test_there_is_never_more_than_one_leader(server: ApiServer, seed: int) -> None:
    """Three gateways whose steps come late, fail, or are lost; one of them may be killed for good."""

    async def test() -> None:
        chance, clock = random.Random(seed), [0.0]
        api = KubeApi(server.url)
        leases = [
            Lease(api, ("llm", "sg"), f"g{number}", lambda: clock[0], lambda: clock[0] + 1e9)
            for number in range(3)
        ]

        def lossy(method: str, path: str) -> None:
            if chance.random() < 0.15:
                raise Refused(chance.choice((500, 409, 403)), "lost")

        server.faults, held = lossy, [0, 0, 0]
        for _ in range(250):
            clock[0] += chance.choice((0.5, 1.0, 3.0, 8.0 if chance.random() < 0.1 else 1.0))
            wanted = [one for one in leases if chance.random() < 0.7]
            await asyncio.gather(*(one.step() for one in wanted), return_exceptions=True)
            leaders = [number for number, one in enumerate(leases) if one.held]
            assert len(leaders) <= 1
            for number in leaders:
                held[number] += 1
        assert sum(held) > 100
        server.faults = lambda method, path: None
        last = next(iter([one for one in leases if one.held] or [leases[0]]))
        others = [one for one in leases if one is not last]
        for _ in range(12):  # the holder is dead: another takes over when its time has run out
            clock[0] += 3.0
            await asyncio.gather(*(one.step() for one in others))
        assert sum(one.held for one in others) == 1
        assert ACTS_S < DURATION_S
        await api.close()

    run(test())


def test_a_leader_that_ends_lets_another_begin_at_once(server: ApiServer) -> None:
    async def test() -> None:
        api, clock = KubeApi(server.url), [0.0]
        first, second = (
            Lease(api, ("llm", "sg"), name, lambda: clock[0], lambda: 1e9 + clock[0]) for name in "ab"
        )
        await first.step()
        await second.step()
        assert (first.held, second.held) == (True, False)
        await asyncio.gather(first.note("x", "1"), second.note("y", "2"))
        await first.release()
        await second.step()
        assert (first.held, second.held) == (False, True)
        assert server.objects[f"{LEASES}/sg"]["metadata"]["annotations"] == {"x": "1", "y": "2"}
        await api.close()

    run(test())


# All of it together


class Quiet:
    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}

    def running(self) -> dict[str, int]:
        return {}

    def depth(self) -> dict[str, int]:
        return self.waiting


class House:
    """A cluster object with its clock, its work and what its engines count, all set by hand."""

    def __init__(self, server: ApiServer, tmp_path: Any, name: str, **pods: Any) -> None:
        self.clock, self.work, self.figures = [100.0], Quiet(), dict[str, Figures]()
        self.settings = Settings(
            models=(
                ModelSettings(
                    name="small",
                    kubernetes=PodSettings(
                        workloads=(WorkloadSettings(name="small-v1"),), namespace="llm", **pods
                    ),
                ),
            ),
            kubernetes=KubernetesSettings(api=server.url, namespace="llm", lease="sg"),
        )
        hooks = Hooks(
            self.work, lambda: self.figures, lambda: None, lambda: self.clock[0], lambda: self.clock[0]
        )
        self.cluster = Cluster(self.settings, hooks, {"POD_NAME": name})
        self.cluster._load_times = type(self.cluster._load_times)(tmp_path / f"{name}.json")
        self.cluster.configure(self.settings.models)

    async def known(self, *pods: str) -> None:
        """Follow until these pods get requests."""

        async def step() -> list[str]:
            with suppress(KubeError):
                await self.cluster.follow()
            return [one.name for one in self.cluster.pods("small")]

        end_s = time.monotonic() + 20.0
        while await step() != list(pods):
            assert time.monotonic() < end_s, self.cluster.pods("small")
            await asyncio.sleep(0.01)


def test_pods_come_and_go_by_readiness_and_by_the_taints_of_their_machines(
    server: ApiServer, tmp_path: Any
) -> None:
    async def test() -> None:
        house = House(server, tmp_path, "g0")
        server.put("/api/v1/nodes/n1", {"metadata": {"labels": {"karpenter.sh/capacity-type": "spot"}}})
        server.put(f"{SPACE}/one", slice_of("small-v1", "a", node="n1"))
        server.put(f"{SPACE}/two", slice_of("small-v1", "a", "b"))  # while slices are rearranged
        server.put(f"{SPACE}/other", slice_of("another", "x"))
        await house.known("a", "b")
        await until_async(lambda: house.cluster.pods("small")[0].machine.spot)  # nodes come by another watch
        first = house.cluster.pods("small")[0]
        assert (first.id, first.url, first.machine.spot) == ("a.llm", "http://127.0.0.1:8000/v1", True)
        server.put(f"{SPACE}/three", slice_of("small-v1", "c", ready=False))
        server.put(f"{SPACE}/two", slice_of("small-v1", "b", ready=False, terminating=True))
        await house.known("a")
        server.put(f"{SPACE}/three", slice_of("small-v1", "c"))
        await house.known("a", "c")
        server.put("/api/v1/namespaces/llm/pods/a", {"guarded": True})
        taint = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}
        server.put("/api/v1/nodes/n1", {"spec": {"taints": [taint]}})
        await house.known("c")
        await house.cluster.lease.step()
        await house.cluster.look()  # its budget does not allow it yet
        assert "/api/v1/namespaces/llm/pods/a" in server.objects
        server.put("/api/v1/namespaces/llm/pods/a", {})
        await house.cluster.look()
        assert "/api/v1/namespaces/llm/pods/a" not in server.objects
        server.put(f"{SPACE}/three", slice_of("small-v1"))
        await house.known("a")  # the last one serves until it goes, doomed or not
        await house.cluster.close()

    run(test())


def test_an_idle_model_sleeps_once_all_gateways_left_it_alone_and_a_request_wakes_it(
    server: ApiServer, tmp_path: Any
) -> None:
    async def test() -> None:
        house = House(server, tmp_path, "g0", min_replicas=0, idle_s=60.0)
        server.put(DEPLOYMENT, {"spec": {"replicas": 1}})
        server.put(SCALED_OBJECT, {})
        server.put(f"{SPACE}/one", slice_of("small-v1", "a"))
        server.scaled = lambda path, replicas: server.put(
            f"{SPACE}/one", slice_of("small-v1", *(["a"] if replicas else []))
        )
        await house.known("a")
        cluster = house.cluster

        async def pass_s(seconds: float, tokens: float | None) -> None:
            house.figures = {} if tokens is None else {"a.llm": {"generation_tokens_total": tokens}}
            house.clock[0] += seconds
            await cluster.lease.step()
            await cluster.look()

        for tokens in (None, 1.0, 2.0, 3.0, None, None):  # mute, or counting for another gateway
            await pass_s(50.0, tokens)
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 1
        await pass_s(10.0, 3.0)
        await pass_s(59.0, 3.0)
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 1
        await pass_s(2.0, 3.0)
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 0
        assert server.objects[SCALED_OBJECT]["metadata"]["annotations"] == {PAUSED: "true"}
        await house.known()
        house.work.waiting = {"small": 1}

        def away(method: str, path: str) -> None:
            raise Refused(503, "the server is busy")

        server.faults = away  # the first wake fails: while somebody waits it is tried again
        cluster.wake("small")
        await until_async(lambda: "wake small" not in cluster._tasks)
        server.faults = lambda method, path: None
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 0
        house.clock[0] += 6.0
        with pytest.raises(KubeError, match="the server is busy"):  # told, and tried again
            await cluster.look()
        await house.known("a")
        await until_async(lambda: PAUSED not in server.objects[SCALED_OBJECT]["metadata"]["annotations"])
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 1
        await cluster.close()

    run(test())


def test_a_wake_that_was_cut_off_halfway_is_finished_by_the_leader(server: ApiServer, tmp_path: Any) -> None:
    async def test() -> None:
        house = House(server, tmp_path, "g0", min_replicas=0)
        server.put(DEPLOYMENT, {"spec": {"replicas": 1}})  # raised, and then the gateway died
        server.put(SCALED_OBJECT, {"metadata": {"annotations": {PAUSED: "true"}}})
        server.put(f"{SPACE}/one", slice_of("small-v1", "a"))
        await house.known("a")
        await house.cluster.look()
        assert PAUSED in server.objects[SCALED_OBJECT]["metadata"]["annotations"], "not the leader"
        await house.cluster.lease.step()
        await house.cluster.look()
        assert PAUSED not in server.objects[SCALED_OBJECT]["metadata"]["annotations"]
        await house.cluster.close()

    run(test())


def test_an_operators_number_holds_for_all_gateways_until_it_is_given_back(
    server: ApiServer, tmp_path: Any
) -> None:
    async def test() -> None:
        here, there = (House(server, tmp_path, name, min_replicas=0) for name in ("g0", "g1"))
        server.put(DEPLOYMENT, {"spec": {"replicas": 2}})
        server.put(SCALED_OBJECT, {})
        await here.cluster.lease.step()
        await here.cluster.pin("small", 0)
        await there.cluster.lease.step()
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 0
        assert not there.cluster.holds("small")
        there.cluster.wake("small")
        assert "wake small" not in there.cluster._tasks
        shown = there.cluster.shown("small")
        assert shown is not None
        assert shown["pinned"] == 0
        await there.cluster.pin("small", None)
        assert server.objects[DEPLOYMENT]["spec"]["replicas"] == 1
        assert PAUSED not in server.objects[SCALED_OBJECT]["metadata"]["annotations"]
        assert server.objects[f"{LEASES}/sg"]["metadata"]["annotations"] == {PINS: "{}"}
        for house in (here, there):
            await house.cluster.close()

    run(test())


def test_a_permission_that_was_taken_back_is_a_failed_step_and_nothing_else(
    server: ApiServer, tmp_path: Any
) -> None:
    async def test() -> None:
        house = House(server, tmp_path, "g0")
        server.put(f"{SPACE}/one", slice_of("small-v1", "a"))

        def no_nodes(method: str, path: str) -> None:
            if path == "/api/v1/nodes":
                raise Refused(403, "nodes is forbidden")

        server.faults = no_nodes
        await house.known("a")
        task = house.cluster._following["/api/v1/nodes"]
        await until_async(task.done)
        with pytest.raises(KubeError, match="nodes is forbidden"):
            await house.cluster.follow()
        assert [one.name for one in house.cluster.pods("small")] == ["a"]
        await house.cluster.close()

    run(test())


def test_a_right_that_is_lost_in_one_namespace_stops_no_other_model(server: ApiServer, tmp_path: Any) -> None:
    async def test() -> None:
        small = House(server, tmp_path, "g0").settings.models[0]
        house = House(server, tmp_path, "g1")
        tenant = PodSettings(
            workloads=(WorkloadSettings(name="first-v1"),), namespace="team-a", min_replicas=0
        )
        house.cluster.configure([ModelSettings(name="first", kubernetes=tenant), small])
        server.put(f"{SPACE.replace('llm', 'team-a')}/s", slice_of("first-v1", "x"))
        server.put(f"{SPACE}/s", slice_of("small-v1", "a", node="n1"))
        server.put("/api/v1/namespaces/llm/pods/a", {})
        taint = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}
        server.put("/api/v1/nodes/n1", {"spec": {"taints": [taint]}})
        await house.known("a")
        await until_async(lambda: house.cluster.pods("first") != [])
        await until_async(lambda: bool(house.cluster.pods("small")[0].machine.doomed))

        def forbidden(method: str, path: str) -> None:
            if "team-a" in path:
                raise Refused(403, "scaledobjects is forbidden")

        server.faults = forbidden
        await house.cluster.lease.step()
        with pytest.raises(KubeError, match="scaledobjects is forbidden"):
            await house.cluster.look()
        assert "/api/v1/namespaces/llm/pods/a" not in server.objects, "its machine goes whatever else fails"
        await house.cluster.close()

    run(test())


def test_a_wake_that_is_forbidden_is_told_while_somebody_waits(server: ApiServer, tmp_path: Any) -> None:
    async def test() -> None:
        house = House(server, tmp_path, "g0", min_replicas=0)
        server.put(DEPLOYMENT, {"spec": {"replicas": 0}})

        def forbidden(method: str, path: str) -> None:
            raise Refused(403, "deployments/scale is forbidden")

        server.faults = forbidden
        house.work.waiting = {"small": 1}
        await house.cluster.look()
        await until_async(lambda: "wake small" not in house.cluster._tasks)
        with pytest.raises(KubeError, match="deployments/scale is forbidden"):
            await house.cluster.look()
        house.work.waiting = {}
        await house.cluster.look()
        server.faults = lambda method, path: None
        await house.cluster.close()

    run(test())
