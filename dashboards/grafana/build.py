"""``python -m dashboards.grafana.build``: writes each board's JSON beside this file, for Grafana."""

from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, stat, timeseries
from grafana_foundation_sdk.builders import prometheus as prom
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from dashboards.grafana.boards import BOARDS
from dashboards.grafana.panels import Board, Panel

METRICS = DataSourceRef(type_val="prometheus", uid="${metrics}")
LEDGER = DataSourceRef(type_val="grafana-postgresql-datasource", uid="${ledger}")
VARIABLES = (
    ("model", "label_values(gen_ai_server_request_duration_seconds_count, gen_ai_response_model)"),
    ("route", "label_values(switchgear_route_decisions_total, route)"),
    ("replica", "label_values(switchgear_engine_running, replica)"),
)
COLUMNS, HEIGHT = 2, 8


class Sql(variants.Dataquery):
    """A query of Grafana's SQL data sources, whole as it stands."""

    def __init__(self, text: str, ref_id: str) -> None:
        self._text, self._ref_id = text, ref_id

    def to_json(self) -> dict[str, object]:
        """Give what Grafana stores."""
        return {"refId": self._ref_id, "format": "table", "rawQuery": True, "rawSql": self._text}


class Ready(cog.Builder[variants.Dataquery]):
    """Gives what is made already."""

    def __init__(self, query: variants.Dataquery) -> None:
        self._query = query

    def build(self) -> variants.Dataquery:
        """Give it."""
        return self._query


def render(board: Board) -> str:
    """Give the board's JSON."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.text)
        .tags(["switchgear"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("metrics").label("Metrics").type("prometheus"))
    )
    if any(panel.sql for panel in board.panels):
        made = made.with_variable(
            dashboard.DatasourceVariable("ledger").label("Ledger").type("grafana-postgresql-datasource")
        )
    for name, query in VARIABLES:
        made = made.with_variable(
            dashboard.QueryVariable(name)
            .label(name.capitalize())
            .query(query)
            .datasource(METRICS)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for panel in board.panels:
        made = made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _panel(panel: Panel) -> Any:
    kinds: dict[str, Any] = {"timeseries": timeseries.Panel, "stat": stat.Panel, "table": tables.Panel}
    made = (
        kinds[panel.kind]()
        .title(panel.title)
        .description(panel.text)
        .unit(panel.unit)
        .no_value(panel.empty)
        .datasource(LEDGER if panel.sql else METRICS)
        .height(HEIGHT)
        .span(24 // COLUMNS)
    )
    if panel.kind == "timeseries":
        made = made.min(0).legend(common.VizLegendOptions().show_legend(True))
    for number, (legend, query) in enumerate(panel.queries):
        ref_id = chr(ord("A") + number)
        if panel.sql:
            made = made.with_target(Ready(Sql(query, ref_id)))
        else:
            made = made.with_target(prom.Dataquery().expr(query).legend_format(legend).ref_id(ref_id))
    return made


def main() -> None:
    """Write all of them."""
    for board in BOARDS:
        (Path(__file__).parent / f"{board.uid}.json").write_text(render(board))


if __name__ == "__main__":
    main()
