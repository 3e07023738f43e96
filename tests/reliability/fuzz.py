"""Strategies for hostile files: any value, any text, and good files with a few changes."""

import json

from hypothesis import strategies as st

from captioner.errors import CaptionerError

ODD_TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\u2028",
    "a\nb",
    "../x",
    "x" * 300,
    "\ufeff",
    "1e999",
    "[bold]",
)
BOMBS = (b"9" * 5000, b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"\xef\xbb\xbf", b"\0", b"NaN")

texts = st.text(max_size=20) | st.sampled_from(ODD_TEXTS)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


@st.composite
def changed(draw, good):
    """Draw values like `good`, with parts left out, repeated, added or replaced by anything."""
    if draw(st.integers(0, 9)) == 9:
        return draw(values)
    if isinstance(good, dict):
        kept = {
            key: draw(changed(value))
            for key, value in good.items()
            if draw(st.integers(0, 19)) < 19
        }
        return kept | draw(st.just({}) | st.dictionaries(texts, values, max_size=1))
    if isinstance(good, list):
        return [
            draw(changed(value))
            for value in good
            for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2])))
        ]
    return good


@st.composite
def damaged(draw, files):
    """Draw the bytes of a file, some of them replaced, or the file cut short."""
    data = bytearray(draw(files))
    others = st.binary(max_size=4) | st.sampled_from(BOMBS)
    for position, other in draw(st.lists(st.tuples(st.integers(0, len(data)), others), max_size=3)):
        data[position : position + draw(st.integers(0, 4))] = other
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def as_json(value):
    """Return one JSON text."""
    return json.dumps(value).encode()


def as_json_lines(value):
    """Return a line of JSON for each element."""
    return b"\n".join(map(as_json, value if isinstance(value, list) else [value]))


def result_or_none(read, *arguments):
    """Return the result, or None after a `CaptionerError`. Any other exception is a bug."""
    try:
        return read(*arguments)
    except CaptionerError:
        return None
