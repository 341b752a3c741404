"""Synthetic speech for the demo calls: text to PCM in memory, through espeak NG and ctypes.

espeak NG is GPL and therefore only the ``demo`` extra brings it; nothing else imports this module. The
library keeps its state in globals, so it is started once in a process and speaks one text at a time. What
it says depends in the last bits on what it said before: the same texts in the same order, from the start of a
process, give the same samples.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from array import array
from dataclasses import dataclass
from typing import Any, Final

from recorder.errors import ConfigurationError

SAMPLE_RATE: Final = 22_050

# espeak-ng/speak_lib.h: espeak_AUDIO_OUTPUT, espeak_PARAMETER, espeak_POSITION_TYPE, character codes.
_OUTPUT_SYNCHRONOUS: Final = 2
_PARAMETER_RATE: Final = 1
_PARAMETER_PITCH: Final = 3
_POSITION_CHARACTER: Final = 1
_CHARS_UTF8: Final = 1

_Callback: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True, slots=True)
class Voice:
    """How one party of a call sounds.

    Attributes:
        name: espeak voice with its variant, for example ``fi+f2``.
        rate: words a minute.
        pitch: 0 to 100.
    """

    name: str
    rate: int = 165
    pitch: int = 50


class Speaker:
    """Text to speech, 16-bit mono samples at :data:`SAMPLE_RATE`."""

    def __init__(self) -> None:
        self._engine = _engine()

    def say(self, text: str, voice: Voice) -> array[int]:
        """Return the text as speech.

        Raises:
            ConfigurationError: The installed espeak NG does not have the voice.
        """
        return self._engine.say(text, voice)


class _Engine:
    """The library, started once: a second start of it in one process crashes."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise ConfigurationError(
                "the demo's speech needs the extra 'demo' (pip install 'tallenne[demo]')"
            ) from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        if self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data, 0) != SAMPLE_RATE:
            raise ConfigurationError("espeak NG did not find its voices; reinstall the extra 'demo'")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else by the time of day
        self._samples = array("h")
        self._callback = _Callback(self._collect)  # kept: the library holds only the pointer
        self._library.espeak_SetSynthCallback(self._callback)
        self._one_at_a_time = threading.Lock()

    def say(self, text: str, voice: Voice) -> array[int]:
        with self._one_at_a_time:
            if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                raise ConfigurationError(f"espeak NG has no voice {voice.name}")
            self._library.espeak_SetParameter(_PARAMETER_RATE, voice.rate, 0)
            self._library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
            self._samples = array("h")
            raw = text.encode() + b"\0"
            status = self._library.espeak_Synth(
                raw, len(raw), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
            )
            if status != 0:
                raise ConfigurationError(f"espeak NG refused to speak (status {status})")
            self._library.espeak_Synchronize()
            return self._samples

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._samples.frombytes(ctypes.string_at(samples, count * 2))
        return 0


@functools.cache
def _engine() -> _Engine:
    return _Engine()
