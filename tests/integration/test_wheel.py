"""The wheel: built and put into an environment of its own, it serves the console without a Node."""

import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import until
from tests.integration.gateway import ROOT, Gateway, Upstreams, call, config, model, running

pytestmark = pytest.mark.soak
UV = Path(sys.executable).parent / "uv"
BUILT = ROOT / "dashboards" / "console" / "dist" / "index.html"


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUILT.is_file():
        pytest.skip("the console is not built: make console")
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of the wheel; only what it depends on comes from here, the tree itself does not."""
    folder = tmp_path_factory.mktemp("installed")
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "env")
    run(UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", folder / "env", wheel)
    (packages,) = folder.glob("env/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    upstreams = Upstreams(1)
    text = config(model("small", upstreams.ports), directory=folder)
    gateway = Gateway(folder, text, command=folder / "env" / "bin" / "switchgear", PYTHONPATH="")
    with running(gateway, upstreams):
        until(gateway.ready)
        yield gateway


def test_it_holds_the_built_console_and_not_what_it_is_made_of(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    console = [name for name in names if name.startswith("dashboards/console/")]
    assert "dashboards/console/dist/index.html" in console
    assert [name for name in console if not name.startswith("dashboards/console/dist/")] == []


def test_the_console_is_served_from_it(installed: Gateway) -> None:
    status, _, page = call(installed.port, "GET", "/console/requests")
    assert status == 200
    (script,) = re.findall(r'src="(/console/assets/[^"]+\.js)"', page.decode())
    status, headers, body = call(installed.port, "GET", script)
    assert status == 200
    assert "javascript" in headers["content-type"]
    assert len(body) > 100_000
