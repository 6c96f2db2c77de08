"""Pictures of the boards: their panels as a page, drawn from what a real Prometheus says of a test's work."""

import html
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from dashboards.grafana.panels import Board, Panel

Series = list[tuple[str, list[tuple[float, float]]]]  # legends, and points of seconds and values
Table = list[dict[str, object]]

COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#37872d", "#8ab8ff")
WIDTH, HEIGHT = 420, 120
UNITS = {"percentunit": ("%", 100.0), "bytes": ("MiB", 1 / 2**20), "decbytes": ("MB", 1e-6), "s": ("s", 1.0)}
STYLE = """
body { margin: 0; padding: 16px; width: 1360px; background: #111217; color: #ccccdc }
body { font: 13px/1.35 sans-serif }
h1 { font-size: 20px; font-weight: 500; margin: 0 } .board { color: #8e8e99; margin: 4px 0 12px }
.grid { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px }
.panel { background: #181b1f; border: 1px solid #2c2f36; border-radius: 3px }
.panel { padding: 8px 10px; overflow: hidden }
h2 { font-size: 13px; font-weight: 600; margin: 0 } p { color: #8e8e99; font-size: 11px; margin: 2px 0 6px }
.stat { font-size: 34px; color: #73bf69; padding: 28px 0; text-align: center }
.empty { color: #6e7078; padding: 40px 0; text-align: center } .legend { font-size: 11px; color: #9fa0a8 }
table { font-size: 11px; border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: 1px 6px 1px 0 }
b { font-weight: 700 } svg { display: block; width: 100% }
"""


def page(board: Board, of: Callable[[Panel], Series | Table]) -> str:
    """Give a board as a page; ``of`` gives what a panel shows."""
    panels = "".join(_panel(panel, of(panel)) for panel in board.panels)
    head = f"<h1>{html.escape(board.title)}</h1><div class=board>{html.escape(board.text)}</div>"
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{head}<div class=grid>{panels}</div>"


def draw(text: str, to: Path, rows: int) -> None:
    """Have a browser draw a page into a PNG."""
    source = to.with_suffix(".html")
    source.write_text(text)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    size = f"--window-size=1392,{90 + 215 * rows}"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size]
    subprocess.run(
        [*command, f"--screenshot={to}", source.as_uri()], check=True, capture_output=True, timeout=120
    )
    source.unlink()


def _panel(panel: Panel, shown: Series | Table) -> str:
    if not shown:
        body = f"<div class=empty>{html.escape(panel.empty)}</div>"
    elif panel.kind == "table":
        body = _table([row for row in shown if isinstance(row, dict)])
    else:
        series = [one for one in shown if isinstance(one, tuple)]
        body = _stat(panel, series) if panel.kind == "stat" else _lines(panel, series)
    title, text = html.escape(panel.title), html.escape(panel.text)
    return f"<div class=panel><h2>{title}</h2><p>{text}</p>{body}</div>"


def _stat(panel: Panel, series: Series) -> str:
    return f"<div class=stat>{_written(panel.unit, series[0][1][-1][1])}</div>"


def _lines(panel: Panel, series: Series) -> str:
    points = [point for _, line in series for point in line]
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    most = max(value for _, value in points) or 1.0
    drawn, legend = "", ""
    for number, (name, line) in enumerate(series[:8]):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(at, first, last):.1f},{_y(value, most):.1f}" for at, value in line)
        drawn += f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>'
        value = _written(panel.unit, line[-1][1])
        legend += (
            f'<span style="color:{colour}">&#9644;</span> {html.escape(name or "all")} <b>{value}</b>&ensp;'
        )
    top = _written(panel.unit, most)
    frame = "".join(
        f'<line x1="44" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="#2c2f36"/>'
        for y in (6, HEIGHT // 2, HEIGHT - 6)
    )
    axis = f'<text x="0" y="12" fill="#8e8e99" font-size="10">{top}</text>'
    axis += f'<text x="0" y="{HEIGHT - 6}" fill="#8e8e99" font-size="10">0</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{frame}{axis}{drawn}</svg><div class=legend>{legend}</div>'


def _table(rows: Sequence[dict[str, object]]) -> str:
    names = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    lines = ("".join(f"<td>{html.escape(_cell(value))}</td>" for value in row.values()) for row in rows[:6])
    return f"<table><tr>{names}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:28]


def _written(unit: str, value: float) -> str:
    name, factor = UNITS.get(unit, ("", 1.0))
    return f"{value * factor:.3g} {name}".strip()


def _x(at: float, first: float, last: float) -> float:
    return 44 + (WIDTH - 44) * (at - first) / max(last - first, 1e-9)


def _y(value: float, most: float) -> float:
    return HEIGHT - 6 - (HEIGHT - 12) * max(value, 0.0) / most
