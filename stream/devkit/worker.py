"""The real worker as a child process, for the demo, the tests and the benchmarks."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from stream.devkit.process import ChildProcess, free_port

READY_SECONDS = 60.0


class WorkerProcess:
    """`proguard-stream worker` with the given settings, as an operator would start it: by environment.

    `settings` are environment variables by name (`PROGUARD_KAFKA__BOOTSTRAP_SERVERS`, …); none of the caller's own
    `PROGUARD_` variables is passed on. `start` blocks until /ready answers 200. The log is `<folder>/<name>.log`.
    """

    def __init__(self, settings: Mapping[str, str], folder: Path, *, name: str = "worker") -> None:
        self.port = free_port()
        inherited = {variable: value for variable, value in os.environ.items() if not variable.startswith("PROGUARD_")}
        self.log = folder / f"{name}.log"
        self._child = ChildProcess(
            [sys.executable, "-m", "stream.operator.cli", "worker"],
            name=name,
            log=self.log,
            folder=Path.cwd(),
            environment={**inherited, **settings, "PROGUARD_HEALTH__PORT": str(self.port)},
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def returncode(self) -> int | None:
        return self._child.returncode

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, return when it is ready. Raises `DevkitError` with the end of its log when it is not."""
        self._child.start()
        if wait:
            self._child.wait_until(self.ready, READY_SECONDS)

    def ready(self) -> bool:
        """Whether /ready answers 200."""
        try:
            return all(self.checks("ready").values())
        except OSError:
            return False

    def checks(self, endpoint: str) -> dict[str, bool]:
        """What /ready or /live says. Raises `OSError` when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{endpoint}", timeout=2) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 when there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def terminate(self, timeout: float = 40.0) -> int | None:
        """SIGTERM, and wait for the orderly end; after `timeout` seconds SIGKILL. Returns the exit status."""
        self._child.stop(timeout)
        return self._child.returncode

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._child.kill()

    def pause(self) -> None:
        """SIGSTOP: the process is there and does nothing."""
        self._child.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._child.resume()

    def log_tail(self, lines: int = 30) -> str:
        return self._child.log_tail(lines)
