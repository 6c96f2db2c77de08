"""One read of the weights for several replicas: into the page cache, while the engine still imports itself.

A read, not an advice: the kernel cuts what it is advised of to a few hundred KiB a call. Where nothing can be
read nothing is lost, the engine will say what is wrong.
"""

import contextlib
import os
import threading
from pathlib import Path

PATTERNS = ("*.safetensors", "*.bin", "*.gguf")
CHUNK_BYTES = 4 << 20


def prefetch(weights: str) -> threading.Thread:
    """Read a folder's weights in a thread of its own, which ends with the process."""
    thread = threading.Thread(target=_read, args=(Path(weights).expanduser(),), name="prefetch", daemon=True)
    thread.start()
    return thread


def _read(folder: Path) -> None:
    files = {file for pattern in PATTERNS for file in folder.glob(pattern)}
    buffer = bytearray(CHUNK_BYTES)
    for file in sorted(files):
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while os.readv(descriptor, [buffer]):
                    pass
            finally:
                os.close(descriptor)
