"""Names that survive a power cut: making folders, and flushing what they list."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_FOLDER_MODE: Final = 0o700


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents durably: each new name is flushed in the folder above it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=_FOLDER_MODE)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
