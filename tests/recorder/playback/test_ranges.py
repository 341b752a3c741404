"""RFC 9110 section 14, by its examples and by properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.errors import RangeNotSatisfiable
from recorder.playback.ranges import ByteRange, matches, select_range

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-499", 0, 500),
        ("bytes=500-999", 500, 1000),
        ("bytes=-500", 9500, 10000),
        ("bytes=9500-", 9500, 10000),
        ("bytes=0-0", 0, 1),
        ("bytes=-1", 9999, 10000),
        ("bytes=0-", 0, 10000),
        ("Bytes=1-2", 1, 3),
        ("bytes=9999-20000", 9999, 10000),
        ("bytes=-20000", 0, 10000),
        ("bytes= 5-6", 5, 7),
        ("bytes=,5-6,", 5, 7),
        ("bytes=1-" + "9" * 400, 1, 10000),
        ("bytes=-" + "9" * 400, 0, 10000),
    ],
)
def test_a_satisfiable_range(header: str, start: int, end: int) -> None:
    assert select_range(header, 10000, etag=TAG) == ByteRange(start, end, 10000, partial=True)


@pytest.mark.parametrize(
    "header", ["bytes=10000-", "bytes=10000-10001", "bytes=-0", "bytes=" + "9" * 400 + "-"]
)
def test_a_range_outside(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        select_range(header, 10000, etag=TAG)
    assert caught.value.size == 10000


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=0-0"])
def test_nothing_of_an_empty_representation(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        select_range(header, 0, etag=TAG)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=2-1",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0-1,5-6",
        "items=0-1",
        "seconds=1-2",
        "b\xe4=0-1",
        "bytes=٣-٤",
        "bytes=0x1-2",
    ],
)
def test_what_is_ignored(header: str | None) -> None:
    assert select_range(header, 100, etag=TAG) == ByteRange(0, 100, 100, partial=False)


@pytest.mark.parametrize(
    ("if_range", "partial"),
    [
        (TAG, True),
        (f" {TAG} ", True),
        (None, True),
        (f"W/{TAG}", False),
        ('"other"', False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
        ("", False),
    ],
)
def test_if_range_compares_strongly(if_range: str | None, partial: bool) -> None:
    assert select_range("bytes=0-1", 100, etag=TAG, if_range=if_range).partial is partial


def test_a_stale_if_range_saves_from_416() -> None:
    assert select_range("bytes=200-", 100, etag=TAG, if_range='"old"').partial is False


@given(size=st.integers(0, 2**40), first=st.integers(0, 2**41), length=st.integers(1, 2**41))
def test_a_range_is_the_slice(size: int, first: int, length: int) -> None:
    header = f"bytes={first}-{first + length - 1}"
    if first >= size:
        with pytest.raises(RangeNotSatisfiable):
            select_range(header, size, etag=TAG)
        return
    chosen = select_range(header, size, etag=TAG)
    assert (chosen.start, chosen.end) == (first, min(size, first + length))
    assert chosen.content_range == f"bytes {chosen.start}-{chosen.end - 1}/{size}"


@given(size=st.integers(1, 5000), suffix=st.integers(1, 9000))
def test_a_suffix_is_the_slice(size: int, suffix: int) -> None:
    chosen = select_range(f"bytes=-{suffix}", size, etag=TAG)
    data = bytes(size)
    assert data[chosen.start : chosen.end] == data[-suffix:]


@given(
    header=st.text(max_size=60) | st.from_regex(r"bytes=[0-9, -]{0,30}", fullmatch=True),
    size=st.integers(0, 99),
)
def test_anything_at_all_is_whole_a_slice_or_416(header: str, size: int) -> None:
    try:
        chosen = select_range(header, size, etag=TAG)
    except RangeNotSatisfiable:
        return
    assert 0 <= chosen.start <= chosen.end <= size
    assert chosen.partial or (chosen.start, chosen.end) == (0, size)
    assert chosen.length > 0 or not chosen.partial


@pytest.mark.parametrize(
    ("field", "weak", "expected"),
    [
        ("*", False, True),
        (TAG, False, True),
        (f'"x", {TAG}', False, True),
        (f"W/{TAG}", False, False),
        (f"W/{TAG}", True, True),
        ('"x"', True, False),
        ("", True, False),
        ("abc", True, False),
    ],
)
def test_preconditions(field: str, weak: bool, expected: bool) -> None:
    assert matches(field, TAG, weak=weak) is expected
