"""The page of rules names code and tests that are there."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "rules.md"
LINES = [
    cells
    for line in PAGE.read_text("utf-8").splitlines()
    if re.match(r"\| [A-D]\d", line)
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def files(name: str, *folders: str) -> list[Path]:
    return [
        path
        for folder in folders
        for path in (ROOT / folder).rglob(Path(name).name)
        if path.as_posix().endswith("/" + name)
    ]


def functions(paths: list[Path]) -> set[str]:
    return {name for path in paths for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))}


@pytest.mark.parametrize("cells", LINES, ids=[cells[0].split()[0] for cells in LINES])
def test_what_a_rule_names_is_there(cells: list[str]) -> None:
    code, tests = cells[-2], cells[-1]
    vectors = files("retention/test_vectors.py", "tests")
    known = list(vectors)
    for name in quoted(tests):
        where, _, function = name.partition("::")
        if where.endswith(".py"):
            known = files(where, "tests")
            assert known, name
        else:
            function = where
        if function and not function.startswith("purpose="):
            inside = functions([*known, *vectors] if "vectors" in tests else known)
            assert any(fnmatch(one, function) for one in inside), name
    for name in quoted(code):
        path = name.partition("::")[0]
        if path.endswith((".py", ".toml")):
            assert files(path, "recorder", "retention", "storage"), name


def test_each_rule_has_code_and_a_test() -> None:
    assert len(LINES) >= 50
    assert [cells[0] for cells in LINES if not quoted(cells[-1])] == []
    ids = [cells[0].split()[0] for cells in LINES]
    assert len(set(ids)) == len(ids)
