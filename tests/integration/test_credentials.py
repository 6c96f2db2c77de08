"""``switchgear serve`` finds the admin key in ``credentials.json`` beside its configuration."""

import json
from pathlib import Path

from tests.integration.gateway import Gateway, Upstreams, call, config, model, running

ADMIN = "sk-sg-admin-" + "f" * 43


def status(gateway: Gateway, key: str) -> int:
    return call(gateway.port, "GET", "/admin/v1/orgs", headers={"authorization": f"Bearer {key}"})[0]


def test_the_file_counts_where_the_environment_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text(json.dumps({"api_key": "sk-x", "admin_key": ADMIN}))
    upstreams = Upstreams(1)
    text = config(model("small", upstreams.ports), directory=tmp_path)
    with running(Gateway(tmp_path, text), upstreams) as (gateway, _):
        assert (status(gateway, ADMIN), status(gateway, "sk-x")) == (200, 401)
        gateway.stop()
        other = Gateway(tmp_path, text, SWITCHGEAR_ADMIN_KEY="sk-other")
        assert (status(other, "sk-other"), status(other, ADMIN)) == (200, 401)
        assert other.stop() == 0
