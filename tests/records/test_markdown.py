"""Tables in Markdown come back as they were, whatever their cells hold."""

from hypothesis import given
from hypothesis import strategies as st

from kbn.records import markdown

CELLS = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(
    lambda text: " ".join(text.split()) or "x"
)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_what_is_read_is_what_was_written(rows):
    assert markdown.read(markdown.table(rows[0], rows[1:])) == rows


def test_what_is_no_table_is_none():
    assert markdown.read("") == markdown.read("a | b\n# c") == []
