"""OTLP to a collector; its calls block: never on the loop."""

from typing import Any

from opentelemetry.exporter.http.transport._requests import RequestsHTTPTransport
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


class SpanExporter(OTLPSpanExporter):
    """The standard exporter for spans that are encoded already.

    Address, headers, TLS files, compression and time-out come from the ``OTEL_EXPORTER_OTLP_*`` variables.
    """

    def __init__(self) -> None:
        super().__init__()
        # Only so it keeps the session that the library has made from the variables for TLS.
        self._client._transport.__class__ = Forgetful

    def send(self, data: bytes) -> bool:
        """Send; see ``gateway.tracing.Exporter``. Tries again on 429, 502 to 504 and broken connections."""
        return self._client.export(data).success  # its own export() does this, behind its slow encoder


class Forgetful(RequestsHTTPTransport):
    """The standard transport, which keeps nothing of what could not be sent.

    A failure names the frames that it went through, and these hold the body and the failure itself: a circle.
    A collector that is away for a minute left a hundred of them, a megabyte each, to the garbage collector.
    """

    def request(self, *args: Any, **options: Any) -> Any:
        """See ``BaseHTTPTransport.request``."""
        result = super().request(*args, **options)
        error: BaseException | None = result.error
        while error is not None:
            error.__traceback__ = None
            error = error.__context__
        return result
