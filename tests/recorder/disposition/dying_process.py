"""A process that runs one erasure and stops dead before a given step, waiting to be killed.

python dying_process.py DATA_DIR ERASURE_ID STEP
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from recorder.catalogue.database import Database
from recorder.clock import SystemClock
from recorder.disposition.erasure_port import SqlErasurePort
from recorder.services import Services
from recorder.settings import Settings
from retention.erasure import Erasure
from storage.keyrings.file import FileKeyring
from storage.local import LocalStore
from storage.vault import Vault


def open_services(data: Path) -> Services:
    keyring = FileKeyring.open(data / "keyring.json")
    store = LocalStore(data / "objects")
    return Services(
        settings=Settings(data_dir=data),
        clock=SystemClock(),
        database=Database(f"sqlite+aiosqlite:///{data / 'catalogue.sqlite3'}"),
        keyring=keyring,
        store=store,
        vault=Vault(store, keyring),
    )


class Stopping(SqlErasurePort):
    """Says that it has come to the step, and goes no further."""

    def __init__(self, services: Services, step: str) -> None:
        super().__init__(services)

        async def stop(*_: object) -> None:
            sys.stdout.write("here\n")
            sys.stdout.flush()
            await asyncio.Event().wait()

        setattr(self, step, stop)


if __name__ == "__main__":
    found = open_services(Path(sys.argv[1]))
    machine = Erasure(Stopping(found, sys.argv[3]), found.clock.now)
    asyncio.run(machine.run(str(uuid.UUID(sys.argv[2]))))
