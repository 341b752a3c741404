"""docs/cli.md against the tree of commands: none is missing, none is invented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from recorder.cli import cli

TEXT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text("utf-8")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name)


def documented() -> set[tuple[str, ...]]:
    """What follows ``recorder`` in the blocks; ``a|b`` and ``| b`` stand for further commands of a group."""
    block = [line for line in TEXT.splitlines() if line.startswith("    ")]
    told: set[tuple[str, ...]] = set()
    every = set(commands(cli))
    for line in block:
        for piece in re.split(r"\brecorder ", line)[1:]:
            words = piece.split()
            group = words[0]
            told |= {(name,) for name in piece.replace("|", " ").split() if (name,) in every}
            told |= {(group, name) for name in re.findall(r"[a-z0-9-]+", piece) if (group, name) in every}
    return told


@pytest.mark.parametrize("command", sorted(commands(cli)), ids=" ".join)
def test_every_command_is_in_the_docs(command: tuple[str, ...]) -> None:
    assert command in documented()


def test_no_command_is_invented() -> None:
    groups = {name for name, command in cli.commands.items()}
    begun = re.findall(r"(?m)^    (?:RECORDER_\S+ )?recorder ([a-z-]+)", TEXT)
    assert begun
    assert not set(begun) - groups
