"""OTLP to a collector; its calls block: never on the loop."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


class SpanExporter(OTLPSpanExporter):
    """The standard exporter for spans that are encoded already.

    Address, headers, TLS files, compression and time-out come from the ``OTEL_EXPORTER_OTLP_*`` variables.
    """

    def send(self, data: bytes) -> bool:
        """Send; see ``gateway.tracing.Exporter``. Tries again on 429, 502 to 504 and broken connections."""
        return self._client.export(data).success  # its own export() does this, behind its slow encoder
