"""However the lines of accepted requests are spread and torn, each gets exactly one row."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tenancy.carrier import settle_lines
from gateway.tenancy.journal import Entry, Journal, Line
from tests.fakes.entries import accepted, entry, progress


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), max_size=15),
    st.integers(1, 3),
    st.integers(0, 40),
)
def test_one_row_for_each_accepted_request(
    steps: list[tuple[int, int]], segments: int, torn_bytes: int
) -> None:
    written: list[Line] = []
    stage: dict[int, int] = {}
    for number, steps_on in steps:
        for _ in range(steps_on):
            at = stage.get(number, 0)
            name = f"r{number}"
            way: list[Line] = [accepted(name), progress(name, 32), progress(name, 64), entry(name)]
            written.append(way[min(at, 3)])
            stage[number] = at + 1
    with TemporaryDirectory() as folder:
        size = -(-len(written) // segments) or 1
        for start in range(0, len(written), size):
            journal = Journal(Path(folder), f"p{start:04d}")
            for line in written[start : start + size]:
                journal.append(line)
            journal.close(settled=False)
        paths = sorted(Path(folder).iterdir())
        if paths:
            data = paths[-1].read_bytes()
            paths[-1].write_bytes(data[: max(0, len(data) - torn_bytes)])
            lost = data.count(b"\n") - paths[-1].read_bytes().count(b"\n")
            written = written[: len(written) - lost]
        found = list(settle_lines(paths))
    settled = {line.request_id for line in written if isinstance(line, Entry)}
    assert {one.request_id for one in found} == {line.request_id for line in written}
    assert all(found.count(one) == written.count(one) for one in found if one.status == "ok")
    open_ = [one.request_id for one in found if one.status != "ok"]
    assert len(open_) == len(set(open_))
    assert {one.request_id for one in found if one.status == "ok"} == settled
