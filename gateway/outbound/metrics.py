"""Metrics to a collector by OTLP; its calls block: never on the loop."""

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData


class MetricExporter(OTLPMetricExporter):
    """The standard exporter; see ``gateway.metering.Sender``.

    Address, headers, TLS files, compression and time-out come from the ``OTEL_EXPORTER_OTLP_*`` variables.
    """

    def send(self, data: MetricsData) -> bool:
        """Send; tells whether the receiver has it. Tries again on 429, 502 to 504 and broken connections."""
        return self.export(data) is MetricExportResult.SUCCESS
