"""The contract's table over a session, and the client that most tests use."""

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.appliance import Appliance
from tests.contract.table import ARTEFACT, Table


@pytest.fixture(scope="session")
def table(remarks: list[str]) -> Iterator[Table]:
    """The session's table, written at its end."""
    table = Table()
    yield table
    ARTEFACT.parent.mkdir(exist_ok=True)
    ARTEFACT.write_text(table.text())
    fields = sum(row.fields for row in table.rows)
    shown = os.path.relpath(ARTEFACT, Path.cwd())
    remarks.append(
        f"contract: {len(table.rows)} requests to the gateway and to vLLM, {fields} fields compared: {shown}"
    )


@pytest.fixture
def client(appliance: Appliance) -> Iterator[openai.OpenAI]:
    """openai-python as its users have it, only `base_url` and key changed."""
    with openai.OpenAI(base_url=appliance.base_url, api_key=appliance.api_key) as client:
        yield client
