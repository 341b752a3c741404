"""What audio is this? Told from the first bytes, else believed from hints. Pure and bounded.

The names are libav's for codecs and short ones for containers. Nothing here decodes; the deep check
(`recorder.ingest.probe`) runs after the recording is safe.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

HEAD_SIZE: Final = 64 * 1024
"""As many of the first bytes as any decision here looks at."""

_WAV_CODECS: Final = {
    0x0001: "pcm",
    0x0003: "pcm_float",
    0x0006: "pcm_alaw",
    0x0007: "pcm_mulaw",
    0x0031: "gsm_ms",
    0x0011: "adpcm_ima_wav",
    0x0002: "adpcm_ms",
    0x0050: "mp2",
    0x0055: "mp3",
    0x0045: "adpcm_g726",
    0x028F: "g722",
    0x0065: "g722",
}
_PCM_BITS: Final = {8: "pcm_u8", 16: "pcm_s16le", 24: "pcm_s24le", 32: "pcm_s32le"}
_FLOAT_BITS: Final = {32: "pcm_f32le", 64: "pcm_f64le"}
_CONTENT_TYPES: Final = {
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "webm": "audio/webm",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "amr": "audio/AMR",
    "aac": "audio/aac",
    "mp4": "audio/mp4",
}
_RAW_TYPES: Final = {
    "g722": "audio/G722",
    "gsm": "audio/GSM",
    "pcm_mulaw": "audio/PCMU",
    "pcm_alaw": "audio/PCMA",
    "pcm_s16le": "audio/L16",
}
# Extensions, media types and codec names that senders use -> (container, codec). Containers other than
# "raw" have a magic number, so a hint that names one and bytes that have none contradict each other.
_HINTS: Final[dict[str, tuple[str, str]]] = {
    "gsm": ("raw", "gsm"),
    "g722": ("raw", "g722"),
    "adpcm_g722": ("raw", "g722"),
    "ulaw": ("raw", "pcm_mulaw"),
    "mulaw": ("raw", "pcm_mulaw"),
    "mu-law": ("raw", "pcm_mulaw"),
    "ul": ("raw", "pcm_mulaw"),
    "pcmu": ("raw", "pcm_mulaw"),
    "g711u": ("raw", "pcm_mulaw"),
    "pcm_mulaw": ("raw", "pcm_mulaw"),
    "basic": ("raw", "pcm_mulaw"),
    "alaw": ("raw", "pcm_alaw"),
    "a-law": ("raw", "pcm_alaw"),
    "al": ("raw", "pcm_alaw"),
    "pcma": ("raw", "pcm_alaw"),
    "g711a": ("raw", "pcm_alaw"),
    "pcm_alaw": ("raw", "pcm_alaw"),
    "sln": ("raw", "pcm_s16le"),
    "slin": ("raw", "pcm_s16le"),
    "pcm_s16le": ("raw", "pcm_s16le"),
}
_RATES: Final = {
    "g722": 16_000,
    "gsm": 8_000,
    "pcm_mulaw": 8_000,
    "pcm_alaw": 8_000,
    "pcm_s16le": 8_000,
}
_TO_THE_END: Final = (0, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Media:
    """A container and the codec in it.

    Attributes:
        container: ``wav``, ``ogg``, ``webm``, ``flac``, ``mp3``, ``amr``, ``aac``, ``mp4``, ``raw``, or
            ``unknown``.
        codec: libav's name, for example ``pcm_s16le``; ``unknown`` when it cannot be told.
        sample_rate: samples a second, where it is known.
        channels: number of channels, where it is known.
        content_type: media type to serve it with.
        known_by: ``bytes`` when the bytes say so; else the hint that was believed.
        data_start: offset of the first byte of audio, for WAV and headerless audio.
        data_size: bytes of audio that the header announces; None for "to the end".
        block: bytes of one block of audio (a frame of all channels, or a codec's block).
    """

    container: str
    codec: str
    sample_rate: int | None = None
    channels: int | None = None
    content_type: str = "application/octet-stream"
    known_by: str = "bytes"
    data_start: int | None = None
    data_size: int | None = None
    block: int | None = None

    @property
    def known(self) -> bool:
        """Whether container and codec could be told."""
        return "unknown" not in (self.container, self.codec)

    def document(self) -> dict[str, Any]:
        """As kept in the catalogue and answered to the sender."""
        return {
            "container": self.container,
            "codec": self.codec,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "content_type": self.content_type,
            "known_by": self.known_by,
        }


UNKNOWN: Final = Media("unknown", "unknown", known_by="nothing")


@dataclass(frozen=True, slots=True)
class Hints:
    """What surrounds the bytes and may be believed where they do not tell.

    Attributes:
        codec: ``metadata.media.codec``.
        sample_rate: ``metadata.media.sample_rate``.
        channels: ``metadata.media.channels``.
        extension: of the file name or the URL, without the dot.
        content_type: of the part or the request.
        source: the source's default media ``{codec, sample_rate, channels}``.
    """

    codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    extension: str | None = None
    content_type: str | None = None
    source: dict[str, Any] | None = None


def sniff(head: bytes, hints: Hints) -> Media:
    """Tell the media from the first bytes (up to `HEAD_SIZE` are looked at) and the hints.

    Bytes win over hints. Among hints the order is metadata, extension, content type, source.
    """
    head = head[:HEAD_SIZE]
    media = _by_bytes(head)
    if media is not None:
        return replace(media, content_type=_CONTENT_TYPES[media.container])
    if head and (hinted := _by_hints(hints)) is not None:
        return hinted
    return _gsm_frames(head) or UNKNOWN


def contradictions(media: Media, hints: Hints) -> tuple[str, ...]:
    """Codes of what the sender said and the bytes deny: ``codec``, ``sample_rate``, ``channels``."""
    if media.known_by != "bytes":
        return ()
    found = []
    said = _HINTS.get((hints.codec or "").lower(), ("", hints.codec))[1]
    family = {"opus": "opus", "libopus": "opus", "pcm": media.codec if media.codec.startswith("pcm_") else ""}
    said = family.get(said or "", said)
    if said is not None and media.codec not in ("unknown", said) and said in _KNOWN_CODECS:
        found.append("codec")
    for name in ("sample_rate", "channels"):
        given, real = getattr(hints, name), getattr(media, name)
        if given is not None and real is not None and given != real:
            found.append(name)
    return tuple(found)


_KNOWN_CODECS: Final = frozenset(
    {"opus", "vorbis", "flac", "mp3", "aac", "amr_nb", "amr_wb", "gsm", "gsm_ms", "g722"}
    | {"pcm_mulaw", "pcm_alaw", *_PCM_BITS.values(), *_FLOAT_BITS.values()}
)


def extension_of(name: str) -> tuple[str, str | None]:
    """Split a file name from its audio extension; an unknown extension stays part of the name."""
    stem, dot, suffix = name.rpartition(".")
    if dot and stem and suffix.lower() in EXTENSIONS:
        return stem, suffix.lower()
    return name, None


EXTENSIONS: Final = frozenset(
    {"wav", "wav49", "mp3", "ogg", "oga", "opus", "webm", "mka", "flac", "amr", "awb", "aac", "m4a", "mp4"}
    | {"gsm", "g722", "ulaw", "mulaw", "ul", "pcmu", "alaw", "al", "pcma", "sln", "raw", "pcm"}
)


def _by_hints(hints: Hints) -> Media | None:
    kind = (hints.content_type or "").split(";", 1)[0].strip().lower()
    subtype = kind.removeprefix("audio/").removeprefix("x-") if kind.startswith("audio/") else ""
    source = hints.source or {}
    for name, by in (
        (hints.codec, "metadata"),
        (hints.extension, "extension"),
        (subtype, "type"),
        (source.get("codec"), "source"),
    ):
        found = _HINTS.get(str(name or "").lower())
        if found is None:
            continue
        container, codec = found
        rate = hints.sample_rate or (source.get("sample_rate") if by == "source" else None) or _RATES[codec]
        channels = hints.channels or (source.get("channels") if by == "source" else None) or 1
        if codec in ("gsm", "g722"):
            rate, channels = _RATES[codec], 1
        width = {"gsm": 33, "pcm_s16le": 2 * channels}.get(codec, channels)
        return Media(
            container, codec, rate, channels, _RAW_TYPES[codec], by, data_start=0, data_size=None, block=width
        )
    return None


def _by_bytes(head: bytes) -> Media | None:
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _wav(head)
    if head[:4] == b"fLaC":
        return _flac(head)
    if head[:4] == b"OggS":
        return _ogg(head)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _ebml(head)
    if head[:6] == b"#!AMR\n":
        return Media("amr", "amr_nb", 8_000, 1)
    if head[:9] == b"#!AMR-WB\n":
        return Media("amr", "amr_wb", 16_000, 1)
    if head[4:8] == b"ftyp":
        return Media("mp4", "aac")
    return _mpeg(head)


def _wav(head: bytes) -> Media:
    codec, rate, channels, block = "unknown", None, None, None
    at = 12
    ds64: int | None = None
    while at + 8 <= len(head):
        name, size = head[at : at + 4], struct.unpack_from("<I", head, at + 4)[0]
        body = at + 8
        if name == b"ds64" and len(head) >= body + 16:
            ds64 = struct.unpack_from("<Q", head, body + 8)[0]
        elif name == b"fmt " and size >= 16 and len(head) >= body + 16:
            tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", head, body)
            if tag == 0xFFFE and size >= 40 and len(head) >= body + 26:
                tag = struct.unpack_from("<H", head, body + 24)[0]  # first field of the sub-format GUID
            codec = _WAV_CODECS.get(tag, "unknown")
            if codec == "pcm":
                codec = _PCM_BITS.get(bits, "unknown")
            elif codec == "pcm_float":
                codec = _FLOAT_BITS.get(bits, "unknown")
            if codec == "g722":
                rate = 16_000  # the header counts bytes
        elif name == b"data":
            announced = ds64 if ds64 is not None and size == 0xFFFFFFFF else size
            length = None if announced in _TO_THE_END else announced
            return Media(
                "wav", codec, rate or None, channels or None, data_start=body, data_size=length, block=block
            )
        at = body + size + (size & 1)
    return Media("wav", codec, rate or None, channels or None, block=block)


def _flac(head: bytes) -> Media:
    if len(head) < 22 or head[4] & 0x7F != 0:
        return Media("flac", "flac")
    packed = int.from_bytes(head[18:22], "big")  # 20 bits rate, 3 bits channels - 1, …
    return Media("flac", "flac", packed >> 12 or None, ((packed >> 9) & 0x7) + 1)


def _ogg(head: bytes) -> Media:
    if len(head) < 28:
        return Media("ogg", "unknown")
    packet = head[27 + head[26] :]
    if packet[:8] == b"OpusHead" and len(packet) >= 16:
        # RFC 7845: Opus always decodes at 48 kHz; the field is the rate of what was encoded.
        return Media("ogg", "opus", struct.unpack_from("<I", packet, 12)[0] or 48_000, packet[9])
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        return Media("ogg", "vorbis", struct.unpack_from("<I", packet, 12)[0] or None, packet[11])
    if packet[:5] == b"\x7fFLAC":
        return Media("ogg", "flac")
    if packet[:8] == b"Speex   ":
        return Media("ogg", "speex")
    return Media("ogg", "unknown")


def _ebml(head: bytes) -> Media:
    if b"webm" not in head[:64] and b"matroska" not in head[:64]:
        return Media("webm", "unknown")
    for name, codec in ((b"A_OPUS", "opus"), (b"A_VORBIS", "vorbis"), (b"A_PCM/INT/LIT", "pcm_s16le")):
        if name in head[:8192]:
            return Media("webm", codec)
    return Media("webm", "unknown")


_MP3_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MP3_KBITS_1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_KBITS_2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _mpeg(head: bytes) -> Media | None:
    at = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        length = 0
        for byte in head[6:10]:
            length = length << 7 | byte & 0x7F
        at = 10 + length
        if at + 4 > len(head):
            return Media("mp3", "mp3")  # an ID3v2 tag longer than the head
    if head[at : at + 2] in (b"\xff\xf1", b"\xff\xf9"):
        return Media("aac", "aac")
    first = _mp3_frame(head, at)
    if first is None:
        return None
    length, rate, channels = first
    # Eleven set bits are no proof: mu-law silence is all ones. A second frame at the computed place is.
    if at + length + 4 <= len(head) and _mp3_frame(head, at + length) is None:
        return None
    return Media("mp3", "mp3", rate, channels)


def _mp3_frame(head: bytes, at: int) -> tuple[int, int, int] | None:
    if at + 4 > len(head):
        return None
    word = int.from_bytes(head[at : at + 4], "big")
    version, layer = word >> 19 & 3, word >> 17 & 3
    bit_rate, rate_index, padding, mode = word >> 12 & 15, word >> 10 & 3, word >> 9 & 1, word >> 6 & 3
    if word >> 21 != 0x7FF or version == 1 or layer != 1 or bit_rate in (0, 15) or rate_index == 3:
        return None
    rate = _MP3_RATES[version][rate_index]
    kbits = (_MP3_KBITS_1 if version == 3 else _MP3_KBITS_2)[bit_rate]
    length = (144 if version == 3 else 72) * kbits * 1000 // rate + padding
    return length, rate, 1 if mode == 3 else 2


def _gsm_frames(head: bytes) -> Media | None:
    """Raw GSM 06.10 as it is put in files: 33-byte frames whose first four bits are 0xD."""
    starts = head[: 33 * 100 : 33]
    if len(starts) < 5 or any(byte >> 4 != 0xD for byte in starts):
        return None
    return Media("raw", "gsm", 8_000, 1, _RAW_TYPES["gsm"], "bytes", data_start=0, block=33)
