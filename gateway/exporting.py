"""What the standard ``OTEL_*`` variables ask for, and who this process is to a receiver."""

import importlib.metadata
import logging
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the SDK takes a third of a second to import: only where something is exported
    from opentelemetry.sdk.resources import Resource

log = logging.getLogger("switchgear.exporting")

Signal = Literal["TRACES", "METRICS"]


def asked_for(environ: Mapping[str, str], signal: Signal) -> bool:
    """Tell whether a signal is to be exported by OTLP; logs what is asked for and not spoken."""
    wanted = {one.strip() for one in environ.get(f"OTEL_{signal}_EXPORTER", "").lower().split(",")} - {""}
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or "none" in wanted:
        return False
    if "otlp" not in wanted and not any(environ.get(name) for name in endpoints):
        return False
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL")
    protocol = protocol or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%s is not spoken; %s go by http/protobuf", protocol, signal.lower()
        )
    return True


def period_s(environ: Mapping[str, str], name: str, default_ms: int) -> float:
    """Read a period, in milliseconds; what cannot be read is logged and taken as unset."""
    text = environ.get(name, "").strip()
    try:
        period_ms = float(text) if text else default_ms
        if not 100.0 <= period_ms <= 1e9:
            raise ValueError
    except ValueError:
        log.warning("%s=%s is no number of milliseconds from 100 on; %d is used", name, text, default_ms)
        period_ms = default_ms
    return period_ms / 1000


@lru_cache
def version() -> str:
    """Give the version of the gateway."""
    return importlib.metadata.version("switchgear")


@lru_cache
def resource() -> "Resource":
    """Describe this process; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` go before."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {
        "service.name": "switchgear",
        "service.version": version(),
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})
