"""One place that turns what went wrong into one line on stderr and a documented exit code.

See docs/cli.md: 0 ok, 1 something was found wrong, 2 the command or the settings were wrong, 3 something the
command needs is away, 4 refused.
"""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from typing import Any, Final, NoReturn

import click

from recorder import errors
from retention import errors as retention_errors
from retention.errors import RetentionError
from storage import errors as storage_errors


class Exit(IntEnum):
    """Exit codes; stable."""

    OK = 0
    WRONG = 1
    USAGE = 2
    AWAY = 3
    REFUSED = 4


class Found(errors.RecorderError):
    """A check did its work and found something wrong."""


class Usage(errors.RecorderError):
    """The command line asks for something that cannot be."""


class Refused(errors.RecorderError):
    """The command was understood and may not be done now."""


# The first that fits decides, so special types stand before general ones.
_CODES: Final[tuple[tuple[type[BaseException], Exit], ...]] = (
    (Found, Exit.WRONG),
    (Usage, Exit.USAGE),
    (Refused, Exit.REFUSED),
    (errors.Corrupt, Exit.WRONG),
    (storage_errors.TamperedObject, Exit.WRONG),
    (storage_errors.ObjectMissing, Exit.WRONG),
    (errors.Unavailable, Exit.AWAY),
    (storage_errors.StoreUnavailable, Exit.AWAY),
    (storage_errors.StoreRefused, Exit.AWAY),
    (storage_errors.KeyringError, Exit.AWAY),
    (errors.Forbidden, Exit.REFUSED),
    (errors.Unauthenticated, Exit.REFUSED),
    (errors.Locked, Exit.REFUSED),
    (errors.Conflict, Exit.REFUSED),
    (errors.Erased, Exit.REFUSED),
    (storage_errors.ObjectLocked, Exit.REFUSED),
    (storage_errors.KeyDestroyed, Exit.REFUSED),
    (storage_errors.Misuse, Exit.USAGE),
    (retention_errors.Unavailable, Exit.AWAY),
    (retention_errors.AbsenceNotProved, Exit.WRONG),
    (retention_errors.ScheduleError, Exit.WRONG),
    (errors.RecorderError, Exit.USAGE),
    (RetentionError, Exit.USAGE),
    (storage_errors.StorageError, Exit.WRONG),
)


def exit_code(error: BaseException) -> Exit:
    """Return the exit code that an error ends the command with."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.WRONG)


def describe(error: BaseException) -> str:
    """Return the one line that says what went wrong, with the fields concerned."""
    text = " ".join(str(error).split())
    fields = getattr(error, "fields", ())
    extra = "; ".join(f"{field.path}: {field.message}" for field in fields)
    if extra and not all(field.message in text for field in fields):
        text = f"{text} ({extra})"
    return text or type(error).__name__


def fail(line: str, code: Exit) -> NoReturn:
    """Say why in one line on stderr and end the process."""
    click.echo(f"recorder: {line}", err=True)
    sys.exit(int(code))


def report(error: BaseException, *, debug: bool) -> NoReturn:
    """End the command for an error: one line, never a traceback unless ``--debug`` asks for it."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, (errors.RecorderError, storage_errors.StorageError, RetentionError)):
        fail(describe(error), exit_code(error))
    if isinstance(error, OSError) and not isinstance(error, UnicodeError):
        where = f" ({error.filename})" if error.filename else ""
        fail(f"{error.strerror or type(error).__name__}{where}", Exit.AWAY)
    hint = "" if debug else "; run with --debug for the details"
    # The text of an unexpected error may quote data: only its type is shown.
    fail(f"unexpected {type(error).__name__}{hint}", Exit.WRONG)


class RecorderGroup(click.Group):
    """A command group whose every failure is one line and a documented exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and exit; see :class:`click.Group`."""
        kwargs["standalone_mode"] = False
        given = kwargs.get("args") or (args[0] if args and args[0] is not None else None)
        debug = "--debug" in (sys.argv[1:] if given is None else given)
        try:
            result = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(int(Exit.USAGE))
        except click.UsageError as error:
            path = "recorder" if error.ctx is None else error.ctx.command_path
            message = " ".join(error.format_message().split())
            fail(f"{message} See '{path} --help'.", Exit.USAGE)
        except click.ClickException as error:
            fail(" ".join(error.format_message().split()), Exit.USAGE)
        except (click.Abort, KeyboardInterrupt):
            fail("stopped", Exit.REFUSED)
        except BrokenPipeError:
            sys.exit(int(Exit.OK))  # the reader of our output had enough, for example head(1)
        except Exception as error:  # noqa: BLE001  # the outermost boundary: one line, no traceback
            report(error, debug=debug)
        sys.exit(result if isinstance(result, int) else int(Exit.OK))
