"""Spot notices: what each cloud's metadata service says, by a server that speaks as they do."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.outbound.notices import Cloud, NoMetadata, notice_s
from tests.fakes.metadata import AWS, AZURE, GCP, Metadata, served

NOW_S = 1_795_400_000.0


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    found = Metadata()
    with served(found):
        yield found


def events(*found: dict[str, Any]) -> bytes:
    return json.dumps({"DocumentIncarnation": 1, "Events": list(found)}).encode()


@pytest.mark.parametrize(
    ("cloud", "path", "status", "body", "left_s"),
    [
        ("aws", AWS, 404, b"", None),
        ("aws", AWS, 200, b'{"action": "terminate", "time": "2026-11-23T01:35:20Z"}', 120.0),
        ("gcp", GCP, 200, b"FALSE", None),
        ("gcp", GCP, 200, b"TRUE\n", 30.0),
        ("azure", AZURE, 200, events(), None),
        ("azure", AZURE, 200, events({"EventType": "Reboot", "NotBefore": ""}), None),
        (
            "azure",
            AZURE,
            200,
            events({"EventType": "Preempt", "NotBefore": "Mon, 23 Nov 2026 01:33:50 GMT"}),
            30.0,
        ),
        ("azure", AZURE, 200, events({"EventType": "Preempt", "NotBefore": ""}), 0.0),
    ],
)
def test_what_a_cloud_says(
    metadata: Metadata, cloud: Cloud, path: str, status: int, body: bytes, left_s: float | None
) -> None:
    metadata.answers[path] = (status, body)
    now_s = 1795397600.0  # 2026-11-23T01:33:20Z
    assert asyncio.run(notice_s(cloud, now_s, metadata.url)) == left_s


@pytest.mark.parametrize(
    ("cloud", "path", "status", "body"),
    [
        ("aws", AWS, 500, b""),
        ("aws", AWS, 200, b'{"action": "terminate"}'),
        ("aws", AWS, 200, b"not JSON"),
        ("gcp", GCP, 503, b""),
        ("azure", AZURE, 200, b"{}"),
    ],
)
def test_what_is_no_answer(metadata: Metadata, cloud: Cloud, path: str, status: int, body: bytes) -> None:
    metadata.answers[path] = (status, body)
    with pytest.raises(NoMetadata, match=cloud):
        asyncio.run(notice_s(cloud, NOW_S, metadata.url))


def test_a_service_that_is_not_there() -> None:
    with pytest.raises(NoMetadata, match="does not answer"):
        asyncio.run(notice_s("gcp", NOW_S, "http://127.0.0.1:9"))
