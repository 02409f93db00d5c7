"""One child process that cannot outlive its parent.

`ChildProcess` starts its command under a guardian (see `stream.devkit.guardian`), in a session of its own: Ctrl-C in the
terminal does not reach it, and whatever ends the parent, a `kill -9` included, ends the child, the processes that it
started, and what it leaves in shared memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from stream.errors import DevkitError

GUARDIAN = Path(__file__).with_name("guardian.py")
LOG_TAIL_LINES = 30
POLL_SECONDS = 0.05
GONE_SECONDS = 15.0
"""How long a killed process may take to be gone. The guardian itself gives up on strangers after 5 s."""

Announce = Callable[[str], None]
"""Receives one line for a person about something slow: a download, a start."""


def silent(message: str) -> None:
    """The `Announce` that says nothing."""


class ChildDiedError(DevkitError):
    """A child process ended when it should have been running. Carries its name, return code and the end of its log."""

    def __init__(self, name: str, returncode: int | None, log_tail: str) -> None:
        super().__init__(f"{name} ended with status {returncode} before it was ready. Its log ends with:\n{log_tail}")
        self.name = name
        self.returncode = returncode
        self.log_tail = log_tail


class StartCancelledError(DevkitError):
    """Somebody else asked for the start to be given up."""


class ChildProcess:
    """A command that runs as a child, with its output in a log file.

    `discard` are folders with a glob pattern (shared memory, sockets): what matches is removed whenever the child has ended; `discard_if_orphaned` are folders
    removed once the child has ended because the parent went away. `environment` replaces the inherited one.
    The methods may be called from any thread, one at a time. A stopped child can be started again.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        discard: Sequence[tuple[Path, str]] = (),
        discard_if_orphaned: Sequence[Path] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._specification: dict[str, Any] = {
            "argv": [str(argument) for argument in argv],
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(folder or log.parent),
            "discard": [(str(folder), pattern) for folder, pattern in discard],
            "discard_if_orphaned": [str(folder) for folder in discard_if_orphaned],
        }
        self._guardian: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._returncode: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The pid of the child itself, not of its guardian. Raises DevkitError before `start`."""
        if self._pid is None:
            raise DevkitError(f"{self.name} was not started")
        return self._pid

    @property
    def running(self) -> bool:
        guardian = self._guardian
        return guardian is not None and guardian.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs (or never ran); negative: the signal that ended it."""
        if not self.running:
            self._collect()
        return self._returncode

    def start(self) -> None:
        """Returns once the command is running (not ready). Raises DevkitError when it cannot be executed."""
        if self.running:
            raise DevkitError(f"{self.name} is running already (pid {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARDIAN)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._guardian, self._pid, self._returncode = guardian, None, None
        self._write(self._specification | {"parent": os.getpid()})
        answer = self._read()
        if "pid" not in answer:
            guardian.wait(GONE_SECONDS)
            self._close()
            raise DevkitError(f"{self.name} could not be started: {answer.get('error', self.log_tail())}")
        self._pid = answer["pid"]

    def wait_until(
        self, ready: Callable[[], bool], timeout: float, *, cancelled: threading.Event | None = None
    ) -> None:
        """Blocks until `ready()` is true, asking every 50 ms.

        An exception out of `ready` counts as "not yet"; the last one is part of the message if time runs out. Raises
        `ChildDiedError` as soon as the child has ended, `StartCancelledError` when the event is set, DevkitError after `timeout` seconds.
        `ready` should answer within a second or two: while it runs, nothing else is noticed.
        """
        deadline = time.monotonic() + timeout
        last: Exception | None = None
        cancelled = cancelled or threading.Event()
        while True:
            if not self.running:
                raise ChildDiedError(self.name, self.returncode, self.log_tail())
            if cancelled.is_set():
                raise StartCancelledError(f"the start of {self.name} was given up")
            try:
                if ready():
                    return
            except Exception as error:  # whatever it is, it is the caller's way to say "not yet"
                last = error
            if time.monotonic() >= deadline:
                why = f" (last answer: {last!r})" if last else ""
                raise DevkitError(
                    f"{self.name} was not ready after {timeout:g} s{why}. Its log ends with:\n{self.log_tail()}"
                )
            cancelled.wait(POLL_SECONDS)

    def wait(
        self,
        timeout: float,
        *,
        cancelled: threading.Event | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> int:
        """Blocks until the child has ended by itself and returns its status; calls `meanwhile` every 50 ms.

        Raises DevkitError after `timeout` seconds and `StartCancelledError` when the event is set; the child then runs on.
        """

        def ended() -> bool:
            meanwhile()
            return False

        try:
            self.wait_until(ended, timeout, cancelled=cancelled)
        except ChildDiedError as end:
            return -signal.SIGKILL if end.returncode is None else end.returncode
        raise AssertionError("unreachable: wait_until returns only when its condition holds")

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM to the child, SIGKILL to its process group after `timeout` seconds. Does nothing when it is not running.

        On return the child, its process group and everything in `discard` are gone.
        """
        if self.running:
            self._signal(signal.SIGCONT, group=True)
            self._signal(signal.SIGTERM, group=False)
            self._gone_within(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the child's process group. On return it is gone. Does nothing when it is not running."""
        guardian = self._guardian
        if guardian is None:
            return
        self._signal(signal.SIGKILL, group=True)
        if not self._gone_within(GONE_SECONDS):
            guardian.kill()
            self._close()
            raise DevkitError(f"{self.name} (pid {self._pid}) did not go away after SIGKILL")
        self._collect()

    def pause(self) -> None:
        """SIGSTOP to the whole process group: it keeps its memory and sockets and answers nobody."""
        self._signal(signal.SIGSTOP, group=True)

    def resume(self) -> None:
        """SIGCONT to the whole process group."""
        self._signal(signal.SIGCONT, group=True)

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of the log; empty when there are none."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 400 * lines))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals, *, group: bool) -> None:
        # The guardian sends it, because only the guardian knows that the pid still means this child.
        if self.running:
            self._write({"signal": int(number), "group": group})

    def _gone_within(self, timeout: float) -> bool:
        assert self._guardian is not None
        try:
            self._guardian.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _write(self, message: dict[str, Any]) -> None:
        assert self._guardian is not None
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it ended a moment ago: poll() will say so
            self._guardian.stdin.write(json.dumps(message).encode() + b"\n")
            self._guardian.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._guardian is not None
        assert self._guardian.stdout is not None
        line = self._guardian.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer

    def _collect(self) -> None:
        if self._guardian is None:
            return
        answer = self._read()
        self._returncode = answer.get("exit", -signal.SIGKILL)
        if "exit" not in answer:
            self._end_without_guardian()
        self._close()

    def _end_without_guardian(self) -> None:
        """Somebody killed the guardian. The child went with it (PDEATHSIG); this is for the rest of its process group."""
        if self._pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        for folder, pattern in self._specification["discard"]:
            for left in Path(folder).glob(pattern):
                left.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._guardian is None:
            return
        for pipe in (self._guardian.stdin, self._guardian.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._guardian = None


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback address that nobody listens on at this moment.

    They lie below the kernel's ephemeral range. Inside that range, a client that keeps reconnecting to a server that is down
    may be given the server's own port as its source, connect to itself and keep the port from the server when it restarts.
    """
    ceiling = _ephemeral_floor()
    sockets: list[socket.socket] = []
    try:
        for _ in range(1000):
            if len(sockets) == count:
                break
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                candidate.bind(("127.0.0.1", random.randrange(max(1024, ceiling - 20000), ceiling)))
            except OSError:
                candidate.close()
            else:
                sockets.append(candidate)
        if len(sockets) < count:
            raise DevkitError("no free TCP port was found on 127.0.0.1")
        return [found.getsockname()[1] for found in sockets]
    finally:
        for found in sockets:
            found.close()


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def _ephemeral_floor() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
