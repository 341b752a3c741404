"""What can go wrong when the time of a recording is decided, in one family.

Three kinds are kept apart: misuse by the calling code (`Misuse`), a schedule document that a
person must correct (`ScheduleError`), and a part of the world that is away (`Unavailable`,
raised by implementations of the ports and safe to retry). None of them carries personal data.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AbsenceNotProved",
    "Misuse",
    "PeriodError",
    "RetentionError",
    "ScheduleError",
    "ScheduleProblem",
    "Unavailable",
    "Undecidable",
    "UnknownErasure",
]


class RetentionError(Exception):
    """The root of every error this package raises on purpose."""


class Misuse(RetentionError, ValueError):
    """The calling code broke a contract, for example with a naive datetime."""


class PeriodError(RetentionError, ValueError):
    """A text is not an ISO 8601 period of the form that is wanted here."""


class Undecidable(RetentionError):
    """Facts are missing or contradict each other.

    The engine turns this into a task for a person and keeps the recording; it leaves the
    package only from the functions of `retention.periods`.

    Attributes:
        code: Stable name of the doubt, for example ``unknown_financial_year_end``.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True, order=True)
class ScheduleProblem:
    """One thing that is wrong with a schedule document.

    Attributes:
        line: Line of the document, from 1.
        column: Column, from 1, in characters.
        message: What is wrong.
        hint: What to write instead, or an empty string.
    """

    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"line {self.line}, column {self.column}: {self.message}{hint}"


class ScheduleError(RetentionError):
    """A schedule is refused; every problem that was found is in it, in order of position.

    Attributes:
        problems: At least one problem.
        line: Line of the first problem.
        column: Column of the first problem.
        message: Message of the first problem.
        hint: Hint of the first problem.
    """

    def __init__(self, problems: tuple[ScheduleProblem, ...]) -> None:
        if not problems:
            raise Misuse("a ScheduleError names at least one problem")
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def line(self) -> int:
        """Line of the first problem."""
        return self.problems[0].line

    @property
    def column(self) -> int:
        """Column of the first problem."""
        return self.problems[0].column

    @property
    def message(self) -> str:
        """Message of the first problem."""
        return self.problems[0].message

    @property
    def hint(self) -> str:
        """Hint of the first problem."""
        return self.problems[0].hint


class Unavailable(RetentionError):
    """A store or a catalogue behind a port is away; nothing was completed, try again later."""


class UnknownErasure(RetentionError):
    """No erasure has this id."""


class AbsenceNotProved(RetentionError):
    """Objects that were deleted are still listed by the store after several attempts.

    The erasure stays unfinished, and therefore counts as overdue until it succeeds.

    Attributes:
        erasure_id: The erasure.
        leftovers: How many object versions are still there.
    """

    def __init__(self, erasure_id: str, leftovers: int) -> None:
        super().__init__(f"erasure {erasure_id}: {leftovers} object versions are still in the store")
        self.erasure_id = erasure_id
        self.leftovers = leftovers
