"""An asyncio event loop with time of its own, on which several simulated processes run at once.

A process has threads; a thread is a queue of callbacks, run in order, as one event loop or one operating-system thread would.
Which thread takes the next step is drawn by chance, so anything that two threads may do to one another happens in some
schedule. Time stands still while any thread can run, then jumps to the next timer. Nothing here is an operating-system thread,
and nothing waits for the world outside: a seed decides everything.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

_THREAD: contextvars.ContextVar[SimThread] = contextvars.ContextVar("simulated_thread")

MAX_STEPS = 2_000_000
"""A schedule takes some 10,000 steps. This many are a loop that never ends."""


class SimulationError(AssertionError):
    """The simulation itself cannot go on: a callback failed, or nothing will ever happen again."""


class SimProcess:
    """Some threads that live, are stopped, and die together."""

    def __init__(self, loop: SimLoop, name: str) -> None:
        self.name = name
        self.alive = True
        self.steps = 0
        self.at_step: tuple[int, SimThread | None, Callable[[], None]] | None = None
        """When so many steps have been taken, and this thread (or any) is about to take one, that happens instead."""
        self.loop = loop
        self.main = SimThread(self, "loop")
        self.threads = [self.main]
        loop.processes.append(self)

    def thread(self, name: str) -> SimThread:
        made = SimThread(self, name)
        self.threads.append(made)
        return made

    def kill(self) -> None:
        """What SIGKILL does: no thread of this process takes another step."""
        self.alive = False
        for thread in self.threads:
            thread.queue.clear()

    def stop(self, seconds: float) -> None:
        """SIGSTOP now, SIGCONT after `seconds`."""
        for thread in self.threads:
            thread.stop(seconds)


class SimThread:
    """A queue of callbacks that run one after the other."""

    __slots__ = ("_loop", "context", "name", "process", "queue", "queued", "stopped_until")

    def __init__(self, process: SimProcess, name: str) -> None:
        self.process = process
        self.name = name
        self.queue: deque[asyncio.Handle] = deque()
        self.queued = False
        self.stopped_until = 0.0
        self._loop = process.loop
        self.context = contextvars.Context()
        """Whatever is started in it belongs to this thread."""
        self.context.run(_THREAD.set, self)

    def stop(self, seconds: float) -> None:
        """Take no step for `seconds`: busy, preempted, or stopped."""
        self.stopped_until = max(self.stopped_until, self._loop.time() + seconds)

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run `work` on this thread."""
        return self._loop.create_task(work, name=name, context=self.context)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, callback, *args, context=self.context)


class SimLoop(asyncio.AbstractEventLoop):
    """The loop of one schedule. `run` returns what `main` returns; every exception that nobody handled fails the schedule."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now = 1000.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._sequence = 0
        self._active: list[SimThread] = []
        self._stopped: list[SimThread] = []
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None
        self.processes: list[SimProcess] = []
        self.steps = 0

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` in a process of its own until it returns."""
        asyncio._set_running_loop(self)
        try:
            world = SimProcess(self, "world")
            task = world.main.spawn(main())
            while not task.done():
                self._step()
                if self._failure is not None:
                    raise self._failure
            return task.result()
        finally:
            self._closed = True
            asyncio._set_running_loop(None)
            self._bury()

    def _step(self) -> None:
        active = self._active
        if not active:
            self._advance()
            return
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise SimulationError(f"{MAX_STEPS} steps: something goes round in circles at {self._now:.3f}")
        index = int(self._random.random() * len(active)) if len(active) > 1 else 0
        thread = active[index]
        queue = thread.queue
        if not queue or thread.stopped_until > self._now:
            active[index] = active[-1]
            active.pop()
            if queue:
                self._stopped.append(thread)
                self._wake_at(thread.stopped_until)
            else:
                thread.queued = False
            return
        handle = queue.popleft()
        process = thread.process
        process.steps += 1
        if process.at_step is not None:
            step, only, fault = process.at_step
            if process.steps >= step and only in (None, thread):
                process.at_step = None
                queue.appendleft(handle)
                fault()
                return
        if not handle.cancelled():
            handle._run()

    def _advance(self) -> None:
        if not self._timers:
            raise SimulationError("nothing will ever happen again: everything waits for something else")
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._enqueue(timer)
        if self._stopped:
            still = []
            for thread in self._stopped:
                if thread.stopped_until > self._now:
                    still.append(thread)
                else:
                    self._active.append(thread)
            self._stopped = still

    def _wake_at(self, when: float) -> None:
        self.call_at(when, _nothing, context=self.processes[0].main.context)

    def _enqueue(self, handle: asyncio.Handle) -> None:
        thread = handle._context[_THREAD]  # type: ignore[attr-defined]
        if not thread.process.alive:
            return
        thread.queue.append(handle)
        if not thread.queued:
            thread.queued = True
            self._active.append(thread)

    def _bury(self) -> None:
        """Let go of the tasks of dead processes, quietly: that they never finish is what death means."""
        for process in self.processes:
            process.kill()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                # Their `finally` blocks run now. Nothing that they start is run.
                task.get_coro().close()  # type: ignore[union-attr]
        self._tasks.clear()
        self._timers.clear()

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=context)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self._enqueue(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """To the event loop of the process that calls, behind everything that waits there."""
        if self._closed:
            return asyncio.Handle(callback, args, self, contextvars.Context())
        return self.call_soon(callback, *args, context=current_thread().process.main.context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are thrown away when their time comes."""

    def run_in_executor(  # type: ignore[override]
        self, executor: SimExecutor | None, func: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:
        """`func` on the thread of `executor`. Code that blocks is a coroutine here (tests/simulation/blocking.py)."""
        thread = executor.thread if executor is not None else current_thread().process.thread("executor")
        answer: asyncio.Future[Any] = self.create_future()

        async def work() -> None:
            try:
                result = func(*args)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        if executor is None:
            thread.spawn(work())
        else:
            executor.submit(work())
        return answer

    def fail(self, error: BaseException) -> None:
        """End the schedule with `error`, whoever would catch it on the way."""
        if self._failure is None:
            self._failure = error

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._closed or self._failure is not None:
            return
        error = context.get("exception")
        if isinstance(error, AssertionError):
            self._failure = error
            return
        self._failure = SimulationError(f"unhandled in the loop: {context.get('message')}: {error!r}")
        self._failure.__cause__ = error


class SimExecutor:
    """An executor of one thread: one piece of work at a time, in order."""

    def __init__(self, max_workers: int = 1, thread_name_prefix: str = "executor") -> None:
        assert max_workers == 1
        self.thread = current_thread().process.thread(thread_name_prefix)
        self._last: asyncio.Task[None] | None = None

    def submit(self, work: Coroutine[Any, Any, None]) -> None:
        before = self._last

        async def in_turn() -> None:
            if before is not None:
                await asyncio.wait([before])
            await work

        self._last = self.thread.spawn(in_turn())

    async def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        if self._last is not None:
            await asyncio.wait([self._last])


class SimEvent:
    """In the place of `threading.Event`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class SimOsThread:
    """In the place of `threading.Thread`, for a target that is a coroutine function here."""

    def __init__(self, *, target: Callable[[], Coroutine[Any, Any, None]], name: str, daemon: bool) -> None:
        assert daemon
        self._thread = current_thread().process.thread(name)
        self._target = target
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._thread.spawn(self._target())

    async def join(self, timeout: float | None = None) -> None:
        assert self._task is not None
        await asyncio.wait([self._task], timeout=timeout)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done()


def current_thread() -> SimThread:
    """The simulated thread that takes the present step."""
    return _THREAD.get()


def _nothing() -> None:
    return
