"""The peer a user would pick instead: rclone with its crypt remote on the same store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.servers.s3 import S3Server


class Rclone:
    """rclone, configured by environment for one bucket."""

    def __init__(self, s3: S3Server, folder: Path) -> None:
        self._folder = folder
        self._program = str(Path(sys.executable).parent / "rclone")
        obscured = subprocess.run(
            [self._program, "obscure", "bench"], capture_output=True, text=True, check=True
        ).stdout.strip()
        self._environment = {
            **os.environ,
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_RAW_TYPE": "s3",
            "RCLONE_CONFIG_RAW_PROVIDER": "Ceph",
            "RCLONE_CONFIG_RAW_ENDPOINT": s3.url,
            "RCLONE_CONFIG_RAW_ACCESS_KEY_ID": s3.access_key,
            "RCLONE_CONFIG_RAW_SECRET_ACCESS_KEY": s3.secret_key,
            "RCLONE_CONFIG_SEALED_TYPE": "crypt",
            "RCLONE_CONFIG_SEALED_REMOTE": f"raw:{s3.new_bucket()}",
            "RCLONE_CONFIG_SEALED_PASSWORD": obscured,
        }
        self._server: subprocess.Popen[bytes] | None = None

    def copy(self, source: Path, target: str, transfers: int) -> float:
        """Seconds for the copy of a folder, as a whole process."""
        started = time.perf_counter()
        subprocess.run(
            [self._program, "copy", "--transfers", str(transfers), str(source), f"sealed:{target}"],
            env=self._environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - started

    def serve(self) -> str:
        """Start ``rclone serve http`` and return its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._server = subprocess.Popen(
            [
                self._program,
                "serve",
                "http",
                "sealed:",
                "--addr",
                f"127.0.0.1:{port}",
                "--dir-cache-time",
                "1h",
            ],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        raise RuntimeError("rclone serve did not start")

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
