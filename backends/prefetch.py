"""One read of the weights for several replicas: into the page cache, while the engine still imports itself.

The kernel reads on its own; where it is told nothing (another file system, no such folder) nothing is lost.
"""

import contextlib
import os
from pathlib import Path

PATTERNS = ("*.safetensors", "*.bin", "*.gguf")


def prefetch(weights: str) -> None:
    """Ask the kernel to read a folder's weights ahead; blocks for moments only."""
    folder = Path(weights).expanduser()
    files = {file for pattern in PATTERNS for file in folder.glob(pattern)}
    for file in sorted(files):
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
