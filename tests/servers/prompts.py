"""Debian's telephony prompts: real speech as raw GSM 06.10, 8 kHz PCM WAV and raw G.722."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from tests.servers.debian import unpacked
from tests.servers.processes import ServerUnavailableError

_INSTALLED = Path("/usr/share/asterisk/sounds")
_PACKAGES = ("asterisk-core-sounds-en-gsm", "asterisk-core-sounds-en-wav", "asterisk-core-sounds-en-g722")
FORMATS = ("gsm", "wav", "g722")


@dataclass(frozen=True)
class Prompts:
    """The prompt files of one voice, by format."""

    folder: Path
    files: dict[str, tuple[Path, ...]]

    def sample(self, count: int) -> dict[str, tuple[Path, ...]]:
        """Return ``count`` prompts of each format, spread evenly over the sorted names."""
        return {name: paths[:: max(1, len(paths) // count)][:count] for name, paths in self.files.items()}


def _collect(folder: Path) -> Prompts | None:
    for voice in sorted(folder.glob("en*")):
        files = {name: tuple(sorted(voice.rglob(f"*.{name}"))) for name in FORMATS}
        if not voice.is_symlink() and all(files.values()):
            return Prompts(voice, files)
    return None


@functools.cache
def _find() -> Prompts | str:
    if (found := _collect(_INSTALLED)) is not None:
        return found
    try:
        root = unpacked("prompts", _PACKAGES)
    except ServerUnavailableError as reason:
        return str(reason)
    return (
        _collect(root / "usr/share/asterisk/sounds") or "the packages hold no prompts where they are expected"
    )


def find_prompts() -> Prompts:
    """Find the prompts, installed or unpacked into a cache.

    Raises:
        ServerUnavailableError: neither.
    """
    found = _find()
    if isinstance(found, str):
        raise ServerUnavailableError(found)
    return found
