"""Results as a table, on stdout and in the README between two marks."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench: written by make bench ARGS=--readme -->\n", "<!-- end of bench -->\n"

COLUMNS = {
    "cpu_us_per_request": "CPU us / request",
    "cpu_us_per_chunk": "CPU us / paced chunk",
    "requests_per_s": "requests/s on one core",
    "added_p50_us": "added p50 us",
    "added_p99_us": "added p99 us",
    "added_ttft_p50_us": "added TTFT p50 us",
    "rss_mib": "RSS MiB",
    "start_s": "start s",
}


def table(results: dict[str, Any]) -> str:
    """Render the rows as a Markdown table."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in results["rows"].items():
        if "missing" in row:
            cells = [row["missing"], *[""] * (len(COLUMNS) - 1)]
        else:
            cells = [_shown(column, row.get(column)) for column in COLUMNS]
        failed = f" ({row['failures']:.0f} requests failed)" if row.get("failures") else ""
        lines.append(f"| {name}{failed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if column == "start_s" else f"{value:,.0f}"


def section(results: dict[str, Any]) -> str:
    """Render what the README says between its marks."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{table(results)}\n\nTaken on {results['taken']}: {results['machine']}; {versions}. Again: "
        f"`{results['repeat']}`.\n"
    )


def readme_with(text: str, results: dict[str, Any]) -> str:
    """Give a README's text with these results in it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the README has no mark where the bench begins"
    assert end, "the README has no mark where the bench ends"
    return before + begin + section(results) + end + after


def write(results: dict[str, Any], path: Path, *, readme: bool) -> None:
    """Write the results to a file, and into the README if asked."""
    path.write_text(json.dumps(results, indent=1) + "\n")
    if readme:
        README.write_text(readme_with(README.read_text(), results))
