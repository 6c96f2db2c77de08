"""A repeat that is asked anew, and no model that answers: what was kept is better than nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import until
from tests.integration.asking import SETTINGS, Asker, about
from tests.integration.gateway import Gateway, Upstreams, config, model, running

QUESTION, OTHER = "how can i clean a saddle", "how can i clean a bottle"


@pytest.fixture
def doubted(tmp_path: Path) -> Iterator[Gateway]:
    """Give a gateway that asks nearly all repeats anew, of a model that fails."""
    upstreams = Upstreams(2)
    models = model("m", upstreams.ports[:1]) + model("vectors", upstreams.ports[1:], kind="embedding")
    text = config(models, cache=SETTINGS, directory=tmp_path)
    with running(Gateway(tmp_path, text), upstreams) as (gateway, _):
        until(gateway.ready)
        upstreams.control(default={"about": about("saddle", "bottle")})
        asker = Asker(gateway, temperature=0)
        kept = [asker.settled(one)[1] for one in (QUESTION, OTHER)]
        upstreams.control(default={"about": about(saddle=" ".join(["leather"] * 6), bottle=kept[1])})
        until(lambda: asker.ask(QUESTION)[1] != kept[0])
        upstreams.control(mood={"port": upstreams.ports[0], "fault": "500"})
        yield gateway


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_that_no_model_answers_is_given_what_was_kept(doubted: Gateway, stream: bool) -> None:
    asked = 0
    for _ in range(12):
        status, headers, body = doubted.chat("m", OTHER, stream=stream, temperature=0)
        assert status == 200, body
        assert headers["x-switchgear-cache"] == "hit-exact"
        assert b"bottle" in body
        assert body.endswith(b"data: [DONE]\n\n") or not stream
        asked += "x-switchgear-attempts" in headers
    assert asked > 0
    assert doubted.chat("m", "how can i clean a lamp", stream=stream)[0] >= 500
