"""Lines of CSV and NDJSON that somebody else wrote: bounded, numbered, and never an exception."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

LONGEST_LINE: Final = 256 * 1024
"""Characters; a longer line is taken for an empty one."""


def read_csv(
    lines: Iterable[str], *, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Mapping[str, str] | str]]:
    """Read CSV as cells by column, or a word on what is wrong with a line.

    Args:
        lines: Of the file, each with its end.
        columns: Names of the columns where the file has no header. Names are in lower case.

    Yields:
        The number of the line (of a record over several lines the last one), and its cells or the problem.
    """
    reader = csv.reader(_bounded(lines), strict=False)
    names = None if columns is None else [name.lower() for name in columns]
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, ValueError):
            yield reader.line_num, "is no line of CSV"
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = [cell.strip().lower().lstrip("\ufeff") for cell in cells]
        elif len(cells) > len(names):
            yield reader.line_num, "has more cells than there are columns"
        else:
            yield reader.line_num, dict(zip(names, cells, strict=False))


def read_ndjson(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Read one JSON object a line, or a word on what is wrong with it."""
    for number, line in enumerate(_bounded(lines), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        yield number, values if isinstance(values, dict) else "is no JSON object"


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line.replace("\x00", "") if len(line) <= LONGEST_LINE else "\x01\n"
