"""Ctrl-C and SIGTERM around a resource that must be released: both unwind the stack, and neither interrupts the release."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

TERMINATED = 128 + signal.SIGTERM
"""The status a shell reports for a process that SIGTERM ended."""

Handler = Callable[[int, FrameType | None], Any] | int | None


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


@contextlib.contextmanager
def terminate_as_exit() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(143) in the main thread, so that `with` blocks and `finally` run.

    Only the main thread can arrange that; in another thread, and where somebody handles SIGTERM already, nothing is changed.
    """
    if not _main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM wait; they are delivered on the way out. Keep what is inside bounded in time."""
    if not _main_thread():
        yield
        return
    arrived: list[int] = []
    before: dict[signal.Signals, Handler] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda received, _frame: arrived.append(received))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received in dict.fromkeys(arrived):
            signal.raise_signal(received)


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
