"""What a browser plays, and how ffmpeg is told what comes down its pipe. Pure tables.

``media`` is what the probe found: ``{container, codec, sample_rate, channels, content_type}``, any of them
missing where nobody knew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from recorder.playback.editing import Layout

__all__ = ["OGG_OPUS", "Input", "content_type_of", "input_of", "is_playable", "pcm_layout"]

OGG_OPUS: Final = "audio/ogg; codecs=opus"

_PCM: Final = frozenset(
    {"pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"}
)
# What Chromium and Firefox were seen to play; everything else (G.722, G.723, G.726, AMR, GSM, raw streams)
# gets a rendition. Say audio/wav for mu-law too: with codecs=7 Chromium answers "" and plays it all the same.
_PLAYABLE: Final[Mapping[str, frozenset[str]]] = {
    "wav": _PCM,
    "mp3": frozenset({"mp3"}),
    "webm": frozenset({"opus", "vorbis"}),
    "ogg": frozenset({"opus", "vorbis"}),
    "flac": frozenset({"flac"}),
    "mp4": frozenset({"aac"}),
    "aac": frozenset({"aac"}),
}
_CONTENT_TYPES: Final[Mapping[str, str]] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "webm": "audio/webm",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "mp4": "audio/mp4",
    "aac": "audio/aac",
    "matroska": "audio/x-matroska",
    "gsm": "audio/GSM",
    "g722": "audio/G722",
    "amr": "audio/AMR",
    "mulaw": "audio/PCMU",
    "alaw": "audio/PCMA",
    "pcm_s16le": "audio/L16",
}
_SAME: Final[Mapping[str, str]] = {
    "wave": "wav", "wav49": "wav", "rf64": "wav", "mpeg": "mp3", "mka": "matroska", "mkv": "matroska",
    "mov": "mp4", "m4a": "mp4", "3gp": "mp4", "mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "webm",
    "adts": "aac", "ulaw": "mulaw", "pcm_mulaw": "mulaw", "pcm_alaw": "alaw", "amrnb": "amr", "amrwb": "amr",
    "oga": "ogg", "opus": "ogg", "g723": "g723_1", "raw": "", "none": "",
    "unknown": "", "adpcm_g722": "g722", "adpcm_g726": "g726", "amr_nb": "amr", "amr_wb": "amr",
}  # fmt: skip
# Container, or the codec of headerless media, to ffmpeg's demuxer. What is not named is not opened.
_DEMUXERS: Final[Mapping[str, str]] = {
    "wav": "wav", "mp3": "mp3", "webm": "matroska", "matroska": "matroska", "ogg": "ogg", "flac": "flac",
    "mp4": "mov", "aac": "aac", "gsm": "gsm", "g722": "g722", "mulaw": "mulaw", "alaw": "alaw", "amr": "amr",
    "g726": "g726", "g726le": "g726le", "g723_1": "g723_1", "g729": "g729", "s16le": "s16le", "sln": "s16le",
    "pcm_s16le": "s16le", "aiff": "aiff", "au": "au", "caf": "caf", "w64": "w64",
}  # fmt: skip
_TAKES_RATE: Final = frozenset({"mulaw", "alaw", "s16le", "gsm"})
_TAKES_LAYOUT: Final = frozenset({"mulaw", "alaw", "s16le"})
_NEEDS_SEEKING: Final = frozenset({"mov", "caf"})


@dataclass(frozen=True, slots=True)
class Input:
    """How to open one recording.

    Attributes:
        options: ffmpeg's options before ``-i``.
        seekable: the demuxer has to jump about, so the whole of it goes into memory first.
    """

    options: tuple[str, ...]
    seekable: bool


def _names(media: Mapping[str, Any]) -> tuple[str, str]:
    container = str(media.get("container") or "").lower()
    codec = str(media.get("codec") or "").lower()
    return _SAME.get(container, container), codec


def is_playable(media: Mapping[str, Any]) -> bool:
    """Whether a browser plays the original as it is."""
    container, codec = _names(media)
    return codec in _PLAYABLE.get(container, frozenset())


def content_type_of(media: Mapping[str, Any]) -> str:
    """The type to serve an original under; never one that a sender made up."""
    container, codec = _names(media)
    return (
        _CONTENT_TYPES.get(container)
        or _CONTENT_TYPES.get(_SAME.get(codec, codec))
        or "application/octet-stream"
    )


def input_of(media: Mapping[str, Any]) -> Input | None:
    """How ffmpeg opens it, or None for what nobody can decode."""
    container, codec = _names(media)
    demuxer = _DEMUXERS.get(container) or (
        _DEMUXERS.get(_SAME.get(codec, codec)) if container in ("", codec) else None
    )
    if demuxer is None:
        return None
    options = ["-f", demuxer]
    rate, channels = _positive(media.get("sample_rate")), _positive(media.get("channels"))
    if demuxer in _TAKES_RATE and rate is not None:
        options += ["-sample_rate", str(rate)]
    if demuxer in _TAKES_LAYOUT and channels is not None:
        options += ["-ch_layout", {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")]
    return Input(tuple(options), demuxer in _NEEDS_SEEKING)


def pcm_layout(media: Mapping[str, Any]) -> Layout:
    """The raw layout to decode to: the recording's rate where Opus knows it, two channels at most."""
    rate, channels = _positive(media.get("sample_rate")), _positive(media.get("channels"))
    wanted = next((r for r in (8000, 12000, 16000, 24000) if rate is not None and rate <= r), 48000)
    return Layout(wanted, 1 if channels == 1 else 2)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 768_000 else None
