"""An HTTP server that says exactly what a test has it say, byte by byte: what Triton never does, and what proxies do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Talk = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
"""Answers one request; told which request of all it is, from 0."""


@dataclass
class Heard:
    """What reached the server."""

    port: int = 0
    connections: int = 0
    closed: int = 0
    """Connections that the client has closed."""
    requests: list[bytes] = field(default_factory=list)


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")),
        0,
    )
    return head + await reader.readexactly(length)


@asynccontextmanager
async def saying(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Heard]:
    heard = Heard()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.connections += 1
        try:
            while not writer.is_closing():
                heard.requests.append(await _request(reader))
                await talk(writer, len(heard.requests) - 1)
        except (asyncio.IncompleteReadError, ConnectionError):
            heard.closed += 1
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    heard.port = server.sockets[0].getsockname()[1]
    try:
        yield heard
    finally:
        server.close()


def response(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; `headers` with underscores for dashes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def always(answer: bytes) -> Talk:
    async def talk(writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(answer)

    return talk
