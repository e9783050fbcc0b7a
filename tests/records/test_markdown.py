"""Tables in Markdown come back as they were, whatever their cells hold."""

from hypothesis import given
from hypothesis import strategies as st

from kbn.records import markdown

CELLS = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(
    lambda text: " ".join(text.split()) or "x"
)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_a_table_is_read_as_it_was_written(rows):
    assert markdown.read(markdown.table(rows[0], rows[1:])) == rows


def test_text_without_a_table_has_no_rows():
    assert markdown.read("") == markdown.read("a | b\n# c") == []
