"""Pages: every row once and in order, whatever the size of a page."""

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from gateway.tenancy import paging
from gateway.tenancy.paging import CursorError, Window, page

IDS = st.text("abcXYZ019-_.:/", min_size=1, max_size=20)
TABLE = sa.Table(
    "things", sa.MetaData(), sa.Column("created_s", sa.Float), sa.Column("id", sa.String, primary_key=True)
)


@given(
    st.dictionaries(IDS, st.floats(1, 2e9).map(lambda at: round(at, 6)), max_size=12),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_row_comes_once_and_in_order(rows: dict[str, float], limit: int, newest_first: bool) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        TABLE.create(connection)
        for row_id, at in rows.items():
            connection.execute(sa.insert(TABLE).values(id=row_id, created_s=at))
        found: list[tuple[float, str]] = []
        cursor = None
        while True:
            order = (TABLE.c.created_s, TABLE.c.id)
            part, cursor = page(
                connection, sa.select(TABLE), order, Window(limit, cursor), newest_first=newest_first
            )
            assert len(part) <= limit
            found += [(row["created_s"], row["id"]) for row in part]
            if cursor is None:
                break
            assert paging.place(cursor) == found[-1]
    assert found == sorted(((at, row_id) for row_id, at in rows.items()), reverse=newest_first)
    engine.dispose()


@pytest.mark.parametrize("text", ["", "~", "1~", "~a", "x~a", "1e5~a", "-1~a", "1~a\0", "1~a\n", "1.5~a b"])
def test_what_no_list_gave_is_no_cursor(text: str) -> None:
    with pytest.raises(CursorError):
        paging.place(text)
