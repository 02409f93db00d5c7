"""A TCP link that can be broken on purpose: between a worker and Kafka, a worker and Triton, anything on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

from stream.devkit.process import free_port
from stream.errors import DevkitError

LOOPBACK = "127.0.0.1"
CALL_SECONDS = 5.0
CLOSE_SECONDS = 1.0
_CHUNK = 65_536
_CHUNKS_HELD = 64
"""Chunks that a direction holds back, at most; then its sender is not read from, as with a full socket."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends RST and forgets what was not sent."""


class TcpProxy:
    """Passes bytes between clients of `port` and `target_port`, both on the loopback address, until told otherwise.

    Faults, each until `heal`:

    - `cut`: every connection is reset, and so is each new one;
    - `silence`: connections stay open and nothing passes, in one direction or both. What was sent waits, and passes after `heal`;
      after `reset` it is gone;
    - `delay`: every chunk arrives that much later, in each direction; the order stays.

    `reset` breaks the connections that exist and is over at once. A target that is not there resets the client's connection.
    The methods may be called from any thread. They return when the fault is in force, and raise `DevkitError` when the proxy was not
    started or is over.
    """

    def __init__(self, target_port: int, *, port: int | None = None) -> None:
        self.target_port = target_port
        self.port = port or free_port()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._links: set[_Link] = set()
        self._refusing = False
        self._delay_s = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Returns once it listens. Raises DevkitError when the port is taken."""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        try:
            started.result(CALL_SECONDS)
        except OSError as error:
            raise DevkitError(f"the proxy cannot listen on {self.address}: {error}") from error

    def stop(self) -> None:
        """Resets every connection and gives the port back. Does nothing when it is not running."""
        if self._thread is None:
            return
        with contextlib.suppress(DevkitError):
            self._call(self._ending.set)
        self._thread.join(CALL_SECONDS)
        self._thread = None

    def cut(self) -> None:
        self._call(self._cut)

    def reset(self) -> None:
        self._call(self._reset)

    def silence(self, *, requests: bool = True, answers: bool = True) -> None:
        """Hold back what the clients send (`requests`), what the target sends (`answers`), or both."""
        self._call(lambda: self._silence(requests, answers))

    def delay(self, seconds: float) -> None:
        self._call(lambda: self._set_delay(seconds))

    def heal(self) -> None:
        """Everything passes again, what was held back first."""
        self._call(self._heal)

    def _call(self, work: Callable[[], object]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            work()
            done.set_result(None)

        if self._loop is None:
            raise DevkitError(f"the proxy on {self.address} is not running")
        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise DevkitError(f"the proxy on {self.address} is over") from error
        done.result(CALL_SECONDS)

    # From here on, everything runs in the proxy's own thread and loop.

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._main(started))
        except OSError as error:
            started.set_exception(error)

    async def _main(self, started: Future[None]) -> None:
        self._ending = asyncio.Event()
        self._requests, self._answers = asyncio.Event(), asyncio.Event()
        self._heal()
        server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self._loop = asyncio.get_running_loop()
        started.set_result(None)
        try:
            await self._ending.wait()
        finally:
            self._loop = None
            server.close()
            self._reset()
            await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer)
        self._links.add(link)
        try:
            if not self._refusing:
                await self._connect(link, reader, writer)
        except (OSError, asyncio.CancelledError):
            # The target is not there, an end went away, or a fault ended it: for the client all the same.
            pass
        finally:
            link.abort()
            self._links.discard(link)

    async def _connect(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(LOOPBACK, self.target_port)
        link.writers.append(requests)
        pumps = [
            asyncio.create_task(self._pump(reader, requests, self._requests)),
            asyncio.create_task(self._pump(answers, writer, self._answers)),
        ]
        try:
            # One end that is gone is the end of both: Kafka and gRPC never go on with half a connection.
            ended, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in ended:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        await link.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        """Returns when `reader` is at its end and all of it was passed on. Raises OSError when an end has gone away."""
        held: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(_CHUNKS_HELD)
        clock = asyncio.get_running_loop().time

        async def receive() -> None:
            data: bytes | OSError = b"-"
            while data and isinstance(data, bytes):
                try:
                    data = await reader.read(_CHUNK)
                except OSError as error:
                    data = error
                await held.put((clock() + self._delay_s, data))

        receiving = asyncio.create_task(receive())
        try:
            while True:
                due, data = await held.get()
                await asyncio.sleep(max(0.0, due - clock()))
                await gate.wait()
                if isinstance(data, OSError):
                    raise data
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    def _cut(self) -> None:
        self._refusing = True
        self._reset()

    def _reset(self) -> None:
        for link in self._links:
            link.task.cancel()

    def _silence(self, requests: bool, answers: bool) -> None:
        for gate, closed in ((self._requests, requests), (self._answers, answers)):
            if closed:
                gate.clear()

    def _set_delay(self, seconds: float) -> None:
        self._delay_s = seconds

    def _heal(self) -> None:
        self._refusing = False
        self._delay_s = 0.0
        self._requests.set()
        self._answers.set()


class _Link:
    """One client's connection: the task that serves it, and both of its sockets."""

    def __init__(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        self.task = task
        self.writers = [writer]

    async def close(self) -> None:
        """Pass on what is still buffered, for a second at most, and close both ends politely."""
        for writer in self.writers:
            writer.close()
        for writer in self.writers:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), CLOSE_SECONDS)

    def abort(self) -> None:
        for writer in self.writers:
            connection: socket.socket | None = writer.get_extra_info("socket")
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
