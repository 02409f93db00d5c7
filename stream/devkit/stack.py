"""Kafka, Triton and a bucket side by side, and nothing left of them afterwards."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, Self, TypeVar

from stream.devkit.kafka import KafkaBroker
from stream.devkit.mock_kafka import MockKafka, open_kafka
from stream.devkit.process import Announce, StartCancelledError, silent
from stream.devkit.signals import held, terminate_as_exit
from stream.devkit.store import LocalStore
from stream.devkit.triton import Ready, TritonServer
from stream.errors import DevkitError

T = TypeVar("T")
LOOK_SECONDS = 0.2
NOT_STARTED = "the development stack was not started"


class Part(Protocol):
    """What can be started in a thread, given up half-way, and stopped at any time."""

    def start(self, cancelled: threading.Event | None = None) -> None: ...

    def stop(self) -> None: ...


class DevStack:
    """Everything the service needs, in one folder, for as long as the `with` block lasts.

        with DevStack(None, repository=..., environment=..., models=["proguard_lite"], ready=answers) as stack:
            ...  # stack.kafka.bootstrap, stack.triton.grpc_url, stack.store.put(...)

    Kafka and Triton start at the same time; `start` blocks for 5 to 10 s, longer when Kafka is downloaded first. `ready` is a
    real inference (see `stream.devkit.triton.Ready`), and `triton_variables` are added to the server's environment. On the way out, whatever the reason (success, an exception, Ctrl-C,
    SIGTERM), everything is stopped in the reverse order of its start, what was given to `enter` first, and the folder is
    removed unless `keep`. Ctrl-C while that happens waits until it is done. If this process is killed outright, the
    guardians of the children end them and remove the folder.

    `folder` must be absent or empty, because it is removed in the end; None makes one in the temporary folder.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        repository: Path,
        environment: Path,
        models: Sequence[str],
        ready: Ready,
        keep: bool = False,
        announce: Announce = silent,
        cache: Path | None = None,
        triton_variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DevkitError(
                f"{folder} is not an empty folder, and the development stack removes its folder in the end"
            )
        self._wanted_folder = folder
        self._repository = repository
        self._environment = environment
        self._models = models
        self._ready = ready
        self._keep = keep
        self._announce = announce
        self._cache = cache
        self._triton_variables = triton_variables
        self._exits = ExitStack()
        self._signals = ExitStack()
        self._folder: Path | None = None
        self._kafka: KafkaBroker | MockKafka | None = None
        self._triton: TritonServer | None = None
        self._store: LocalStore | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        return _started(self._folder)

    @property
    def kafka(self) -> KafkaBroker | MockKafka:
        if self._kafka is None:
            raise DevkitError(NOT_STARTED)
        return self._kafka

    @property
    def triton(self) -> TritonServer:
        return _started(self._triton)

    @property
    def store(self) -> LocalStore:
        return _started(self._store)

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enters a context manager that ends before the stack does: a worker, a consumer."""
        return self._exits.enter_context(manager)

    def callback(self, function: Callable[[], object]) -> None:
        """Calls `function` before the stack ends."""
        self._exits.callback(function)

    def start(self) -> None:
        """Returns when everything answers. When it raises, or is interrupted, nothing is left."""
        try:
            self._signals.enter_context(terminate_as_exit())
            folder = self._make_folder()
            orphans = () if self._keep else (folder,)
            self._store = LocalStore(folder / "store")
            self._kafka = open_kafka(folder / "kafka", self._announce, cache=self._cache, discard_if_orphaned=orphans)
            self._triton = TritonServer(
                self._repository,
                self._environment,
                folder / "triton",
                models=self._models,
                ready=self._ready,
                variables=self._triton_variables,
                discard_if_orphaned=orphans,
            )
            start_together([("Kafka", self._kafka), ("Triton", self._triton)], self._exits, self._announce)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops everything and removes the folder. Does nothing the second time."""
        try:
            with held():
                self._exits.close()
        finally:
            self._signals.close()

    def _make_folder(self) -> Path:
        if self._wanted_folder is None:
            folder = Path(tempfile.mkdtemp(prefix="proguard-stream-"))
        else:
            folder = self._wanted_folder.absolute()
            folder.mkdir(parents=True, exist_ok=True)
        if not self._keep:
            self._exits.callback(shutil.rmtree, folder, ignore_errors=True)
        self._folder = folder
        return folder


def start_together(parts: Sequence[tuple[str, Part]], exits: ExitStack, announce: Announce = silent) -> None:
    """Starts every part in a thread of its own and returns when all of them have started.

    Each part's `stop` is put on `exits` first. When one fails, or this thread is interrupted, the others are told to give up and
    are waited for; the first failure is raised. A part that has started is stopped by `exits`, not here.
    """
    for _, part in parts:
        exits.callback(part.stop)
    cancelled = threading.Event()
    ended: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def start(name: str, part: Part) -> None:
        started = False
        try:
            part.start(cancelled)
            started = True
            announce(f"{name}: ready")
        finally:
            ended.put(started)

    with ThreadPoolExecutor(len(parts), thread_name_prefix="devkit-start") as pool:
        futures: list[Future[None]] = []
        try:
            futures += [pool.submit(start, name, part) for name, part in parts]
            _all_started(ended, len(parts))
        finally:
            cancelled.set()
            with held():
                wait(futures)
    failures = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(failures, key=lambda failure: isinstance(failure, StartCancelledError)):
        raise error


def _all_started(ended: queue.SimpleQueue[bool], parts: int) -> None:
    """Returns when every part has started or one has failed.

    It looks up from its waiting now and then: the kernel may hand a signal to another thread, which does not wake this one, and
    only this one can handle it.
    """
    while parts:
        try:
            if not ended.get(timeout=LOOK_SECONDS):
                return
            parts -= 1
        except queue.Empty:
            continue


def _started(part: T | None) -> T:
    if part is None:
        raise DevkitError(NOT_STARTED)
    return part
