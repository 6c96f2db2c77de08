"""Large pages for what the process holds.

A request touches some megabytes here and there, and on 4 kB pages a good part of its time goes into finding
where they lie, the more so after a pause. The kernel can be asked to put memory that is in use into pages of
2 MB at once (``MADV_COLLAPSE``, Linux 6.1). Only areas that are nearly full are: what was missing of them is
all that the process grows by.
Source: madvise(2), proc(5).
"""

import ctypes
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

LARGE_BYTES = 2 * 1024 * 1024
FULL = 0.9  # of an area, from which on it is worth it
MADV_COLLAPSE = 25

# mallopt(3): what is big comes from the kernel and goes back to it at once, all threads share the rest.
# By default the bound for "big" grows to 32 MB with the first large block that is freed, and each thread
# keeps what it freed for itself: a process that now and then makes a megabyte of bytes grows by a hundred.
# A bound of 2 MB spares a request half a page fault, 1 to 2 % of its CPU; with it, the process grew by 16 MiB
# a minute in the soak.
_MALLOC = ((-3, 256 * 1024), (-1, 256 * 1024), (-8, 1))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX

MUCH_BYTES = 16 * 1024 * 1024


class _Heap(ctypes.Structure):
    """``struct mallinfo2`` of the C library."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)")


def give_back() -> None:
    """Have freed memory go back to the system; where the C library is another one, nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for name, value in _MALLOC:
        mallopt(name, value)


def trim() -> int:
    """Give back what lies free between blocks in use, where it is much; gives how many bytes were free.

    The C library gives back by itself only what is free at the end of its heap. What is little stays: the
    process needs it again, and giving it back takes large pages apart.
    Source: mallinfo(3), malloc_trim(3).
    """
    library = ctypes.CDLL(None)
    try:
        ask, give = library.mallinfo2, library.malloc_trim
    except AttributeError:
        return 0
    ask.restype = _Heap
    free_bytes = int(ask().fordblks)
    if free_bytes >= MUCH_BYTES:
        give(ctypes.c_size_t(0))
    return free_bytes


def collapse() -> int:
    """Put the process's own memory into large pages; gives how many bytes the kernel took.

    Where it cannot (another system, an older kernel, no memory in one piece) nothing happens.
    """
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, UnicodeDecodeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return sum(size for start, size in areas(lines) if madvise(start, size, MADV_COLLAPSE) == 0)


def areas(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Give start and size in bytes, both multiples of a large page, of private memory that is nearly full."""
    start = end = 0
    for line in smaps:
        if (found := _AREA.fullmatch(line)) is not None:
            own = found[3].startswith("rw") and found[4] == "0" and found[5] in ("", "[heap]")
            start, end = (int(found[1], 16), int(found[2], 16)) if own else (0, 0)
        elif end and line.startswith("Rss:"):
            first, last = -(-start // LARGE_BYTES) * LARGE_BYTES, end // LARGE_BYTES * LARGE_BYTES
            if last > first and int(line.split()[1]) * 1024 >= FULL * (end - start):
                yield first, last - first
