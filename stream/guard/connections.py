"""HTTP/1.1 connections to one server, kept open and used for one request at a time. httptools reads what comes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import httptools

_MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of one answer, its headers included. A guard's is some kilobytes; without a limit a broken server could fill the memory."""

_MAX_AGE_S = 300.0
"""Seconds after which a connection is not used again, half as many at least: servers that were added get their share."""

_STALE_S = 1.0
"""Seconds without use after which the other end may have closed a connection while the request was on its way."""


class ConnectionLostError(ConnectionError):
    """The connection ended before its answer was complete, or what came was no HTTP. `untouched`: before anything of an answer had come."""

    def __init__(self, detail: str, *, untouched: bool = False) -> None:
        super().__init__(detail)
        self.untouched = untouched


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. Names of headers are in lower case; of several of one name it has the last."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection, one request at a time. Whatever comes that was not asked for ends it: the next answer would be somebody else's."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._answer: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._received = 0
        self._too_old = loop.time() + _MAX_AGE_S * random.uniform(0.5, 1.0)
        self.idle_since = loop.time()
        self.reusable = True
        """Whether another request may be made on it."""

    @property
    def stale(self) -> bool:
        """Whether it was out of use for so long that the other end may have closed it."""
        return self._loop.time() - self.idle_since > _STALE_S

    def ask(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request whose bytes are complete. The answer fails with `ConnectionLostError`; whoever stops waiting for it must `abort`."""
        assert self._transport is not None
        assert self._answer is None
        self._answer = self._loop.create_future()
        self._received = 0
        self._transport.write(request)
        return self._answer

    def abort(self) -> None:
        """Close at once. Does nothing on a closed one."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods only

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection was closed" if exc is None else f"the connection was lost: {type(exc).__name__}")

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()
            return
        self._received += len(data)
        if self._received > _MAX_ANSWER_BYTES:
            self._end(f"the answer is longer than {_MAX_ANSWER_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"the answer is no HTTP: {type(error).__name__}")

    def on_message_begin(self) -> None:
        if self._answer is None:
            # A second answer in one breath with the first.
            self.abort()
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        status = self._parser.get_status_code()
        if answer is None:
            return
        if status < 200:
            # "Continue" and its like stand before the answer, and nobody asked for one.
            self._answer = answer
            self._end(f"the server answered with an unexpected {status}")
            return
        self.idle_since = self._loop.time()
        self.reusable = self.reusable and self._parser.should_keep_alive() and self.idle_since < self._too_old
        if not answer.done():
            answer.set_result(Response(status, self._headers, b"".join(self._body)))

    def _end(self, why: str) -> None:
        self.abort()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(ConnectionLostError(why, untouched=self._received == 0))


class Connections:
    """As many connections to one server as there are requests at a time. Those out of use wait, the one used last on top.

    `connect_s` bounds the making of one. A dead other end is found out by TCP's own probes, `silence_s` after its last sign and within
    `probe_s` more.
    """

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, connect_s: float, silence_s: float, probe_s: float
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_s = connect_s
        self._options = _keepalive_options(silence_s, probe_s)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    async def ask(self, request: bytes) -> Response:
        """The answer to a request whose bytes are complete. Raises `OSError` (`ConnectionLostError` among them) without one.

        Cancelling it closes its connection. A request on a connection that had been out of use, and that ended without a sign of an
        answer, is sent once more on a new one (RFC 9110, 9.2.2; asking a guard twice changes nothing). One that was in use is no such
        case: a request that kills its server is not to be sent to the next.
        """
        connection = self._take() or await self._open()
        stale = connection.stale
        try:
            return await self._ask(connection, request)
        except ConnectionLostError as error:
            if not stale or not error.untouched:
                raise
        return await self._ask(await self._open(), request)

    def close(self) -> None:
        """Close all, those in use too."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()

    async def _ask(self, connection: Connection, request: bytes) -> Response:
        self._busy.add(connection)
        try:
            response = await connection.ask(request)
        except BaseException:
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _open(self) -> Connection:
        if self._closed:
            raise ConnectionError("the client is closed")
        try:
            async with asyncio.timeout(self._connect_s):
                transport, connection = await asyncio.get_running_loop().create_connection(
                    Connection, self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise ConnectionError(f"no connection within {self._connect_s:g} s") from None
        except UnicodeError:
            raise ConnectionError(f"{self._host!r} is no name of a host") from None
        own = transport.get_extra_info("socket")
        for option, value in self._options.items():
            with contextlib.suppress(OSError):
                own.setsockopt(socket.IPPROTO_TCP, option, value)
        with contextlib.suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection


def _keepalive_options(silence_s: float, probe_s: float) -> dict[int, int]:
    """TCP options by number, as far as this system has them (Linux has all)."""
    probes = 3
    wanted = {
        "TCP_KEEPIDLE": max(1, round(silence_s)),
        "TCP_KEEPINTVL": max(1, round(probe_s / probes)),
        "TCP_KEEPCNT": probes,
        # For a request that is on its way, where no probes are sent.
        "TCP_USER_TIMEOUT": max(1, round((silence_s + probe_s) * 1000)),
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
