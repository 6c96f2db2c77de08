"""What a model's directory says of itself, and which GPUs are here: reads files, asks `nvidia-smi`."""

import contextlib
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

from backends.placement import GIB, Gpu, Shape, UnknownShape, shape_of

AGAIN = "download the model's folder again, or name another one in `weights`"
HEADER_LIMIT_BYTES = 100 << 20
BANDWIDTH_GB = {
    "H200": 4800, "H100 PCIe": 2000, "H100": 3350, "B200": 8000, "A100-SXM4-80GB": 2039, "A100": 1555,
    "L40S": 864, "L4": 300, "A10": 600, "T4": 320, "RTX 4090": 1008, "RTX 3090": 936,
}  # fmt: skip
"""By a part of the name, the first that fits; the makers' figures."""


def read_shape(weights: str) -> Shape:
    """Read `config.json` and the safetensors' headers of a directory. Raises UnknownShape."""
    folder = Path(weights).expanduser()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UnknownShape(f"{folder}/config.json cannot be read: {error.strerror}; {AGAIN}") from None
    except ValueError as error:
        raise UnknownShape(f"{folder}/config.json is not JSON: {error}; {AGAIN}") from None
    if not isinstance(config, dict):
        raise UnknownShape(f"{folder}/config.json is not an object; {AGAIN}")
    files = sorted(folder.glob("*.safetensors"))
    return shape_of(config, sum(tensor_bytes(file) for file in files) or None)


def tensor_bytes(file: Path) -> int:
    """Bytes of the tensors in a safetensors file, by its header. Raises UnknownShape."""
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            if size > HEADER_LIMIT_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(opened.read(size))
        spans = [one["data_offsets"] for name, one in header.items() if name != "__metadata__"]
        return sum(end - start for start, end in spans)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UnknownShape(f"{file} is no safetensors file: {error}; {AGAIN}") from None


def found_gpus() -> list[Gpu]:
    """The GPUs of this machine; none where the driver's tool is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - fixed
        rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if line.strip()]
        return [described(name.strip(), int(mib) / 1024) for name, mib in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def described(name: str, memory_gib: float) -> Gpu:
    """A GPU by its name and memory."""
    rate = next((speed for part, speed in BANDWIDTH_GB.items() if part in name), 0)
    return Gpu(name=name, memory_bytes=round(memory_gib * GIB), bandwidth_bytes_per_s=rate * 1e9)


def host_memory_bytes() -> int:
    """The memory of this machine, or what its control group leaves of it; 0 where nobody says."""
    found = []
    for path, pattern, unit in (
        ("/proc/meminfo", r"MemTotal:\s+(\d+) kB", 1024),
        ("/sys/fs/cgroup/memory.max", r"(\d+)", 1),
    ):
        with contextlib.suppress(OSError):
            if match := re.match(pattern, Path(path).read_text(encoding="ascii")):
                found.append(int(match[1]) * unit)
    return min(found, default=0)
