"""The process that opens hostile media: audio comes in by a pipe, one line of JSON goes out.

Started by `recorder.ingest.probe` with ``python -I`` on this file, so it imports nothing of the service. It
limits itself before it looks at a byte: memory, processor time, no files to write, few descriptors. Whatever
happens in here ends with this process.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from typing import Any

MAX_ERRORS = 200
FULL_INPUT = 256 * 1024 * 1024


def limit(memory: int, cpu: int) -> None:
    """Take rights away from this process, for good."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def probe(given: dict[str, Any]) -> dict[str, Any]:
    """Decode everything and count."""
    import av

    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    source: Any = sys.stdin.buffer
    if given["seekable"]:
        source = io.BytesIO(source.read(FULL_INPUT))
    options = {**given["options"], "protocol_whitelist": "none", "format_whitelist": given["format"]}
    with av.open(source, format=given["format"], options=options, metadata_errors="ignore") as container:
        streams = container.streams.audio
        if not streams:
            return {"audio": False}
        stream = streams[0]
        codec = stream.codec_context
        samples = errors = rate = channels = 0
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    samples += frame.samples
                    rate, channels = frame.sample_rate, frame.layout.nb_channels
            except av.FFmpegError:
                errors += 1
                if errors > MAX_ERRORS:
                    break
        return {
            "audio": samples > 0,
            "codec": codec.codec.canonical_name,
            "sample_rate": rate,
            "channels": channels,
            "samples": samples,
            "errors": errors,
        }


def main() -> None:
    """Read the order from the arguments, the media from standard input."""
    given = json.loads(sys.argv[1])
    limit(given["memory"], given["cpu"])
    try:
        answer = probe(given)
    except Exception as error:  # noqa: BLE001  # whatever it was, the media is not usable
        answer = {"audio": False, "failed": type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
