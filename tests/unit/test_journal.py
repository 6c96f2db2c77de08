"""The usage journal: nothing that was appended is lost, by crash, full disk or rotation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.tenancy import journal as journals
from gateway.tenancy.journal import Journal, JournalError, Line, orphans, read_lines, read_settled
from tests.fakes.entries import accepted, entry, progress

LINES: list[Line] = [accepted("r1"), progress("r1", 32), entry("r1")]


def lines(path: Path, offset: int = 0) -> list[Line]:
    return [line for line, _ in read_lines(path, offset)]


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "made" / "here", "a")
    segments = [journal.append(line) for line in LINES]
    (only,) = journal.segments()
    assert segments == [only] * 3
    assert lines(only.path) == LINES
    assert (only.path.stat().st_mode & 0o777, only.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    offsets = [offset for _, offset in read_lines(only.path)]
    assert offsets[-1] == only.size_bytes
    assert lines(only.path, offsets[0]) == LINES[1:]
    assert read_settled(only, 0, 10) == ([], offsets[0])
    assert read_settled(only, 0, 10**6) == ([LINES[2]], only.size_bytes)
    assert read_settled(only, offsets[1], 1) == ([LINES[2]], only.size_bytes)
    journal.close(settled=False)
    assert only.size_bytes == only.path.stat().st_size


KILLED = """
import os, sys
from pathlib import Path
from gateway.tenancy.journal import Journal
from tests.fakes.entries import accepted

journal = Journal(Path(sys.argv[1]), "a")
for number in range(100):
    journal.append(accepted(f"r{number}", model="m" * 20_000))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_wrote_is_there(tmp_path: Path) -> None:
    """Over several windows, with the zeros of the last one behind it."""
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert child.returncode == -9
    (path,) = tmp_path.iterdir()
    assert [line.request_id for line in lines(path)] == [f"r{number}" for number in range(100)]
    assert path.read_bytes().endswith(b"\0")


def test_settled_segments_go_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.append(LINES[0])
    journal.sync()
    journal.close(settled=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "torn", [b'["a","r2"', b'["p","r2","m","v",1,2,3,"x"]', b"\0\0\0\0", b'["a","r\xc3', b""]
)
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: bytes) -> None:
    journal = Journal(tmp_path, "x")
    for line in LINES:
        journal.append(line)
    journal.close(settled=False)
    path = next(tmp_path.iterdir())
    whole_bytes = path.stat().st_size
    with path.open("ab") as file:
        file.write(torn)
    assert [offset for _, offset in read_lines(path)][-1] == whole_bytes
    assert lines(path) == LINES


@pytest.mark.parametrize(
    "garbage", [b"garbage", b'["a","\xff\xfe"]', b'["z",1]', b"\0" * 64, b'["a"]', b"{}"]
)
def test_a_line_that_nobody_can_read_does_not_hide_the_others(tmp_path: Path, garbage: bytes) -> None:
    journal = Journal(tmp_path, "x")
    (segment,) = journal.segments()
    journal.append(LINES[0])
    segment.write(garbage + b"\n")
    journal.append(LINES[2])
    assert lines(segment.path) == [LINES[0], LINES[2]]
    journal.close(settled=False)


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot write the usage journal in"):
        Journal(tmp_path / "file" / "journal", "a")


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    big = accepted("r0", model="m" * (journals.SEGMENT_BYTES // 4))
    placed = [journal.append(big) for _ in range(5)]
    journal.append(LINES[0])
    first, second = journal.segments()
    assert placed == [first] * 4 + [second]
    assert lines(second.path) == [big, LINES[0]]
    assert all(segment.dirty for segment in journal.segments())
    journal.sync()
    assert not any(segment.dirty for segment in journal.segments())
    journal.drop(first)
    assert journal.segments() == [second]
    assert not first.path.exists()
    journal.close(settled=True)


def test_only_segments_of_processes_that_are_gone_are_taken(tmp_path: Path) -> None:
    live, gone = Journal(tmp_path, "live"), Journal(tmp_path, "gone")
    gone.append(LINES[0])
    assert orphans(tmp_path, set()) == []
    gone.close(settled=False)
    (tmp_path / "other.txt").write_text("")
    found = orphans(tmp_path, set())
    assert [path.name for path, _ in found] == ["gone-000001.jsonl"]
    assert orphans(tmp_path, set()) == []  # the lock is held by the first who took it
    for _, fd in found:
        os.close(fd)
    assert len(orphans(tmp_path, {found[0][0]})) == 0
    live.close(settled=True)


DISK_FULL = """
import resource, sys
from pathlib import Path
from gateway.tenancy.journal import Journal, JournalError
from tests.fakes.entries import accepted

journal = Journal(Path(sys.argv[1]), "a")
taken = []

def fill(limit, start):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    refused = 0
    for number in range(start, start + 60):
        try:
            journal.append(accepted(f"r{number}", model="m" * 20_000))
            taken.append(f"r{number}")
        except JournalError as error:
            assert "journal" in str(error), error
            refused += 1
    return refused

assert fill(1_200_000, 0) > 0  # room for one window
assert fill(1_600_000, 100) == 60
assert fill(resource.RLIM_INFINITY, 200) == 0
print(",".join(taken))
"""


def test_a_full_disk_refuses_lines_and_spoils_none(tmp_path: Path) -> None:
    """A file-size limit stands for the disk; then room comes back."""
    child = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    (path,) = tmp_path.iterdir()
    taken = child.stdout.strip().split(",")
    assert [line.request_id for line in lines(path)] == taken
    assert path.read_bytes().count(b"\n") == len(taken) > 60


def test_a_segment_that_cannot_be_followed_grows_on(tmp_path: Path) -> None:
    home = tmp_path / "journal"
    journal = Journal(home, "a")
    big = accepted("r0", model="m" * journals.SEGMENT_BYTES)
    moved = home.rename(tmp_path / "moved")
    assert journal.append(big) is journal.append(LINES[0])
    assert len(journal.segments()) == 1
    moved.rename(home)
    journal.append(LINES[0])
    first, second = journal.segments()
    assert lines(first.path) == [big, LINES[0], LINES[0]]
    assert second.path.exists()
    journal.close(settled=True)
