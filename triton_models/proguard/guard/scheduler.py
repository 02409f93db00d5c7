"""The thread that runs the batch: requests join between two steps and leave as soon as they are done."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import dataclass

from .batch import Batch, Job, Row
from .errors import EngineDiedError, GuardModelError, OverloadedError
from .runner import is_out_of_memory

_NO_MEMORY = "memory ran out; the same request may succeed when fewer are under way"


@dataclass(frozen=True, slots=True)
class Load:
    """How many rows are in the batch, and how many jobs wait for a place."""

    running: int
    waiting: int


class Scheduler:
    """Owns a batch and its thread. `submit`, `load` and `close` may be called from any thread and never block for a step.

    Out of memory is the fault of the newest: the newcomers are tried in halves, and one that does not fit alone gets an
    `OverloadedError`. Any other error of the batch ends the engine: every request, then and later, gets an
    `EngineDiedError`, because what the model has in its memory can no longer be trusted.
    """

    def __init__(self, batch: Batch, *, max_batch: int, release_memory: Callable[[], None]) -> None:
        """Start the thread. `release_memory` is called in it after memory ran out."""
        self._batch = batch
        self._max_batch = max_batch
        self._release_memory = release_memory
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._joining = 0
        self._closing = False
        self._dead: EngineDiedError | None = None
        self._thread = threading.Thread(target=self._run, name="guard-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue `job`. Its future gets the generation or a `GuardModelError`; cancelling it takes it out within a step."""
        with self._changed:
            if self._dead is not None:
                raise self._dead
            self._waiting.append(job)
            self._changed.notify()

    def load(self) -> Load:
        """As of now, or of the last step."""
        return Load(len(self._batch.rows), len(self._waiting) + self._joining)

    def close(self) -> None:
        """Stop after the step under way; whatever is not finished gets an `EngineDiedError`. Blocks until the thread has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                newcomers = self._wait_for_work()
                if newcomers is None:
                    break
                self._drop_cancelled()
                self._join(newcomers)
                self._joining = 0
                self._step()
        except BaseException as error:
            self._end(EngineDiedError(f"the engine ended ({type(error).__name__}); load the model again"))
            raise  # The interpreter writes it, with its traceback, into the server's log.
        self._end(EngineDiedError("the engine was stopped"))

    def _wait_for_work(self) -> list[Job] | None:
        """Those that may join now; None when it is time to end."""
        with self._changed:
            while not (self._closing or self._waiting or self._batch.rows):
                self._changed.wait()
            if self._closing:
                return None
            places = self._max_batch - len(self._batch.rows)
            jobs: list[Job] = []
            while self._waiting and len(jobs) < places:
                job = self._waiting.popleft()
                if not job.future.cancelled():
                    jobs.append(job)
            taken = self._batch.take(jobs)
            self._waiting.extendleft(reversed(jobs[taken:]))
            self._joining = taken
            return jobs[:taken]

    def _drop_cancelled(self) -> None:
        for row in [row for row in self._batch.rows if row.job.future.cancelled()]:
            self._batch.leave(row)

    def _join(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        if self._fits(lambda: self._batch.join(jobs)):
            self._finish()
        elif len(jobs) > 1:
            half = len(jobs) // 2
            self._join(jobs[:half])
            self._join(jobs[half:])
        else:
            _fail(jobs[0], OverloadedError(_NO_MEMORY))

    def _step(self) -> None:
        while self._batch.rows and not self._fits(self._batch.step):
            newest = max(self._batch.rows, key=lambda row: row.job.asked_at)
            self._batch.leave(newest)
            _fail(newest.job, OverloadedError(_NO_MEMORY))
        self._finish()

    def _fits(self, work: Callable[[], None]) -> bool:
        """Do `work`; False when memory ran out. The error, and the tensors that its traceback holds, are gone by then."""
        try:
            work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        self._batch.forget_prefixes()
        self._release_memory()
        return False

    def _finish(self) -> None:
        for row in [row for row in self._batch.rows if row.finish is not None]:
            self._batch.leave(row)
            self._answer(row)

    def _answer(self, row: Row) -> None:
        with contextlib.suppress(InvalidStateError):  # Cancelled just now.
            row.job.future.set_result(self._batch.generation(row))

    def _end(self, error: EngineDiedError) -> None:
        with self._changed:
            self._dead = error
            jobs = [*(row.job for row in self._batch.rows), *self._waiting]
            self._waiting.clear()
        self._batch.rows.clear()
        for job in jobs:
            _fail(job, error)


def _fail(job: Job, error: GuardModelError) -> None:
    with contextlib.suppress(InvalidStateError):
        job.future.set_exception(error)
