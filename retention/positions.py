"""Where in a TOML document a key stands; `tomllib` itself forgets it.

The scanner runs only over text that `tomllib` has already accepted, so it follows the grammar of
TOML 1.0 (https://toml.io/en/v1.0.0) without checking it.
"""

from __future__ import annotations

import re
import tomllib

__all__ = ["Path", "locate"]

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_STRINGS = re.compile(
    r'"""(?:[^\\]|\\.)*?"""("{0,2})|' + r"'''.*?'''('{0,2})|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'",
    re.DOTALL,
)


def locate(text: str) -> dict[Path, tuple[int, int]]:
    """Map every key, table and array element of a document to its line and column, from 1.

    Args:
        text: A document that `tomllib.loads` accepts.

    Returns:
        For example ``{("rule", 0, "keep"): (9, 1), ("rule", 0): (6, 1), ...}``; ``()`` is the
        document itself.
    """
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.found: dict[Path, tuple[int, int]] = {(): (1, 1)}
        self.counts: dict[Path, int] = {}

    def run(self) -> dict[Path, tuple[int, int]]:
        base: Path = ()
        while self._skip(_SPACE) < len(self.text):
            start = self.at
            if self.text.startswith("[", start):
                doubled = self.text.startswith("[[", start)
                self.at += 2 if doubled else 1
                base = self._table(self._keys(), doubled)
                self.at = self.text.index("]]" if doubled else "]", self.at) + (2 if doubled else 1)
                self._mark(base, start)
            else:
                self._pair(base)
        return self.found

    def _table(self, keys: list[str], doubled: bool) -> Path:
        """The full path of a header; inside arrays of tables it means the last element."""
        path: Path = ()
        for index, key in enumerate(keys):
            path = (*path, key)
            last = index == len(keys) - 1
            if last and doubled:
                self.counts[path] = self.counts.get(path, -1) + 1
            if path in self.counts:
                path = (*path, self.counts[path])
        return path

    def _pair(self, base: Path) -> None:
        start = self.at
        path = (*base, *self._keys())
        for length in range(len(base) + 1, len(path) + 1):
            self._mark(path[:length], start)
        self.at = self.text.index("=", self.at) + 1
        self._value(path)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_BLANK)
            if (bare := _BARE.match(self.text, self.at)) is not None:
                keys.append(bare.group())
                self.at = bare.end()
            else:
                quoted = _STRINGS.match(self.text, self.at)
                assert quoted is not None  # noqa: S101 -- tomllib has accepted the text
                keys.append(str(tomllib.loads(f"k={quoted.group()}")["k"]))
                self.at = quoted.end()
            self._skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        if self.text.startswith("[", self.at):
            self.at += 1
            for index in range(len(self.text)):
                self._skip(_SPACE)
                if self.text.startswith("]", self.at):
                    break
                self._mark((*path, index), self.at)
                self._value((*path, index))
                self._comma()
            self.at += 1
        elif self.text.startswith("{", self.at):
            self.at += 1
            while not self.text.startswith("}", self._skip(_SPACE)):
                self._pair(path)
                self._comma()
            self.at += 1
        elif (string := _STRINGS.match(self.text, self.at)) is not None:
            self.at = string.end()
        elif (scalar := _SCALAR.match(self.text, self.at)) is not None:
            self.at = scalar.end()

    def _comma(self) -> None:
        self._skip(_SPACE)
        if self.text.startswith(",", self.at):
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return self.at

    def _mark(self, path: Path, at: int) -> None:
        if path not in self.found:
            line = self.text.count("\n", 0, at) + 1
            self.found[path] = (line, at - (self.text.rfind("\n", 0, at) + 1) + 1)
