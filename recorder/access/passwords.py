"""Passwords: Argon2id (RFC 9106) in PHC strings, computed on threads of their own.

Whoever signs in waits as long for an unknown user name as for a known one: see :func:`verify`.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from recorder.errors import FieldError, InvalidInput, TooMany

R = TypeVar("R")
MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 200
_SALT: Final = 16
_TAG: Final = 32


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a guess costs: memory in KiB, passes over it, lanes."""

    memory_kib: int
    iterations: int
    lanes: int

    @property
    def prefix(self) -> str:
        """How a PHC string of these parameters begins."""
        return f"$argon2id$v=19$m={self.memory_kib},t={self.iterations},p={self.lanes}$"


# RFC 9106 section 4, second recommended option: 64 MiB, for machines that do other things as well.
CURRENT = Parameters(memory_kib=64 * 1024, iterations=3, lanes=4)

# One at a time. OpenSSL starts a thread per lane out of one allowance of the whole process, and two
# computations that wait for each other's lanes wait for ever (seen with cryptography 50.0.2, OpenSSL 4.0.3:
# two sign-ins at once ended all sign-ins). One uses four cores as it is, and a burst takes 64 MiB, no more.
_POOL: Final = ThreadPoolExecutor(1, thread_name_prefix="argon2")


class Turns:
    """Places for those whose password is being checked; whoever finds none left comes back later.

    Guesses cost this host more than they cost who sends them, so their queue must have an end.
    """

    def __init__(self, places: int) -> None:
        self._left = places

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            TooMany: none is left.
        """
        if self._left == 0:
            raise TooMany("too many sign-ins at once; try again", retry_after=2)
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


TURNS: Final = Turns(16)


def check_strength(password: str, *, path: str = "/password", unlike: tuple[str, ...] = ()) -> None:
    """Refuse what is guessed first; length is what counts (NIST SP 800-63B section 5.1.1).

    Args:
        password: As typed.
        path: JSON pointer of the field, for the error.
        unlike: Words it must not contain, for example the user name.

    Raises:
        InvalidInput: too short, too long, one repeated character, or built on one of ``unlike``.
    """
    prepared = _prepare(password)
    if not MIN_LENGTH <= len(prepared) <= MAX_LENGTH:
        problem = f"give {MIN_LENGTH} to {MAX_LENGTH} characters"
    elif len(set(prepared)) < 4:
        problem = "use more different characters"
    elif any(word and word.casefold() in prepared.casefold() for word in unlike):
        problem = "do not build it on the user name"
    else:
        return
    raise InvalidInput("the password is not acceptable", fields=[FieldError(path, problem)])


async def hash_password(password: str, parameters: Parameters | None = None) -> str:
    """The PHC string to store, of the current parameters unless told."""
    return await _run(_hash, password, parameters or CURRENT)


async def verify(password: str, stored: str | None) -> bool:
    """Whether the password is the stored one; constant time in the comparison.

    Args:
        password: As typed.
        stored: The PHC string; None where there is no such user: the same work is done, for nothing.
    """
    return await _run(_verify, password, stored)


def needs_rehash(stored: str) -> bool:
    """Whether a hash was made with other parameters; re-hash while the password is at hand."""
    return not stored.startswith(CURRENT.prefix)


async def _run(work: Callable[..., R], *arguments: object) -> R:
    return await asyncio.get_running_loop().run_in_executor(_POOL, work, *arguments)


def _hash(password: str, parameters: Parameters) -> str:
    return _kdf(parameters).derive_phc_encoded(_encode(password))


def _verify(password: str, stored: str | None) -> bool:
    prepared = _encode(password[: 4 * MAX_LENGTH])
    if stored is None:
        _kdf(CURRENT).derive(prepared)
        return False
    try:
        Argon2id.verify_phc_encoded(prepared, stored)
    except InvalidKey:
        return False
    return True


def _kdf(parameters: Parameters) -> Argon2id:
    return Argon2id(
        salt=os.urandom(_SALT),
        length=_TAG,
        iterations=parameters.iterations,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    )


def _encode(password: str) -> bytes:
    # surrogatepass: whatever a client sends is a wrong password, never a failure of ours.
    return _prepare(password).encode("utf-8", "surrogatepass")


def _prepare(password: str) -> str:
    # The same characters however the keyboard composed them (NIST SP 800-63B section 5.1.1.2).
    return unicodedata.normalize("NFKC", password)
