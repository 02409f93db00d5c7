"""Requests wait in two queues, one thread a queue: those with images pass the first, and all meet in the second.

So a text request never waits behind the OCR of another one's image, and whatever has gathered while a batch was computed
becomes the next batch.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

MAX_BATCH = 32
# Admission control lives in the worker. This is the wall behind it: whoever asks for more is told to come back.
MAX_WAITING = 1024


class Stage(Generic[Item]):
    """A thread that hands whatever waits, up to `largest` items, to `work`.

    `work` must deal with each item's errors itself. Should it raise all the same, every item of that batch is given to
    `failed`, and the thread lives on.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], None],
        failed: Callable[[Item, Exception], None],
        *,
        largest: int = MAX_BATCH,
        waiting: int = MAX_WAITING,
    ) -> None:
        self._work = work
        self._failed = failed
        self._largest = largest
        self._most = waiting
        self._waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Queue `item`. Never blocks; False when as many wait as may, and then the item is not taken."""
        if self._waiting.qsize() >= self._most:
            return False
        self._waiting.put(item)
        return True

    def close(self, timeout: float) -> bool:
        """Finish what was put before, then stop. True when the thread ended within `timeout` seconds."""
        self._waiting.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            first = self._waiting.get()
            if first is None:
                return
            batch = [first]
            closing = False
            while len(batch) < self._largest and not closing:
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    closing = True
                else:
                    batch.append(item)
            self._process(batch)
            if closing:
                return

    def _process(self, batch: list[Item]) -> None:
        try:
            self._work(batch)
        except Exception as error:
            for item in batch:
                with contextlib.suppress(Exception):  # An item that was answered before cannot be failed any more.
                    self._failed(item, error)
