"""Stands between a parent and one child process, so that the child never outlives the parent.

Run as a script (`python -I -S guardian.py`), never imported: it needs the standard library only and starts in milliseconds.

Why not PR_SET_PDEATHSIG alone: the kernel sends it when the *thread* that forked ends, and the devkit starts its parts in
threads; it reaches one process and not its children; and it cannot remove shared memory or a folder. So the guardian is a
process of its own, single-threaded, in its own session (Ctrl-C in a terminal does not reach it). The child asks for
PDEATHSIG from the *guardian*, which covers a `kill -9` of the guardian itself.

Standard input is the lifeline. Its first line is the specification, as JSON:
    argv, environment, folder    what to start
    parent                       the pid whose death ends everything
    discard                      pairs of a folder and a glob pattern: what matches is removed once the child is gone
    discard_if_orphaned          folders removed once the child is gone, only if the parent went away first
Every later line is `{"signal": N, "group": bool}`. End of file means that the parent is gone (or let go).
Standard output answers `{"pid": N}` or `{"error": text}`, and at the end `{"exit": returncode}`.
Standard error is the child's log; the child's own output goes there too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
HEARTBEAT_SECONDS = 0.5
"""How often the parent's pid is looked at: a forked sibling may hold a copy of the lifeline open after the parent died."""
REAP_SECONDS = 5.0


def _prctl() -> Callable[[int, int], None]:
    if not sys.platform.startswith("linux"):
        return lambda _option, _value: None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda option, value: libc.prctl(option, value, 0, 0, 0)


def _answer(message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the parent may be gone: there is nobody to tell
        os.write(1, json.dumps(message).encode() + b"\n")


def _discard(folder: Path, pattern: str) -> None:
    for found in folder.glob(pattern):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                found.unlink()


class Lifeline:
    """Lines from standard input, without ever blocking on half of one."""

    def __init__(self) -> None:
        self._pending = b""

    def read(self) -> list[dict[str, Any]] | None:
        """The lines that have arrived; None at the end of the file. Blocks until there is something to read."""
        data = os.read(0, 65536)
        if not data:
            return None
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Guardian:
    def __init__(self, lifeline: Lifeline, specification: dict[str, Any]) -> None:
        self._lifeline = lifeline
        self._specification = specification
        self._told_to_end = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def run(self) -> None:
        self._listen_to_signals()
        prctl = _prctl()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            child = self._start(prctl)
        except OSError as error:
            _answer({"error": str(error)})
            return
        _answer({"pid": child.pid})
        orphaned = not self._watch(child)
        self._end(child)
        for folder, pattern in self._specification["discard"]:
            _discard(Path(folder), pattern)
        if orphaned:
            for folder in self._specification["discard_if_orphaned"]:
                shutil.rmtree(folder, ignore_errors=True)
        _answer({"exit": child.returncode})

    def _listen_to_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell_to_end)

    def _tell_to_end(self, _number: int, _frame: object) -> None:
        self._told_to_end = True

    def _start(self, prctl: Callable[[int, int], None]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._specification["argv"],
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=2,
            cwd=self._specification["folder"],
            env=self._specification["environment"],
            start_new_session=True,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )

    def _watch(self, child: subprocess.Popen[bytes]) -> bool:
        """Until the child is dead (True) or the parent is gone (False). A dead child stays a zombie: its pid stays ours."""
        while True:
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            if self._told_to_end or os.getppid() != self._specification["parent"]:
                return False
            readable, _, _ = select.select([0, self._wake_read], [], [], HEARTBEAT_SECONDS)
            if self._wake_read in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            if 0 in readable:
                orders = self._lifeline.read()
                if orders is None:
                    return False
                for order in orders:
                    self._send(child, order["signal"], group=order["group"])

    @staticmethod
    def _send(child: subprocess.Popen[bytes], number: int, *, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(child.pid, number)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """Kills what is left of the child's process group and waits for all of it, grandchildren included."""
        self._send(child, signal.SIGKILL, group=True)
        child.wait()
        deadline = time.monotonic() + REAP_SECONDS
        while time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                time.sleep(0.005)


def main() -> None:
    lifeline = Lifeline()
    received: list[dict[str, Any]] = []
    while not received:
        lines = lifeline.read()
        if lines is None:
            return
        received = lines
    Guardian(lifeline, received[0]).run()


if __name__ == "__main__":
    main()
