"""Every panel of every dashboard against a real Prometheus that scraped a real gateway, and a real ledger."""

import contextlib
import http.server
import itertools
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dashboards.grafana.boards import BOARDS
from dashboards.grafana.build import render
from dashboards.grafana.panels import RATE, Board, Panel
from gateway import database
from gateway.errors import ours
from gateway.metrics import METRICS
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration import pictures
from tests.integration.collector import collecting
from tests.integration.gateway import LIMITED, ROOT, Gateway, Upstreams, config, model, running, unique
from tests.integration.prometheus import Prometheus, alertmanager, binary, free_port
from tests.integration.redis_server import RedisServer

PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
SHARED = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\n'
BROKE = '[[keys]]\nname = "broke"\nkey_env = "TEST_LIMITED_KEY"\nbudget_usd = 0.00034\n'

# What this house does not have: each panel says so in its empty state.
EMPTY = {
    "Audited false hits",  # no semantic cache is configured here
    "Texts known",  # the same
    "Regret",
    "Labels",
    "Shadow traffic",
    "Cascades",
    "Precise grades",  # the route is a plain one
    "Launch until ready",  # nothing is launched
    "Steps of the last start",  # the same
}

ENGINE = """
vllm:num_requests_running{{engine="0"}} 3
vllm:num_requests_waiting{{engine="0"}} 2
vllm:kv_cache_usage_perc{{engine="0"}} 0.25
vllm:prefix_cache_queries_total{{engine="0"}} {0}
vllm:prefix_cache_hits_total{{engine="0"}} {1}
vllm:prompt_tokens_total{{engine="0"}} {0}
vllm:generation_tokens_total{{engine="0"}} {0}
vllm:num_preemptions_total{{engine="0"}} {1}
vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {0}
vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {1}
{2}
DCGM_FI_DEV_GPU_UTIL{{gpu="0"}} 55
DCGM_FI_DEV_FB_USED{{gpu="0"}} 1024
"""
RUNNING = 'switchgear_engine_running{model!="failing"}'
GENERATED = 'switchgear_engine_generation_tokens_total{model!="failing"}'
SPREADS = ("request_queue_time", "request_prefill_time", "time_to_first_token", "inter_token_latency")


# What a gateway tells where all goes wrong; {0} grows with each scrape.
ILLS = """
switchgear_requests_total{{model="m",status="200"}} {0}
switchgear_requests_total{{model="m",status="502"}} {0}
gen_ai_server_time_to_first_token_seconds_bucket{{le="1.0"}} {0}
gen_ai_server_time_to_first_token_seconds_bucket{{le="+Inf"}} {0}00
gen_ai_server_time_to_first_token_seconds_count {0}00
switchgear_replicas{{model="m",phase="ejected"}} 1
switchgear_refusals_total{{code="overloaded"}} {0}
switchgear_refusals_total{{code="insufficient_quota"}} {0}
switchgear_ledger_gap_nanousd -5
switchgear_cache_error_estimate 0.02
switchgear_cache_error_bound 0.01
switchgear_traces_total{{outcome="dropped"}} {0}
switchgear_keys_expiring 2
switchgear_loop_failures_total{{loop="ledger"}} {0}0
"""


@contextlib.contextmanager
def telling(text: str) -> Iterator[int]:
    """Serve metrics whose counters grow; gives the port."""
    scrapes = itertools.count(1)

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.format(next(scrapes)).encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def engine(number: int) -> str:
    """Give what an engine says after so many requests; a quarter of its prompts was cached."""
    spreads = "\n".join(
        f'vllm:{name}_seconds_bucket{{le="1.0"}} {number}\nvllm:{name}_seconds_bucket{{le="+Inf"}} {number}\n'
        f"vllm:{name}_seconds_sum {number / 8}\nvllm:{name}_seconds_count {number}"
        for name in SPREADS
    )
    return ENGINE.format(number * 4, number, spreads)


class House:
    """A gateway that did counted work, and the Prometheus that watched."""

    def __init__(self, gateway: Gateway, prometheus: Prometheus, fired: set[str]) -> None:
        self.gateway, self.prometheus, self.fired = gateway, prometheus, fired
        self.statuses: dict[str, int] = {}
        self.by_model: dict[str, dict[str, int]] = {}
        """The statuses of what each model was asked; of a route, the model that answered."""
        self.sent = self.answered = 0
        self.between = (0.0, 0.0)
        """The scrapes before and after the work that is counted in ``statuses``."""

    def chat(self, name: str, prompt: str, **fields: object) -> None:
        """Ask, and count the answer ourselves."""
        status, headers, _ = self.gateway.chat(name, prompt, **fields)
        self.statuses[str(status)] = self.statuses.get(str(status), 0) + 1
        served = headers["x-switchgear-model"] if name == "auto" else name
        theirs = self.by_model.setdefault(served, {})
        theirs[str(status)] = theirs.get(str(status), 0) + 1
        self.sent += 1
        self.answered += status == 200

    def work(self, times: int) -> None:
        """Do one of each kind, so often."""
        self.statuses.clear()
        self.by_model.clear()
        for _ in range(times):
            self.chat("small", script("ok", n=4))  # the first is kept, the others are hits
            for name in ("small", "large"):
                self.chat(name, script("ok", tag=unique(), n=4))
            # The same words always, so that the same tier answers: no series begins within the counted work.
            self.chat("auto", script("ok", n=4), headers={"x-switchgear-cache": "bypass"})
            self.chat("large", script("ok", tag=unique(), n=9), stream=True)
            self.chat("small", script("400", tag=unique()))
            self.chat("failing", script("500", tag=unique()))
            dear = {"max_tokens": 40, "headers": {"authorization": f"Bearer {LIMITED}"}}
            self.chat("small", script("ok", tag=unique(), n=40), **dear)

    def seen(self) -> float:
        return self.prometheus.value("switchgear_requests_total")

    def scraped_s(self) -> float:
        return self.prometheus.scraped_s("switchgear_requests_total")

    @property
    def worked_s(self) -> float:
        return self.between[1] - self.between[0]

    def shown(self, expression: str, **chosen: str) -> list[tuple[dict[str, str], float]]:
        """Ask about the counted work: all windows reach from the scrape before it to the one after it.

        Both are samples, so nothing is extrapolated, however long the work took. ``chosen`` are values of the
        board's variables; the others are at All.
        """
        begin_s, end_s = self.between
        window = f"{round((end_s - begin_s) * 1000)}ms"
        text = expression.replace("$__rate_interval", window)
        text = re.sub(r"\$(model|route|replica)", lambda found: chosen.get(found[1], ".*"), text)
        return self.prometheus.query(text, end_s)

    def value(self, expression: str) -> float:
        return sum(value for _, value in self.shown(expression))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    binary("prometheus")  # skips before anything has been started
    directory, upstreams = tmp_path_factory.mktemp("dashboards"), Upstreams(4)
    redis = RedisServer(directory)
    ports = upstreams.ports
    models = model("small", ports[:2]) + model("large", ports[2:3])
    models += model("failing", ports[3:], max_attempts=1) + SHARED
    settings = config(
        models,
        directory=directory,
        cache="exact_ttl_s = 3600",
        more=f'{BROKE}[redis]\nurl = "{redis.url}"\ntimeout_ms = 2000\n',
    )
    upstreams.control(metrics=engine(0))
    with collecting() as collector, alertmanager(directory) as (alerts, fired):
        gateway = Gateway(directory, settings, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        with running(gateway, upstreams):
            until(gateway.ready)
            jobs = {"switchgear": [gateway.port], "dcgm": ports[:1]}
            prometheus = Prometheus(directory, jobs, alerts)
            made = House(gateway, prometheus, fired)
            made.work(3)
            while "503" not in made.statuses or "429" not in made.statuses:
                made.chat("failing", script("500", tag=unique()))
            until(lambda: made.seen() == made.sent)
            until(lambda: prometheus.value(RUNNING) == 9)
            until(lambda: prometheus.query("switchgear_ledger_gap_nanousd") != [])
            begin_s = made.scraped_s()
            made.work(8)
            upstreams.control(metrics=engine(80))
            until(lambda: made.seen() == made.sent)
            until(lambda: prometheus.value(GENERATED) == 3 * 320)
            until(lambda: len([row for row in gateway.rows() if row["amount_nanousd"]]) == made.answered)
            until(lambda: budgets(gateway) != [])
            until(lambda: len(prometheus.query("switchgear:first_token:ratio_rate1h")) == 1)
            ruled_s = prometheus.scraped_s("switchgear:first_token:ratio_rate1h")
            until(lambda: made.scraped_s() >= ruled_s)
            made.between = (begin_s, made.scraped_s())
            while ready(made, "failing") != [0]:  # it is tried again now and then, and ready in between
                made.chat("failing", script("500", tag=unique()))
                until(lambda: made.seen() == made.sent)
                made.between = (begin_s, made.scraped_s())
            yield made
            prometheus.close()
    redis.close()


def ready(house: House, chosen: str) -> list[float]:
    """Give how many replicas of a model the panel says are ready."""
    return [value for _, value in house.shown(one("Wanted and ready").queries[1][1], model=chosen)]


def budgets(gateway: Gateway) -> list[object]:
    """Give what the ledger says of budgets that are half used."""
    engine = database.connect(f"sqlite:///{gateway.directory / 'gateway.db'}")
    with engine.connect() as connection:
        rows = connection.execute(sa.text(one("Budgets at their thresholds").queries[0][1])).all()
    engine.dispose()
    return list(rows)


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=lambda one: getattr(one, "uid", None) or one.title)
def test_a_panel_shows_figures(house: House, board: Board, panel: Panel) -> None:
    assert panel.title
    assert panel.text.endswith(".")
    assert panel.unit
    assert panel.empty
    shown = 0
    for _, query in panel.queries:
        if panel.sql:
            engine = database.connect(f"sqlite:///{house.gateway.directory / 'gateway.db'}")
            with engine.connect() as connection:
                shown += len(connection.execute(sa.text(query)).all())
            engine.dispose()
        else:
            shown += len([value for _, value in house.shown(query) if value == value])
    assert (shown == 0) == (panel.title in EMPTY), f"{panel.title} of {board.title}"


def one(title: str) -> Panel:
    (found,) = [panel for _, panel in PANELS if panel.title == title]
    return found


def figures(house: House, title: str, label: str, number: int = 0) -> dict[str, float]:
    found = house.shown(one(title).queries[number][1])
    return {labels.get(label, ""): value for labels, value in found if value > 0}


def test_what_panels_show_is_what_was_sent(house: House) -> None:
    rates, done = figures(house, "Requests by status", "status"), sum(house.statuses.values())
    shares = {status: rate / sum(rates.values()) for status, rate in rates.items()}
    assert shares == pytest.approx({status: count / done for status, count in house.statuses.items()})
    hits = figures(house, "Hits by kind", "cache")
    assert hits["hit-exact"] / sum(hits.values()) == pytest.approx(8 / done)
    refused = figures(house, "Why requests were refused", "code")
    assert refused["insufficient_quota"] == pytest.approx(rates["429"])
    tiers = figures(house, "Share of tiers", "model")
    assert sum(tiers.values()) == pytest.approx(1.0)
    for title, share in (
        ("Prefix cache hits", 0.25),
        ("Speculative acceptance", 0.25),
        ("Time in the engine", 0.125),
    ):
        shown = figures(house, title, "replica")
        assert {"small-0", "small-1", "large-0"} <= set(shown)
        assert list(shown.values()) == pytest.approx([share] * len(shown)), title
    assert figures(house, "GPU utilisation", "gpu") == {"0": 55.0}
    assert figures(house, "Wanted and ready", "model", 1)["small"] == 2
    assert figures(house, "Reconciliation gap", "") == {}  # a gap of nothing
    failed = sum(count for status, count in house.statuses.items() if ours(int(status)))
    available = house.value(recorded(one("Availability, 1 h").queries[0][1]).replace("[1h]", f"[{RATE}]"))
    assert 1 - available == pytest.approx(failed / done)


CHOICES = {
    "model": (("small", "large", "failing"), ("model", "gen_ai_response_model")),
    "route": (("auto",), ("route",)),
    "replica": (("small-0", "small-1", "large-0", "failing-0"), ("replica",)),
}
CHOSEN = [
    (panel, query, variable)
    for _, panel in PANELS
    for _, query in panel.queries
    for variable in CHOICES
    if f"${variable}" in query
]


@pytest.mark.parametrize(("panel", "query", "variable"), CHOSEN, ids=lambda one: getattr(one, "title", None))
def test_a_chosen_value_shows_its_series_and_no_other(
    house: House, panel: Panel, query: str, variable: str
) -> None:
    values, labels = CHOICES[variable]
    every = told(house.shown(query))
    assert {dict(key)[label] for key in every for label in labels if label in dict(key)} <= set(values)
    for value in values:
        found = told(house.shown(query, **{variable: value}))
        if any(label in dict(key) for key in every for label in labels):
            wanted = {
                key: seen for key, seen in every.items() if value in [dict(key).get(one) for one in labels]
            }
            assert found == pytest.approx(wanted), f"{panel.title}, {variable} {value}"
        else:
            assert set(found) <= set(every)
    assert told(house.shown(query, **{variable: "nobody"})) == {}


def told(found: list[tuple[dict[str, str], float]]) -> dict[tuple[tuple[str, str], ...], float]:
    """Give the figures of series that have one."""
    return {tuple(sorted(labels.items())): value for labels, value in found if value == value}


@pytest.mark.parametrize("chosen", ["small", "large", "failing"])
def test_a_chosen_models_figures_are_its_own(house: House, chosen: str) -> None:
    def counted(title: str, label: str, number: int = 0) -> dict[str, int]:
        found = house.shown(one(title).queries[number][1], model=chosen)
        return {labels.get(label, ""): round(value * house.worked_s) for labels, value in found if value > 0}

    statuses = house.by_model[chosen]
    assert counted("Requests by status", "status") == statuses
    assert sum(counted("Hits by kind", "cache").values()) == sum(statuses.values())
    assert counted("Hits by kind", "cache").get("hit-exact", 0) == (8 if chosen == "small" else 0)
    ended = {"small": 8 * (1 + 1), "large": 8 * 2, "failing": 0}
    assert counted("Attempts by outcome", "outcome").get("ok", 0) >= ended[chosen]
    assert ready(house, chosen) == [{"small": 2, "large": 1, "failing": 0}[chosen]], "none is 0, not nothing"


def test_a_chosen_replicas_and_routes_figures_are_its_own(house: House) -> None:
    for replica in ("small-0", "small-1", "large-0"):
        for title in ("Tokens per second", "Prompt tokens per second"):
            (panel,) = [each for board, each in PANELS if each.title == title and board.uid.endswith("fleet")]
            ((labels, value),) = house.shown(panel.queries[0][1], replica=replica)
            assert labels == {"replica": replica}
            assert value * house.worked_s == pytest.approx(320.0)
        ((_, running_now),) = house.shown(one("Running in the engine").queries[0][1], replica=replica)
        assert running_now == 3
    reasons = house.shown(one("Reasons").queries[0][1], route="auto")
    assert sum(value for _, value in reasons) * house.worked_s == pytest.approx(8)


def recorded(expression: str) -> str:
    """Put what a rule records in the place of its name: rules are evaluated at times of their own."""
    rules = (ROOT / "dashboards/prometheus/rules.yml").read_text()
    for name, text in re.findall(r"record: (\S+)\n +expr: (.+)", rules):
        expression = re.sub(rf"{name}\b", f"({text})", expression)
    return expression


def test_what_tables_of_the_ledger_show_is_what_was_billed(house: House) -> None:
    billed = sum(row["amount_nanousd"] for row in house.gateway.rows())
    assert billed > 0
    engine = database.connect(f"sqlite:///{house.gateway.directory / 'gateway.db'}")
    for title in ("Spend by organisation", "Spend by project and model", "Money saved by day",
                  "Requests and money by source"):  # fmt: skip
        with engine.connect() as connection:
            rows = connection.execute(sa.text(one(title).queries[0][1])).mappings().all()
        assert sum(row["billed_usd"] for row in rows) == pytest.approx(billed / 1e9), title
    with engine.connect() as connection:
        settled = connection.execute(sa.text(one("Settled by day").queries[0][1])).mappings().all()
    assert sum(row["settled_usd"] for row in settled) == pytest.approx(billed / 1e9)
    engine.dispose()


def test_alerts_reach_people_through_the_alertmanager(house: House) -> None:
    expected = {"SwitchgearErrorBudgetBurn", "SwitchgearBudgetExhausted", "SwitchgearReplicaEjected"}
    until(lambda: expected <= house.fired)
    assert not {"SwitchgearReconciliationGap", "SwitchgearDown", "SwitchgearKeysExpire"} & house.fired


@pytest.mark.soak
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_pictures_of_the_boards_are_drawn(house: House, board: Board, tmp_path: Path) -> None:
    """``REGOLD=1`` puts them into docs; panels of this house without figures say why, as in Grafana."""
    engine = database.connect(f"sqlite:///{house.gateway.directory / 'gateway.db'}")

    def of(panel: Panel) -> pictures.Series | pictures.Table:
        if panel.sql:
            with engine.connect() as connection:
                rows = connection.execute(sa.text(panel.queries[0][1])).mappings().all()
            return [dict(row) for row in rows]
        found: pictures.Series = []
        for named, query in panel.queries:
            text = re.sub(r"\$(model|route|replica)", ".*", query.replace("$__rate_interval", "5s"))
            for labels, line in house.prometheus.over(text, house.between[0], house.between[1], 0.5):
                legend = named
                for label, value in labels.items():
                    legend = legend.replace(f"{{{{{label}}}}}", value)
                found += [(legend, line)] if line else []
        return found

    to = tmp_path / f"{board.uid}.png"
    if os.environ.get("REGOLD"):
        to = ROOT / "docs/img" / to.name
    text = pictures.page(board, of)
    pictures.draw(text, to, -(-len(board.panels) // 3))
    engine.dispose()
    assert to.stat().st_size > 20_000
    assert len(re.findall("<polyline|class=stat|<table", text)) >= len(board.panels) // 3


def test_each_alert_of_the_rules_is_delivered(tmp_path: Path) -> None:
    """By a real Prometheus and Alertmanager, of a gateway with all ills, and one that is gone."""
    rules = (ROOT / "dashboards/prometheus/rules.yml").read_text()
    with telling(ILLS) as port, alertmanager(tmp_path) as (alerts, fired):
        prometheus = Prometheus(tmp_path, {"switchgear": [port, free_port()]}, alerts)
        try:
            until(lambda: set(re.findall(r"alert: (\S+)", rules)) <= fired)
        finally:
            prometheus.close()


def test_tables_of_the_ledger_are_read_by_postgresql(postgres: str) -> None:
    engine = database.connect(postgres)
    database.migrate(engine)
    for _, panel in PANELS:
        if panel.sql:
            with engine.connect() as connection:
                connection.execute(sa.text(panel.queries[0][1]))
    engine.dispose()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_json_is_what_the_code_says(board: Board) -> None:
    """Write it anew by ``python -m dashboards.grafana.build``."""
    assert (ROOT / "dashboards" / "grafana" / f"{board.uid}.json").read_text() == render(board)


def test_every_metric_has_a_panel_and_every_panel_a_metric() -> None:
    rules = (ROOT / "dashboards/prometheus/rules.yml").read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    text = "\n".join(query for _, panel in PANELS if not panel.sql for _, query in panel.queries)
    used = set(re.findall(r"\b(?:switchgear_|gen_ai_|switchgear:)[a-z_:0-9]+\b", text + rules))
    labels = {label for metric in METRICS for label in metric.labels}
    names = {metric.name for metric in METRICS}
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used - labels - recorded}
    assert used <= names
    assert names - used <= UNSEEN


UNSEEN = {
    "gen_ai_client_token_usage",  # the distribution of what switchgear_tokens_total sums up
}


def test_what_every_gateway_tells_alike_is_never_added_up() -> None:
    """Three gateways that scrape one engine would show three times its tokens."""
    for metric in METRICS:
        for _, panel in PANELS:
            for _, query in panel.queries:
                if metric.alike and not metric.kind.endswith("histogram") and " / " not in query:
                    summed = rf"sum( by \([^)]*\))? \((rate\()?{metric.name}\b"
                    assert not re.search(summed, query), f"{panel.title}: {query}"


def test_rules_pass_their_own_tests() -> None:
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            [binary("promtool"), *command], cwd=ROOT / "dashboards/prometheus", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_runbook() -> None:
    rules = Path(ROOT / "dashboards/prometheus/rules.yml").read_text()
    tests = Path(ROOT / "dashboards/prometheus/rules_test.yml").read_text()
    guide = Path(ROOT / "docs/observability.md").read_text()
    for alert in re.findall(r"alert: (\S+)", rules):
        assert f"### {alert}\n" in guide
        assert len(re.findall(rf"\b{alert}\b", tests)) >= 2, alert
