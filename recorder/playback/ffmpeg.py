"""Runs ffmpeg on pipes: hostile media in, audio out, plaintext never on a disk.

Each run is a process of its own with limits: no files written (RLIMIT_FSIZE 0), no core dump, bounded
processor time, memory and descriptors, no protocol but pipes, a demuxer chosen by us rather than guessed from
the bytes, no metadata carried over, and a clock that kills it when it stalls. The limits are set by a POSIX
shell that then becomes ffmpeg, because ``preexec_fn`` is not safe in a process with threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from recorder.errors import ConfigurationError, RecorderError
from recorder.playback.editing import Layout
from recorder.playback.media import Input

__all__ = ["LIMITS", "Limits", "MediaError", "decode", "encode", "ffmpeg_path", "transcode"]

_PIECE: Final = 64 * 1024
_LIMITED: Final = 'ulimit -c 0; ulimit -f 0; ulimit -n 64; ulimit -t "$1"; ulimit -v "$2"; shift 2; exec "$@"'
_QUIET: Final = ("-nostdin", "-hide_banner", "-loglevel", "error")
# Gaps in the sender's time stamps become silence, so that a second of output is a second of the call.
_TIMELINE: Final = "aresample=async=1:first_pts=0:min_hard_comp=0.1"


class MediaError(RecorderError):
    """Media that cannot be decoded: broken, hostile, of an unknown kind, or beyond a limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use.

    Attributes:
        cpu_seconds: processor time.
        memory_bytes: address space of the process.
        stall_seconds: longest silence from the process before it is killed.
        in_memory_bytes: largest input of a format that must be held in memory whole to be opened.
        output_bytes: most that may come out.
    """

    cpu_seconds: int = 1800
    memory_bytes: int = 2 * 1024**3
    stall_seconds: float = 120.0
    in_memory_bytes: int = 256 * 1024**2
    output_bytes: int = 16 * 1024**3


LIMITS: Final = Limits()


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg that came with the wheel, or the one ``IMAGEIO_FFMPEG_EXE`` names.

    Raises:
        ConfigurationError: there is none.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise ConfigurationError("there is no ffmpeg; reinstall imageio-ffmpeg") from None


def transcode(
    source: AsyncIterable[bytes], opened: Input, layout: Layout, *, limits: Limits = LIMITS
) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """Any recording to Ogg/Opus; see `decode`."""
    output = (*_decoded(layout, ("-af", _TIMELINE)), *_opus(layout))
    return _run(source, opened, output, limits)


def decode(
    source: AsyncIterable[bytes], opened: Input, layout: Layout, *, limits: Limits = LIMITS
) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """Any recording to raw 16-bit PCM, piece by piece.

    Args:
        source: the recording's bytes.
        opened: how to open it.
        layout: rate and channels to decode to.
        limits: what the run may use.

    Raises:
        MediaError: on entering or while iterating; what came before is then not to be used.
    """
    return _run(source, opened, (*_decoded(layout, ("-af", _TIMELINE)), "-f", "s16le"), limits)


def encode(
    pcm: AsyncIterable[bytes], layout: Layout, *, limits: Limits = LIMITS
) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """Raw 16-bit PCM to Ogg/Opus; see `decode`."""
    shape = "mono" if layout.channels == 1 else "stereo"
    opened = Input(("-f", "s16le", "-sample_rate", str(layout.rate), "-ch_layout", shape), seekable=False)
    return _run(pcm, opened, _opus(layout), limits)


def _decoded(layout: Layout, filters: Sequence[str]) -> tuple[str, ...]:
    return (*filters, "-ar", str(layout.rate), "-ac", str(layout.channels))


def _opus(layout: Layout) -> tuple[str, ...]:
    # At these rates the channels of a stereo call stay apart (measured: leakage under -90 dB), which matters
    # when one side is to be heard alone. Pages of a second let a player seek without reading on.
    rate = "32k" if layout.channels == 1 else "64k"
    return ("-c:a", "libopus", "-application", "voip", "-b:a", rate, "-page_duration", "1000000", "-f", "ogg")


@asynccontextmanager
async def _run(
    source: AsyncIterable[bytes], opened: Input, output: Sequence[str], limits: Limits
) -> AsyncIterator[AsyncIterator[bytes]]:
    path = ffmpeg_path()
    memory = await _in_memory(source, limits.in_memory_bytes) if opened.seekable else None
    try:
        entrance = ("-protocol_whitelist", "pipe", *opened.options, "-i", "pipe:0")
        if memory is not None:
            entrance = ("-protocol_whitelist", "fd", *opened.options, "-fd", str(memory), "-i", "fd:")
        command = (path, *_QUIET, *entrance, "-map", "0:a:0", "-map_metadata", "-1", *output, "pipe:1")
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _LIMITED,
            "ffmpeg",
            str(limits.cpu_seconds),
            str(limits.memory_bytes // 1024),
            *command,
            stdin=asyncio.subprocess.DEVNULL if memory is not None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=() if memory is None else (memory,),
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,
        )
    finally:
        if memory is not None:
            os.close(memory)
    feeding = asyncio.create_task(_feed(process, source if memory is None else None))
    complaints = asyncio.create_task(_complaints(process))
    try:
        yield _output(process, feeding, limits)
    finally:
        await _end(process, feeding, complaints)


async def _output(
    process: asyncio.subprocess.Process, feeding: asyncio.Task[None], limits: Limits
) -> AsyncIterator[bytes]:
    stdout = process.stdout
    assert stdout is not None  # noqa: S101  # it was asked for
    seen = 0
    while True:
        try:
            async with asyncio.timeout(limits.stall_seconds):
                piece = await stdout.read(_PIECE)
        except TimeoutError:
            raise MediaError("the media took too long to decode") from None
        if not piece:
            break
        seen += len(piece)
        if seen > limits.output_bytes:
            raise MediaError("the media decodes to more than is allowed")
        yield piece
    try:
        async with asyncio.timeout(limits.stall_seconds):
            status = await process.wait()
            # Its error counts first: a recording that cannot be read whole must not look complete.
            await feeding
    except TimeoutError:
        raise MediaError("the media took too long to decode") from None
    # What ffmpeg says may quote the media's own tags, so only its status is reported.
    if status != 0:
        raise MediaError(f"the media cannot be decoded (ffmpeg ended with {status})")
    if seen == 0:
        raise MediaError("the media holds no audio")


async def _feed(process: asyncio.subprocess.Process, source: AsyncIterable[bytes] | None) -> None:
    stdin = process.stdin
    if source is None or stdin is None:
        return
    try:
        async for piece in source:
            stdin.write(piece)
            await stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # ffmpeg has read enough, or failed: its status tells
    except BaseException:
        # Without this, ffmpeg would take the end of its input for the end of the recording.
        _kill(process)
        raise
    finally:
        stdin.close()


async def _complaints(process: asyncio.subprocess.Process) -> None:
    """Read what it complains of and drop it, so that it never blocks on a full pipe."""
    stderr = process.stderr
    while stderr is not None and await stderr.read(_PIECE):
        pass


async def _end(
    process: asyncio.subprocess.Process, feeding: asyncio.Task[None], complaints: asyncio.Task[None]
) -> None:
    if process.returncode is None:
        _kill(process)
    feeding.cancel()
    await asyncio.gather(feeding, complaints, return_exceptions=True)
    stdout = process.stdout
    while stdout is not None and await stdout.read(_PIECE):
        pass
    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _in_memory(source: AsyncIterable[bytes], limit: int) -> int:
    """The whole input in an anonymous memory file, for demuxers that seek; its descriptor.

    Raises:
        MediaError: it is larger than the limit.
    """
    memory = os.memfd_create("media", os.MFD_CLOEXEC)
    try:
        size = 0
        async for piece in source:
            size += len(piece)
            if size > limit:
                raise MediaError(f"media of this kind is decoded up to {limit} bytes only")
            await asyncio.to_thread(_write_all, memory, piece)
        os.lseek(memory, 0, os.SEEK_SET)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _write_all(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
