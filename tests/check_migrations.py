"""``alembic check`` as a command: exit 1, naming the differences, when migrations and tables disagree."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from recorder.catalogue import migrate
from recorder.catalogue.database import Database


async def differences(folder: Path) -> list[object]:
    """Migrate an empty SQLite database to the newest schema and compare it with the declared tables."""
    database = Database(f"sqlite+aiosqlite:///{folder / 'check.sqlite3'}")
    try:
        await migrate.upgrade(database)
        return await migrate.drift(database)
    finally:
        await database.close()


def main() -> int:
    """Print what differs and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(differences(Path(folder)))
    for difference in found:
        print(f"the migrations lack: {difference!r:.160}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
