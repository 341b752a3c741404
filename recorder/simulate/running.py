"""Playing a sender: so many calls, at such a rate, and what the service said to each."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TextIO

import aiohttp

from recorder.errors import RecorderError
from recorder.push import check_receipt, json_object, read_keys
from recorder.simulate.calls import Calls, SimulatedCall
from recorder.simulate.sending import Piece, Sender, Sent, Target

_PASSING: Final = frozenset({0, 408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast.

    Attributes:
        count: calls in all.
        rate: calls a second; 0 for as fast as they are answered.
        concurrency: calls at a time.
        retries: attempts after the first; None for what the real system does.
    """

    count: int
    rate: float = 0.0
    concurrency: int = 8
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one call.

    Attributes:
        pieces: what was handed over.
        status: of the last answer; 0 where none came.
        attempts: tries.
        seconds: from the first try to the last answer.
        receipt: the signed receipt, checked against the bytes.
        problem: what was wrong with the answer, or None.
    """

    number: int
    pieces: tuple[Piece, ...]
    status: int
    attempts: int
    seconds: float
    id: str | None = None
    state: str | None = None
    receipt: str | None = None
    problem: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the sender forgets the call now."""
        return 200 <= self.status < 300 or self.status == 101

    def to_json(self) -> str:
        """For the ledger; ids and digests, no numbers of telephones."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(slots=True)
class Tally:
    """How a run went.

    Attributes:
        statuses: last answers by HTTP status; 0 where none came.
        states: what the service said of the recordings.
        problems: answers that are not what they should be.
        times: seconds of each accepted call.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    accepted: int = 0
    receipts: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Time within which this share of the accepted calls was answered."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {
            "accepted": self.accepted,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "states": dict(sorted(self.states.items())),
            "problems": dict(sorted(self.problems.items())),
            "receipts": self.receipts,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "p50": round(self.percentile(0.50), 4),
            "p95": round(self.percentile(0.95), 4),
            "p99": round(self.percentile(0.99), 4),
        }


async def play(
    sender: Sender,
    target: Target,
    calls: Calls,
    pace: Pace,
    *,
    first: int = 0,
    ledger: TextIO | None = None,
    progress: Callable[[Tally], None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Tally:
    """Play so many calls and tell how they were answered.

    Args:
        sender: Of the kind.
        target: The service.
        calls: What is played.
        pace: How fast, and how often again.
        first: Number of the first call.
        ledger: Gets one line of JSON for each call.
        progress: Called after each call.
        sleep: Waits.
    """
    loop = asyncio.get_running_loop()
    tally, began = Tally(), loop.time()
    slots = asyncio.Semaphore(pace.concurrency)
    keys: dict[str, Any] = {}

    async def one(number: int) -> None:
        try:
            line = await _one(sender, target, calls.make(number), pace, keys, sleep)
        finally:
            slots.release()
        _count(tally, line)
        if ledger is not None:
            ledger.write(line.to_json() + "\n")
        if progress is not None:
            progress(tally)

    async with asyncio.TaskGroup() as group:
        for number in range(first, first + pace.count):
            if pace.rate:
                await sleep(max(0.0, began + (number - first) / pace.rate - loop.time()))
            await slots.acquire()
            group.create_task(one(number))
    tally.seconds = loop.time() - began
    return tally


async def _one(
    sender: Sender,
    target: Target,
    call: SimulatedCall,
    pace: Pace,
    keys: dict[str, Any],
    sleep: Callable[[float], Awaitable[None]],
) -> Line:
    retries = sender.retries if pace.retries is None else pace.retries
    pieces = tuple(await asyncio.to_thread(sender.pieces, call))
    loop = asyncio.get_running_loop()
    began, attempt = loop.time(), 0
    while True:
        attempt += 1
        try:
            sent = await sender.send(target, call)
        except (aiohttp.ClientError, TimeoutError, OSError):
            sent = Sent(0)
        busy = sent.status == 409 and str(sent.answer.get("type", "")).endswith(("in-flight", "locked"))
        if not (sent.status in _PASSING or busy) or attempt > retries:
            break
        await sleep(min(_LONGEST_WAIT, 0.25 * 2.0 ** min(attempt, 7)))
    seconds = loop.time() - began
    receipt = sent.answer.get("receipt")
    line = Line(
        number=call.number,
        pieces=pieces,
        status=sent.status,
        attempts=attempt,
        seconds=seconds,
        id=sent.answer.get("id"),
        state=sent.answer.get("state"),
        receipt=receipt if isinstance(receipt, str) else None,
        problem=str(sent.answer.get("type", "")).rpartition(":")[2] or None,
    )
    if not line.accepted or line.receipt is None:
        return line
    return await _checked(target, line, keys)


async def _checked(target: Target, line: Line, keys: dict[str, Any]) -> Line:
    """The line, with a word when its receipt does not prove the bytes."""
    try:
        if not keys:
            async with target.session.get(f"{target.server}/api/v1/keys") as response:
                keys.update(read_keys(json_object(await response.content.read(1024 * 1024))))
        # Of a call with several files the receipt is of one of them.
        problems = []
        for piece in line.pieces:
            try:
                check_receipt(
                    line.receipt or "", keys, sha256=piece.sha256, size=piece.size, recording_id=line.id
                )
                break
            except RecorderError as error:
                problems.append(error)
        else:
            raise problems[0]
    except (aiohttp.ClientError, TimeoutError, OSError):
        return line
    except RecorderError:
        return Line(**{**_fields(line), "problem": "receipt-does-not-prove-the-bytes"})
    return line


def _fields(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in Line.__dataclass_fields__}


def _count(tally: Tally, line: Line) -> None:
    tally.statuses[line.status] += 1
    if line.state is not None:
        tally.states[line.state] += 1
    if line.problem is not None:
        tally.problems[line.problem] += 1
    if line.accepted:
        tally.accepted += 1
        tally.times.append(line.seconds)
        tally.bytes += sum(piece.size for piece in line.pieces)
        tally.receipts += line.receipt is not None
