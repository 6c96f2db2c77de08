"""Golden files: what a test renders is compared with a kept file; REGOLD=1 writes them anew."""

import os
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare with ``tests/golden/NAME``."""
    path = GOLDEN / name
    if os.environ.get("REGOLD") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing; REGOLD=1 writes it"
    assert text == path.read_text()
