"""Calls that never were: who called whom, and what is heard. Everything follows from the seed.

The audio is speech: synthesised (the extra ``demo``), or out of WAV files of one's own. Each call's bytes are
its own, so that a service which mixes recordings up is found out.
"""

from __future__ import annotations

import io
import random
import struct
import wave
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from recorder.errors import ConfigurationError

RATE: Final = 8000
_FRAME: Final = 4  # bytes: two channels of 16 bits
_MARK: Final = 64  # frames whose lowest bits carry the number of the call
_QUEUES: Final = ("sales", "support", "billing", "claims")


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """One call.

    Attributes:
        number: from 0.
        id: as the telephony system calls it; unique for seed and start.
        pcm: 16-bit little-endian stereo at 8 kHz: the customer left, the agent right.
    """

    number: int
    id: str
    started_at: datetime
    caller: str
    callee: str
    agent: str
    queue: str
    pcm: bytes

    @property
    def seconds(self) -> float:
        """Length of the call."""
        return len(self.pcm) / _FRAME / RATE

    @property
    def ended_at(self) -> datetime:
        """When it ended."""
        return self.started_at + timedelta(seconds=self.seconds)

    def wav(self, channel: int | None = None) -> bytes:
        """The call as a WAV file: both parties, or one."""
        samples = array("h", self.pcm)
        if channel is not None:
            samples = samples[channel::2]
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(2 if channel is None else 1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())
        return out.getvalue()


class Calls:
    """Makes calls out of a conversation.

    Args:
        conversation: stereo PCM as of `SimulatedCall.pcm`, a minute or more.
        seed: of everything random.
        seconds: shortest and longest call.
    """

    def __init__(
        self, conversation: bytes, *, seed: int, start: datetime, seconds: tuple[float, float] = (2, 20)
    ) -> None:
        if len(conversation) < _FRAME * RATE:
            raise ConfigurationError("there is less than a second of speech to simulate calls with")
        self._conversation = conversation
        self._seed = seed
        self._start = start
        self._seconds = seconds

    def make(self, number: int) -> SimulatedCall:
        """The call of this number: the same for the same seed."""
        chance = random.Random(f"{self._seed}/{number}")
        frames = int(chance.uniform(*self._seconds) * RATE)
        whole = len(self._conversation) // _FRAME
        first = chance.randrange(whole)
        pcm = bytearray()
        while len(pcm) < frames * _FRAME:
            piece = self._conversation[first * _FRAME : (first + frames) * _FRAME]
            pcm += piece[: frames * _FRAME - len(pcm)]
            first = 0
        started = self._start + timedelta(seconds=number % 3600)
        return SimulatedCall(
            number=number,
            id=f"sim-{self._seed:x}-{int(self._start.timestamp()):x}-{number}",
            started_at=started,
            caller=f"+35840{chance.randrange(10**7):07d}",
            callee=f"+3589{chance.randrange(10**6):06d}",
            agent=f"a{chance.randrange(1, 40)}",
            queue=chance.choice(_QUEUES),
            pcm=marked(bytes(pcm), number),
        )


def marked(pcm: bytes, number: int) -> bytes:
    """The same to the ear, with the number in the lowest bits of the first samples."""
    samples = array("h", pcm)
    for bit in range(min(_MARK, len(samples))):
        samples[bit] = (samples[bit] & ~1) | (number >> bit & 1)
    return samples.tobytes()


def spoken() -> bytes:
    """The demo's conversations, one after the other, as stereo PCM.

    Raises:
        ConfigurationError: the extra ``demo`` is not installed.
    """
    from recorder.demo.scripts import CALLS
    from recorder.demo.speech import SAMPLE_RATE, Speaker, Voice

    speaker = Speaker()
    left, right = array("h"), array("h")
    voices = {"fi": ("fi+f2", "fi+m3"), "sv": ("sv+f2", "sv+m3"), "en": ("en+f2", "en+m3")}
    for call in CALLS[:4]:
        customer, agent = (Voice(name) for name in voices[call.language])
        for turn in call.turns:
            told = speaker.say(turn.text, customer if turn.party == "customer" else agent)
            step = SAMPLE_RATE / RATE
            heard = array("h", (told[int(n * step)] for n in range(int(len(told) / step))))
            silent = array("h", bytes(2 * len(heard)))
            left.extend(heard if turn.party == "customer" else silent)
            right.extend(heard if turn.party == "agent" else silent)
    return _interleaved(left, right)


def from_files(paths: Sequence[Path]) -> bytes:
    """WAV files (16-bit PCM, 8 kHz) one after the other; those of one channel speak left and right by turns.

    Raises:
        ConfigurationError: one of them is something else.
    """
    left, right = array("h"), array("h")
    for number, path in enumerate(paths):
        try:
            with wave.open(str(path), "rb") as file:
                if (file.getsampwidth(), file.getframerate()) != (2, RATE) or file.getnchannels() > 2:
                    raise ConfigurationError(
                        f"{path.name}: give 16-bit PCM at 8 kHz with one or two channels"
                    )
                samples = array("h", file.readframes(file.getnframes()))
                channels = file.getnchannels()
        except (OSError, EOFError, wave.Error, struct.error):
            raise ConfigurationError(f"{path.name} is no WAV file that can be read") from None
        if channels == 2:
            left.extend(samples[::2])
            right.extend(samples[1::2])
            continue
        silent = array("h", bytes(2 * len(samples)))
        left.extend(silent if number % 2 else samples)
        right.extend(samples if number % 2 else silent)
    return _interleaved(left, right)


def _interleaved(left: array[int], right: array[int]) -> bytes:
    both = array("h", bytes(4 * len(left)))
    both[::2], both[1::2] = left, right
    return both.tobytes()
