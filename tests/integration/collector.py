"""A real OTLP receiver for the tests, in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from gateway import semconv as names
from tests.fakes.processes import until


class Collector:
    """What the receiver got so far."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []
        self.metrics: list[Metric] = []

    def trace(self, request_id: str) -> dict[str, list[Span]]:
        """Wait for the trace of a request; gives its spans by name, the request's own as ``request``."""
        found: list[Span] = []

        def there() -> bool:
            found[:] = [
                one for one in list(self.spans) if attributes(one).get(names.REQUEST_ID) == request_id
            ]
            return bool(found)

        until(there)
        assert len(found) == 1
        spans: dict[str, list[Span]] = {"request": found}
        for one in self.spans:
            if one.trace_id == found[0].trace_id and one is not found[0]:
                spans.setdefault(one.name, []).append(one)
        return spans


def attributes(span: Span) -> dict[str, Any]:
    """Give the attributes of a span as plain values."""
    found = {one.key: _plain(one.value) for one in span.attributes}
    assert len(found) == len(span.attributes), "an attribute twice"
    return found


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a receiver on a free port inside the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    collector = Collector(port)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with OtelTapHttpProtobufReceiver(settings) as receiver:

            async def collect() -> None:
                async for span in receiver.stream_traces():
                    collector.spans.append(span)

            async def measure() -> None:
                async for metrics in receiver.stream_metrics():
                    collector.metrics.append(metrics)

            tasks = [asyncio.create_task(collect()), asyncio.create_task(measure())]
            await asyncio.sleep(0)
            ready.set()
            await stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=[main()])
    thread.start()
    try:
        assert ready.wait(30)
        yield collector
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
