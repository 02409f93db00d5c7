"""Where a label may come, however the text is cut into tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from triton_models.proguard.guard.label_lines import LineTail

LINES = ["Request:safe", "Request:unsafe", "Response:safe", "Response:unsafe"]
TEXT = "".join


@given(st.lists(st.sampled_from([*"Requstpon:saf", "\n", "Request:", "Response", "<think>"]), max_size=20), st.data())
def test_a_label_may_come_exactly_where_the_line_begins_one(letters: list[str], data: st.DataObject) -> None:
    text = TEXT(letters)
    tail = LineTail()
    rest = text
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        tail.write(rest[:cut].encode())
        rest = rest[cut:]
    line = text.rpartition("\n")[2]
    assert tail.may_write_label == any(full.startswith(line) for full in LINES)
