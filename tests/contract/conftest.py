"""The contract's table over a session, and the client that most tests use."""

import os
from pathlib import Path

import openai
import pytest

from tests.appliance import Appliance
from tests.contract.table import ARTEFACT, Table

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """The session's table."""
    return pytestconfig.stash.setdefault(TABLE, Table())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the table and say where it is."""
    table = config.stash.get(TABLE, None)
    if table is None or not table.rows:
        return
    ARTEFACT.parent.mkdir(exist_ok=True)
    ARTEFACT.write_text(table.text())
    fields = sum(row.fields for row in table.rows)
    shown = os.path.relpath(ARTEFACT, Path.cwd())
    terminalreporter.write_line(
        f"contract: {len(table.rows)} requests to the gateway and to vLLM, {fields} fields compared: {shown}"
    )


@pytest.fixture
def client(appliance: Appliance) -> openai.OpenAI:
    """openai-python as its users have it, only `base_url` and key changed."""
    return openai.OpenAI(base_url=appliance.base_url, api_key=appliance.api_key)
