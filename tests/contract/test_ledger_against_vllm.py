"""The ledger against the token counters of the real vLLM behind it, by ``switchgear ledger reconcile``."""

import json
import secrets
from typing import Any

import pytest

from tests.appliance import Appliance
from tests.contract.cases import CHAT, COMPLETIONS
from tests.fakes.processes import until

pytestmark = pytest.mark.soak


def checked(appliance: Appliance) -> dict[str, int]:
    """Give the counts of the small model's engine; the command itself must be content."""
    config = str(appliance.home / "switchgear.toml")
    report = json.loads(appliance.switchgear("ledger", "reconcile", "--config", config, "--json"))
    assert (report["gap_nanousd"], report["missing"], report["doubled"]) == (0, [], [])
    (found,) = [check for check in report["engines"] if check["replica"] == "small-0"]
    return {name: count for name, count in found.items() if name.endswith("_tokens")}


def test_what_is_billed_is_what_the_engine_counted(appliance: Appliance) -> None:
    before = checked(appliance)
    for number in range(12):
        ask: dict[str, Any] = {"model": "small", "max_tokens": 4 + number, "ignore_eos": True}
        words = f"{secrets.token_hex(4)} " * (1 + 3 * number)
        if number % 3:
            body = {**ask, "messages": [{"role": "user", "content": words}], "stream": number % 3 == 1}
            reply = appliance.post(CHAT, body)
        else:
            reply = appliance.post(COMPLETIONS, {**ask, "prompt": words})
        assert reply.status == 200, reply.body
        row = appliance.row(reply.headers["x-request-id"])
        assert (row["completion_tokens"], row["estimated"]) == (4 + number, False)

    def grown() -> dict[str, int]:
        return {name: count - before[name] for name, count in checked(appliance).items()}

    until(lambda: grown()["engine_completion_tokens"] >= sum(range(4, 16)), 60.0)
    after = grown()
    assert after["ledger_completion_tokens"] == after["engine_completion_tokens"] == sum(range(4, 16))
    assert after["ledger_prompt_tokens"] == after["engine_prompt_tokens"] > 0
