"""Where the engine's environment is, for tests that need the real vLLM and sentence-transformers."""

import os
from pathlib import Path

import pytest


def engine_python() -> str:
    """Its interpreter; skips by name where it is not built and not required."""
    built = Path(__file__).parents[1] / ".engine" / "bin" / "python"
    python = Path(os.environ.get("ENGINE_PYTHON", built))
    if not python.exists():
        assert os.environ.get("REQUIRE") != "all", f"the engine environment {python} is missing"
        pytest.skip("the engine environment is not built (make up builds it)")
    return str(python)
