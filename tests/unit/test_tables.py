from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from headrace.pipeline.tables import Column, StreamingTable, clean, cut, fit, table

COLUMNS = (Column("time", 5), Column("key", 4, most=8, from_width=60), Column("result", rest=True), Column("model", 5))


def test_columns_keep_their_places_and_the_rest_is_cut() -> None:
    rows = StreamingTable(COLUMNS, 40)
    assert rows.head() == "time   result                      model"
    assert rows.row(("12:00", "k", "short", "m 1")) == "12:00  short                       m 1"
    assert rows.row(("12:00", "k", "a result that is too long for it", "m 1")) == (
        "12:00  a result that is too long…  m 1"
    )


def test_column_is_left_out_of_a_narrow_terminal_only() -> None:
    assert "key" not in StreamingTable(COLUMNS, 59).head()
    assert "key" in StreamingTable(COLUMNS, 60).head()


def test_column_grows_with_what_comes_up_to_its_most() -> None:
    rows = StreamingTable(COLUMNS, 60)
    rows.row(("12:00", "a-very-long-key", "x", "m"))
    assert rows.row(("12:00", "short", "x", "m")).startswith("12:00  short     x")
    assert rows.row(("12:00", "a-very-long-key", "x", "m")).startswith("12:00  a-very-…  x")


@given(st.integers(1, 200), st.lists(st.tuples(*[st.text(max_size=60)] * 4), max_size=5))
def test_row_is_one_line_that_fits_whatever_is_in_it(width: int, cells: list[tuple[str, ...]]) -> None:
    rows = StreamingTable(COLUMNS, width)
    for row in cells:
        line = rows.row(row)
        assert cell_len(line) <= width
        assert line.isprintable()


@given(st.text(max_size=30), st.integers(1, 40))
def test_cut_and_fitted_texts_have_the_width_that_a_terminal_shows(text: str, width: int) -> None:
    text = clean(text)
    assert cell_len(cut(text, width)) <= width
    assert cell_len(fit(text, width)) == width
    if cell_len(text) <= width:
        assert cut(text, width) == text


def test_wide_letters_count_twice() -> None:
    assert cut("日本語", 6) == "日本語"
    assert cut("日本語", 5) == "日本…"


def test_nothing_that_a_terminal_would_obey_is_shown() -> None:
    assert clean("two\nlines\t\x1b[31mred\x07\u202e") == "two lines \\x1b[31mred\\x07\\u202e"


def test_whole_table_is_as_wide_as_its_cells_and_numbers_stand_right() -> None:
    rows = [("long name", "7", "x"), ("n", "1,000", "")]
    assert table(("name", "lag", "note"), rows, right=(1,)) == [
        "name         lag  note",
        "long name      7  x",
        "n          1,000",
    ]
    assert table(("name", "lag", "note"), rows, width=12) == ["name…", "long name…", "n…"]
