"""``push``: send files to a running service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from recorder.commands.context import run
from recorder.commands.failures import Exit, Usage, describe, exit_code
from recorder.errors import RecorderError

_NESTED: Final = {"customer", "call", "media", "notice", "extra"}
# Of several failures the exit code tells the one that most wants a person: first in this list.
_WORST: Final = (Exit.WRONG, Exit.REFUSED, Exit.USAGE, Exit.AWAY)


@click.command(short_help="Push recordings and check their receipts.")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--server", envvar="RECORDER_SERVER", default="http://127.0.0.1:8080", show_default=True,
              metavar="URL", help="Address of the service; RECORDER_SERVER.")  # fmt: skip
@click.option("--token", envvar="RECORDER_TOKEN", required=True, metavar="TOKEN",
              help="The source's token; better in RECORDER_TOKEN than in the process list.")  # fmt: skip
@click.option("--source", metavar="NAME", help="Push by PUT /ingest/NAME/…: quarantined rather than refused.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE",
              help="Metadata, for example started_at=2026-03-05T10:00:00+02:00, customer.number=1002, "
                   "agents=A-17,A-21. A value that is JSON is taken as JSON. Repeatable.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check everything, keep nothing.")
@click.option("--retries", default=5, show_default=True, type=click.IntRange(0, 100),
              help="Further tries of a file while the service is away.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file.")
def push(
    files: Sequence[Path],
    server: str,
    token: str,
    source: str | None,
    meta: Sequence[str],
    dry_run: bool,
    retries: int,
    as_json: bool,
) -> None:
    """Push recordings and check the signed receipt of each against the file.

    The external id is the file's name without extension and the start of the call the file's time, unless
    --meta says otherwise. Pushing the same file again changes nothing. Only when this exits with 0 does the
    service hold every file.
    """
    metadata = parse_meta(meta)
    if "external_id" in metadata and len(files) > 1:
        raise Usage("external_id names one recording: push one file at a time with it")
    sizes = [(path, path.stat().st_size) for path in files]
    codes = run(_push_all(sizes, metadata, server, token, source, dry_run, retries, as_json))
    for code in _WORST:
        if code in codes:
            click.get_current_context().exit(int(code))


async def _push_all(
    sizes: Sequence[tuple[Path, int]],
    metadata: dict[str, Any],
    server: str,
    token: str,
    source: str | None,
    dry_run: bool,
    retries: int,
    as_json: bool,
) -> set[Exit]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from recorder.push import Pusher, Retry

    codes: set[Exit] = set()
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with progress:
        retry = Retry(attempts=retries + 1)
        async with Pusher(server, token, source=source, dry_run=dry_run, retry=retry) as pusher:
            for path, size in sizes:
                task = progress.add_task(path.name, total=size)

                def moved(sent: int, task: Any = task) -> None:
                    progress.update(task, completed=sent)

                try:
                    done = await pusher.push(path, metadata, progress=moved)
                except RecorderError as error:
                    codes.add(exit_code(error))
                    click.echo(f"recorder: {path.name}: {describe(error)}", err=True)
                else:
                    state = f"{done.state} (repeat)" if done.repeat else done.state
                    line = {"file": str(path), "id": done.recording_id, "state": done.state,
                            "repeat": done.repeat, "sha256": done.sha256, "size": done.size}  # fmt: skip
                    click.echo(
                        json.dumps(line) if as_json else f"{path.name}\t{done.recording_id or '-'}\t{state}"
                    )
                finally:
                    progress.remove_task(task)
    return codes


def parse_meta(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``--meta`` pairs: dots nest, lists split at commas, JSON is JSON.

    Raises:
        Usage: A pair has no name or contradicts another.
    """
    metadata: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Usage("--meta wants KEY=VALUE")
        target = metadata
        above, dot, last = name.partition(".")
        if dot:
            if above not in _NESTED or not last:
                raise Usage(f"--meta {name}: only {', '.join(sorted(_NESTED))} have fields of their own")
            target = metadata.setdefault(above, {})
            if not isinstance(target, dict):
                raise Usage(f"--meta {above} is given whole and by field")
        else:
            last = name
        target[last] = _value(name, value)
    return metadata


def _value(name: str, value: str) -> Any:
    if value[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except ValueError:
            raise Usage(f"--meta {name}: the value begins like JSON and is not") from None
    if name in {"agents", "tags"}:
        return [item.strip() for item in value.split(",") if item.strip()]
    if name in {"duration", "notice.offset"} or name in {"media.sample_rate", "media.channels", "call.part"}:
        try:
            return float(value) if name in {"duration", "notice.offset"} else int(value)
        except ValueError:
            raise Usage(f"--meta {name}: a number is wanted") from None
    return value
