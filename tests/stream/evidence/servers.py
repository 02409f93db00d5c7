"""HTTP servers that behave as no honest object store does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[str, asyncio.StreamWriter], Coroutine[Any, Any, None]]

_HEAD = 'HTTP/1.1 200 OK\r\nETag: "a"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'


@dataclass
class StubServer:
    """A server on loopback.

    `asked` are the paths that were requested; `open` counts connections that have not ended; `opened` is set by the
    first request, `closed` by the first connection that ends.
    """

    port: int = 0
    asked: list[str] = field(default_factory=list)
    open: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[StubServer]:
    """A server that gives each request to `answer`; at the end every connection is closed."""
    stub = StubServer()
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stub.open += 1
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                path = request.split(b" ", 2)[1].decode()
                stub.asked.append(path)
                stub.opened.set()
                answering = asyncio.create_task(answer(path, writer))
                tasks.add(answering)
                gone = asyncio.create_task(reader.read(1))
                await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
                answering.cancel()
                gone.cancel()
                writer.close()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            stub.open -= 1
            stub.closed.set()
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def body(data: bytes) -> Answer:
    """The object `data`, as a good store sends it."""

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{_HEAD}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        await writer.drain()

    return answer


def status(code: int, *headers: str) -> Answer:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        lines = "".join(f"{header}\r\n" for header in headers)
        writer.write(f"HTTP/1.1 {code} Status\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()

    return answer


async def silence(_: str, __: asyncio.StreamWriter) -> None:
    """Takes the request and never answers."""
    await asyncio.Event().wait()


def stalling(declared: int, sent: bytes) -> Answer:
    """Sends the beginning of an object, and then nothing."""

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{_HEAD}Content-Length: {declared}\r\n\r\n".encode() + sent)
        await writer.drain()
        await asyncio.Event().wait()

    return answer


def ending_early(declared: int, sent: bytes) -> Answer:
    """Sends less than it declared, and closes."""

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{_HEAD}Content-Length: {declared}\r\nConnection: close\r\n\r\n".encode() + sent)
        await writer.drain()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first request gets the first answer, and so on; the last one repeats."""
    left = list(answers)

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(path, writer)

    return answer
