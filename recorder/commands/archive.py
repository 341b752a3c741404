"""``import``: what was recorded before."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import click

from recorder.commands.context import exit_with, json_option, opened, principal, run, show_json, show_table
from recorder.commands.failures import Exit, Usage
from recorder.commands.sources import find_source

if TYPE_CHECKING:
    from recorder.archive.importing import Summary
    from recorder.archive.places import Bucket, Folder
    from recorder.ingest.adapters.filenames import FileNames

_ENDPOINT, _ACCESS, _SECRET = (
    "RECORDER_IMPORT_ENDPOINT",
    "RECORDER_IMPORT_ACCESS_KEY",
    "RECORDER_IMPORT_SECRET_KEY",
)


@click.command("import")
@click.argument("place")
@click.option("--source", "source_name", required=True, metavar="NAME", help="What they count as.")
@click.option("--manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What is known of them: CSV or NDJSON. Without it, file names alone.")  # fmt: skip
@click.option("--pattern", "patterns", multiple=True, help="How files are named; default FreePBX's.")
@click.option("--zone", metavar="ZONE", default="UTC", show_default=True,
              help="Of times without an offset, in the manifest and in file names.")  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="One line of JSON a recording; a run that was stopped goes on from it.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True)
@json_option
def import_archive(
    place: str,
    source_name: str,
    manifest: Path | None,
    patterns: tuple[str, ...],
    zone: str,
    report: Path,
    concurrency: int,
    as_json: bool,
) -> None:
    """Bring an old archive in: PLACE is a directory, or s3://bucket/prefix.

    Every recording goes the way of a push: sealed, linked to its customer, dated by the schedule, with a
    receipt in the report. Files are only read. Exit code 1 when something is missing or not as it should be;
    run it again for what was stopped or failed. A bucket's address and keys are RECORDER_IMPORT_ENDPOINT,
    _ACCESS_KEY and _SECRET_KEY.
    """
    if urlsplit(place).scheme != "s3" and not Path(place).is_dir():
        raise Usage("PLACE is a directory, or s3://bucket/prefix")
    names = _names(patterns, zone)
    layout = "csv" if manifest is None else _layout(manifest)

    async def work() -> Summary:
        from recorder.archive.importing import Journal, gathered
        from recorder.archive.importing import import_archive as bring_in
        from recorder.archive.manifest import read_manifest, read_names

        async with opened() as services, _place(place) as where:
            async with services.database.snapshot() as session:
                source = await find_source(session, source_name)
            now = services.clock.now()
            async with AsyncExitStack() as stack:
                journal = await stack.enter_async_context(Journal(report))
                if manifest is None:
                    found = await gathered(where.names())
                    entries, total = read_names(found, now=now, names=names), len(found)
                else:
                    lines = stack.enter_context(_text(manifest))
                    entries = read_manifest(lines, layout, now=now, names=names, zone=ZoneInfo(zone))
                    total = _count(manifest) - (1 if layout == "csv" else 0)
                told = stack.enter_context(_progress(total, wanted=not as_json))
                return await bring_in(
                    services,
                    principal(),
                    source,
                    entries,
                    where,
                    journal,
                    concurrency=concurrency,
                    progress=told,
                )

    summary = run(work())
    if as_json:
        show_json(summary.to_json())
    else:
        _show(summary)
    if summary.wrong:
        exit_with(Exit.WRONG)


def _names(patterns: tuple[str, ...], zone: str) -> FileNames:
    from recorder.ingest.adapters.filenames import FREEPBX, FileNames, PatternError

    try:
        ZoneInfo(zone)
        return FileNames(patterns or (FREEPBX,), time_zone=zone)
    except PatternError as error:
        raise Usage(f"--pattern: {error}") from None
    except (ValueError, OSError, KeyError):
        raise Usage("--zone is an IANA time zone, such as Europe/Helsinki") from None


@asynccontextmanager
async def _place(text: str) -> AsyncIterator[Folder | Bucket]:
    from recorder.archive.places import Bucket, Folder
    from storage.errors import Misuse

    parts = urlsplit(text)
    if parts.scheme != "s3":
        yield Folder(Path(text))
        return
    from storage.foreign import open_foreign

    said = [os.environ.get(name) for name in (_ENDPOINT, _ACCESS, _SECRET)]
    if not all(said) or not parts.netloc:
        raise Usage(f"a bucket needs {_ENDPOINT}, {_ACCESS} and {_SECRET}")
    endpoint, access, secret = (value or "" for value in said)
    try:
        bucket = open_foreign(parts.netloc, endpoint=endpoint, access_key=access, secret_key=secret)
    except Misuse as error:
        raise Usage(f"{_ENDPOINT}: {error}") from None
    try:
        yield Bucket(bucket, parts.path.lstrip("/"))
    finally:
        await bucket.aclose()


def _layout(manifest: Path) -> Literal["csv", "ndjson"]:
    if manifest.suffix.lower() in (".ndjson", ".jsonl"):
        return "ndjson"
    if manifest.suffix.lower() == ".csv":
        return "csv"
    raise Usage("a manifest ends in .csv, .ndjson or .jsonl")


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        yield lines


def _count(path: Path) -> int:
    with path.open("rb") as raw:
        return sum(piece.count(b"\n") for piece in iter(lambda: raw.read(1 << 20), b""))


@contextmanager
def _progress(total: int | None, *, wanted: bool) -> Iterator[Callable[[Summary], None] | None]:
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, words="")

        def told(summary: Summary) -> None:
            words = ", ".join(f"{count} {name}" for name, count in sorted(summary.results.items()))
            done = sum(summary.results.values()) + summary.skipped
            progress.update(task, completed=done, words=words)

        yield told


def _show(summary: Summary) -> None:
    words = {
        "imported": "imported",
        "repeated": "here already",
        "quarantined": "in quarantine",
        "conflict": "other bytes are here under the same id",
        "erased": "erased before, not taken again",
        "missing": "file not there",
        "unusable": "line not usable",
        "failed": "failed",
    }
    rows: list[tuple[str, object]] = [
        (word, summary.results[name]) for name, word in words.items() if summary.results[name]
    ]
    rows += [("settled by an earlier run", summary.skipped)] if summary.skipped else []
    rows += [("past their time: the next sweep erases them", summary.due)] if summary.due else []
    rows.append(("bytes taken in", f"{summary.bytes:,}"))
    show_table("Import", ("what", "recordings"), cast("list[tuple[object, ...]]", rows))
