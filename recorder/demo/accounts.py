"""The demo's sign-ins: a file for people and scripts that appears only when everything is loaded.

While the demo is being made, the same content grows in a file beside it, written before each credential is
used, so that a start that was interrupted goes on where it stopped. Both have mode 0600.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

from recorder.errors import ConfigurationError

FILE_NAME: Final = "demo-accounts.json"
_PARTIAL_NAME: Final = ".demo-accounts.partial.json"


@dataclass(slots=True)
class DemoAccounts:
    """Credentials of the demo, and how far its loading came.

    Attributes:
        first_day: the day of the first start; the calls' ages count from it.
        accounts: password by user name; the user name is the role's.
        tokens: bearer token by role.
        sources: ``{name, kind, token}`` of each source.
        done: names of loading steps that need not be repeated.
    """

    folder: Path
    first_day: date
    accounts: dict[str, str] = field(default_factory=dict, repr=False)
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    sources: list[dict[str, str]] = field(default_factory=list, repr=False)
    done: set[str] = field(default_factory=set)
    complete: bool = False

    @classmethod
    def open(cls, folder: Path, today: date) -> Self:
        """Read what an earlier start left in the data directory; fresh where there is nothing.

        Raises:
            ConfigurationError: A file is there and cannot be read.
        """
        for name, complete in ((FILE_NAME, True), (_PARTIAL_NAME, False)):
            path = folder / name
            try:
                document = json.loads(path.read_text("utf-8"))
                return cls(
                    folder,
                    date.fromisoformat(document.get("first_day", today.isoformat())),
                    {account["username"]: account["password"] for account in document["accounts"]},
                    {token["role"]: token["token"] for token in document["tokens"]},
                    list(document["sources"]),
                    set(document.get("done", ())),
                    complete,
                )
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ConfigurationError(
                    f"{path} cannot be read: remove the data directory to begin the demo anew"
                ) from None
        return cls(folder, today)

    def save(self) -> None:
        """Keep what there is so far."""
        if self.complete:
            return
        document = {
            **self._document(None),
            "first_day": self.first_day.isoformat(),
            "done": sorted(self.done),
        }
        _replace(self.folder / _PARTIAL_NAME, document)

    def finish(self, address: str) -> Path:
        """Put the finished file into place, as the very last step; again when the address changed."""
        path = self.folder / FILE_NAME
        document = self._document(address)
        if not self.complete or json.loads(path.read_text("utf-8")) != document:
            _replace(path, document)
        self.complete = True
        with contextlib.suppress(FileNotFoundError):
            (self.folder / _PARTIAL_NAME).unlink()
        return path

    def _document(self, address: str | None) -> dict[str, Any]:
        return {
            "address": address,
            "accounts": [
                {"role": name, "username": name, "password": password}
                for name, password in self.accounts.items()
            ],
            "tokens": [{"role": role, "token": token} for role, token in self.tokens.items()],
            "sources": self.sources,
        }


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as out:
        json.dump(document, out, ensure_ascii=False, indent=1)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
