"""Text assembly: whole characters, exact stop strings, nothing of a stop ever emitted."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacore.engine.text import StopMatcher, TextAssembler
from llamacore.errors import InvalidArgumentError


def cut(data, places):
    """Cut a string or bytes at the given places (taken modulo its length)."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


def expected(text, stops):
    """The text before the stop string that is complete first, by the plainest means: character by character."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 99)),
)
def test_stop_is_found_however_the_text_is_cut(text, stops, places):
    """What is emitted is the text before the first stop, for any way of cutting it into pieces."""
    matcher = StopMatcher(stops)
    emitted = "".join(matcher.push(piece) for piece in cut(text, places)) + matcher.finish()
    assert expected(text, stops) == emitted
    assert (matcher.matched is not None) == any(stop in text for stop in stops)


@given(st.text("ab", max_size=30), st.lists(st.integers(0, 99)))
def test_no_part_of_a_stop_is_emitted_early(text, places):
    """At every moment what was emitted is a beginning of the final text."""
    matcher = StopMatcher(["abab", "bb"])
    final = expected(text, ["abab", "bb"])
    emitted = ""
    for piece in cut(text, places):
        emitted += matcher.push(piece)
        assert final.startswith(emitted)


@given(st.text(max_size=30), st.lists(st.integers(0, 200)))
def test_characters_cut_into_bytes_come_out_whole(text, places):
    """UTF-8 split anywhere decodes to the same text, and no chunk holds half a character."""
    assembler = TextAssembler()
    raw = text.encode()
    chunks = [assembler.push(piece) for piece in cut(raw, places)]
    assert "".join(chunks) + assembler.finish() == text


def test_bytes_that_are_not_utf8_become_replacement_characters():
    """Invalid and cut-off sequences are shown as U+FFFD, the rest is kept."""
    assembler = TextAssembler()
    assert "a\ufffdb" == assembler.push(b"a\xffb")
    assert "" == assembler.push(b"\xf0\x9f")
    assert "\ufffd" == assembler.finish()


def test_stop_across_an_incomplete_character_at_the_end():
    """A stop that is complete only when the decoder is flushed still ends the text."""
    assembler = TextAssembler(["x\ufffd"])
    assert "" == assembler.push(b"x\xe2")
    assert "" == assembler.finish()
    assert "x\ufffd" == assembler.matched


def test_of_two_stops_that_end_together_the_longer_is_reported():
    """Generation ends when a stop is complete; the longest of those is the one that is cut off."""
    matcher = StopMatcher(["c", "abc", "abcd"])
    assert "x" == matcher.push("xabcd")
    assert "abc" == matcher.matched


def test_empty_stop_is_refused():
    """An empty stop string would stop everywhere: it is an error."""
    with pytest.raises(InvalidArgumentError, match="empty"):
        StopMatcher(["a", ""])
