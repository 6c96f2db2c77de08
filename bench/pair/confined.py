"""Code that a model wrote, run in a child process with bounds: seconds, memory, no files, network, processes.

The bounds are for mishap, not for malice: the child has an empty environment and folder, limits of the
kernel, and an audit hook that ends it where it opens, connects or starts anything.
"""

import json
import resource
import subprocess
import sys
import tempfile
from typing import Any

CPU_S = 1
WALL_S = 20.0  # on a busy machine; the bound is the CPU's
MEMORY_BYTES = 512 * 1024 * 1024

_CHILD = """
import json, os, sys
told = json.load(sys.stdin)
out = os.fdopen(os.dup(1), "w")
sys.stdout = open(os.devnull, "w")
compiled = compile(told["code"], "answer", "exec")
calls = told["calls"]
import re, math, itertools, functools, collections, string, heapq, bisect, operator, typing  # before the hook
kinds = ("open", "socket", "subprocess", "os.", "shutil", "ctypes", "pty", "urllib", "ftplib", "http")
def hook(event, _):
    if event.startswith(kinds):
        os._exit(3)
sys.addaudithook(hook)
space = {"__name__": "answer"}
exec(compiled, space)
out.write(json.dumps([space[told["name"]](*arguments) for arguments, _ in calls]))
out.flush()
"""


def passes(code: str, name: str, calls: list[list[Any]]) -> bool:
    """Tell whether the code defines a function that gives the result of every ``[arguments, result]``."""
    asked = json.dumps({"code": code, "name": name, "calls": calls})
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CHILD],
                input=asked.encode(errors="replace"),
                capture_output=True,
                cwd=folder,
                env={},
                timeout=WALL_S,
                check=False,
                preexec_fn=_bound,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
    if done.returncode:
        return False
    try:
        return bool(json.loads(done.stdout) == [result for _, result in calls])
    except ValueError:
        return False


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
