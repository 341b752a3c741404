"""Commands on an embedded installation of their own, in this process and as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recorder.cli import cli


@dataclass(frozen=True)
class Recorder:
    """The command line with an environment of its own."""

    environment: dict[str, str]

    @property
    def data(self) -> Path:
        return Path(self.environment["RECORDER_DATA_DIR"])

    def run(self, *arguments: str, text: str | None = None, expect: int = 0) -> Result:
        """Run a command in this process."""
        result = CliRunner().invoke(cli, list(arguments), input=text, env=self.environment)
        assert result.exit_code == expect, (arguments, result.output, result.stderr)
        if expect:
            # One line says why; never a traceback.
            assert "Traceback" not in result.stderr
        return result

    @contextmanager
    def process(self, *arguments: str, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[str]]:
        """A running command; stopped with SIGTERM at the end, which it must obey."""
        process = subprocess.Popen(
            [sys.executable, "-m", "recorder", *arguments],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            while not ready():
                if process.poll() is not None:
                    assert process.stdout is not None
                    pytest.fail(f"{arguments} ended: {process.stdout.read()}")
                try:
                    process.wait(0.05)  # paces the looking
                except subprocess.TimeoutExpired:
                    continue
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def recorder(tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Nothing is installed yet."""
    for name in [name for name in os.environ if name.startswith("RECORDER_")]:
        monkeypatch.delenv(name)
    return Recorder(
        {"RECORDER_DATA_DIR": str(tmp_path / "data"), "RECORDER_LISTEN": f"127.0.0.1:{free_port()}"}
    )


@pytest.fixture
def installed(recorder: Recorder) -> Recorder:
    """Migrated, with one Finnish controller."""
    recorder.run("migrate")
    recorder.run("controller", "add", "fi-main", "--name", "Esimerkki Oy", "--country", "fi")
    return recorder
