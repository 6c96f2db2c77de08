"""The table of the contract: every request, how many fields were compared, what differs."""

from msgspec import Struct

from tests.appliance import ROOT

ARTEFACT = ROOT / ".cache" / "contract.md"


class Row(Struct):
    """One request of the table."""

    request: str
    status: int
    fields: int
    chunks: str
    verdict: str


class Table:
    """Rows in the order of the tests; written at the end of the session."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, request: str, status: int, fields: int, chunks: str, verdict: str) -> None:
        self.rows.append(Row(request, status, fields, chunks, verdict))

    def text(self) -> str:
        """The table in Markdown."""
        lines = ["| request | status | fields | chunks | gateway against vLLM |", "|---|---|---|---|---|"]
        for row in self.rows:
            cells = (row.request, str(row.status), str(row.fields or ""), row.chunks, row.verdict)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"
