"""Large pages: only what is the process's own and nearly full, never more than that."""

import re
import subprocess
import sys
from pathlib import Path

from gateway.pages import LARGE_BYTES, areas

MIB = 1024 * 1024


def area(
    start: int, size: int, rss: int, *, rights: str = "rw-p", inode: int = 0, name: str = ""
) -> list[str]:
    return [
        f"{start:x}-{start + size:x} {rights} 00000000 00:00 {inode}    {name}".rstrip(),
        f"Size:          {size // 1024} kB",
        f"Rss:           {rss // 1024} kB",
    ]


def test_an_area_gives_the_large_pages_that_lie_within_it() -> None:
    start = 10 * LARGE_BYTES + 4096
    assert list(areas(area(start, 6 * MIB, 6 * MIB))) == [(11 * LARGE_BYTES, 2 * LARGE_BYTES)]
    assert list(areas(area(start, 6 * MIB, 6 * MIB, name="[heap]"))) == [(11 * LARGE_BYTES, 2 * LARGE_BYTES)]


def test_what_is_small_half_empty_or_not_its_own_is_left_alone() -> None:
    start = 10 * LARGE_BYTES
    for one in (
        area(start + 4096, 3 * MIB, 3 * MIB),
        area(start, 8 * MIB, 7 * MIB),
        area(start, 8 * MIB, 8 * MIB, rights="r-xp", inode=7, name="/usr/lib/libc.so.6"),
        area(start, 8 * MIB, 8 * MIB, rights="rw-s", inode=7, name="/dev/shm/tallies"),
        area(start, 8 * MIB, 8 * MIB, name="[stack]"),
        area(start, 8 * MIB, 8 * MIB, rights="---p"),
    ):
        assert list(areas(one)) == []
    assert list(areas(["no map at all", "Rss:  9 kB"])) == []


PROGRAM = """
import re
from pathlib import Path
from gateway.pages import collapse

def large():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return tuple(int(re.search(name + r":\\s+(\\d+)", rollup)[1]) * 1024 for name in ("AnonHugePages", "Rss"))

held = [bytes(400) for _ in range(100_000)]
before, rss_before = large()
taken = collapse()
after, rss_after = large()
print(taken, after - before, rss_after - rss_before)
"""


def test_the_kernel_takes_what_it_is_asked_for_and_the_process_does_not_grow() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    taken, larger, grown = map(int, re.findall(r"-?\d+", found.stdout))
    assert larger >= taken // 2  # (a kernel that cannot takes nothing)
    assert grown <= taken // 8 + 4 * MIB  # what was missing of areas that were nearly full


SCATTERED = """
from gateway.pages import trim

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

kept = [bytes(8000) for _ in range(8000)]
del kept[1:-1:2], kept[1:-1:2]
before = rss()
print(trim(), before - rss())
"""


def test_what_lies_free_between_blocks_in_use_goes_back() -> None:
    program = [sys.executable, "-c", SCATTERED]
    free, given = map(int, subprocess.run(program, capture_output=True, check=True).stdout.split())
    assert free > 16 * MIB
    assert given > 8 * MIB
