"""Our metric families as OpenTelemetry's SDK has them, under OpenTelemetry's names."""

from collections.abc import Iterable, Iterator, Mapping

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway import semconv as names
from gateway.exporting import resource, version
from gateway.telemetry import Family

UNITS = {"seconds": "s", "bytes": "By", "share": "1", "tokens": "{token}"}


def metrics_data(families: Iterable[tuple[Family, str]], started_s: float, now_s: float) -> MetricsData:
    """Give families with their units, cumulated since the start, as the SDK's exporters take them."""
    moments = (int(started_s * 1e9), int(now_s * 1e9))
    metrics = [_metric(family, unit, moments) for family, unit in families if family.samples]
    scope = ScopeMetrics(InstrumentationScope("switchgear", version()), metrics, "")
    return MetricsData([ResourceMetrics(resource(), [scope], "")])


def _metric(family: Family, unit: str, moments: tuple[int, int]) -> Metric:
    name = names.METRICS.get(family.name, family.name)
    spelled = UNITS.get(unit, f"{{{unit.rstrip('s')}}}")
    cumulative = AggregationTemporality.CUMULATIVE
    if family.type == "histogram":
        spreads = Histogram(list(_spreads(family, moments)), cumulative)
        return Metric(name, family.documentation, spelled, spreads)
    points = [NumberDataPoint(_spelled(one.labels), *moments, one.value) for one in family.samples]
    if family.type == "counter":
        return Metric(name, family.documentation, spelled, Sum(points, cumulative, is_monotonic=True))
    return Metric(name, family.documentation, spelled, Gauge(points))


def _spreads(family: Family, moments: tuple[int, int]) -> Iterator[HistogramDataPoint]:
    """Give a point for each series: its buckets come one after the other, the last is +Inf, then its sum."""
    bounds: list[float] = []
    cumulated: list[int] = []
    total = 0.0
    for one in family.samples:
        if one.name.endswith("_bucket"):
            bounds.append(float(one.labels["le"]))
            cumulated.append(int(one.value))
        elif one.name.endswith("_sum"):
            total = one.value
            counts = [after - before for before, after in zip([0, *cumulated], cumulated, strict=False)]
            yield HistogramDataPoint(
                _spelled(one.labels),
                *moments,
                count=cumulated[-1],
                sum=total,
                bucket_counts=counts,
                explicit_bounds=bounds[:-1],
                min=None,  # type: ignore[arg-type]  # not known, and optional in the protocol
                max=None,  # type: ignore[arg-type]  # the same
            )
            bounds, cumulated = [], []


def _spelled(labels: Mapping[str, str]) -> dict[str, str]:
    """Give labels as OpenTelemetry spells them; what is empty is left out."""
    return {names.LABELS.get(label, label): value for label, value in labels.items() if value}
