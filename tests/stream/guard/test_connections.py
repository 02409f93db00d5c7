"""What becomes of a request when the other end misbehaves. Every failure closes the connection: none may give its answer to the next request."""

from __future__ import annotations

import asyncio
import socket

import pytest

from stream.devkit.process import free_port
from stream.guard import connections
from stream.guard.connections import ConnectionLostError, Connections
from tests.stream.guard.http_server import Heard, Talk, always, response, saying

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def to(heard: Heard) -> Connections:
    return Connections("127.0.0.1", heard.port, tls=None, connect_s=5, silence_s=20, probe_s=10)


async def ask(pool: Connections) -> bytes:
    async with asyncio.timeout(10):
        return (await pool.ask(GET)).body


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_answer_has_its_status_its_headers_in_lower_case_and_its_body() -> None:
    async with saying(always(response(b"body", "418 Teapot", X_Kind="Tea"))) as heard:
        pool = to(heard)
        found = await pool.ask(GET)
        assert (found.status, found.headers[b"x-kind"], found.body) == (418, b"Tea", b"body")
        pool.close()


async def test_one_connection_serves_one_request_after_the_other_and_as_many_as_are_asked_at_a_time() -> None:
    arrived = asyncio.Event()
    waiting = 0

    async def talk(writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal waiting
        if number >= 5:
            waiting += 1
            if waiting == 4:
                arrived.set()
            await arrived.wait()
        writer.write(response(str(number).encode()))

    async with saying(talk) as heard:
        pool = to(heard)
        assert [await ask(pool) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert heard.connections == 1
        assert sorted(await asyncio.gather(*(ask(pool) for _ in range(4)))) == [b"5", b"6", b"7", b"8"]
        assert heard.connections == 4
        pool.close()


async def test_an_answer_may_come_a_byte_at_a_time() -> None:
    async def talk(writer: asyncio.StreamWriter, number: int) -> None:
        for byte in response(f"answer {number}".encode()):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with saying(talk) as heard:
        pool = to(heard)
        assert [await ask(pool), await ask(pool)] == [b"answer 0", b"answer 1"]
        pool.close()


async def test_a_chunked_answer_is_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with saying(always(chunked)) as heard:
        pool = to(heard)
        assert [await ask(pool), await ask(pool)] == [b"abcde", b"abcde"]
        pool.close()


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=["no HTTP", "no length", "two lengths", "continue", "upgrade"],
)
async def test_what_is_no_answer_is_a_lost_connection_and_the_connection_is_closed(said: bytes) -> None:
    async with saying(always(said)) as heard:
        pool = to(heard)
        with pytest.raises(ConnectionLostError):
            await ask(pool)
        await until(lambda: heard.closed == 1)
        pool.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
async def test_an_answer_that_breaks_off_is_a_lost_connection(said: bytes) -> None:
    async def talk(writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async with saying(talk) as heard:
        pool = to(heard)
        with pytest.raises(ConnectionLostError) as caught:
            await ask(pool)
        assert caught.value.untouched == (said == b"")
        assert len(heard.requests) == 1
        pool.close()


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_ANSWER_BYTES", 10_000)
    async with saying(always(response(bytes(10_000)))) as heard:
        pool = to(heard)
        with pytest.raises(ConnectionLostError, match="longer than"):
            await ask(pool)
        await until(lambda: heard.closed == 1)
        pool.close()
    async with saying(always(response(bytes(9_000)))) as heard:
        pool = to(heard)
        assert [len(await ask(pool)) for _ in range(3)] == [9_000] * 3
        pool.close()


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_an_answer_that_nobody_waits_for_any_more_is_never_given_to_the_next_request(how: str) -> None:
    go_on = asyncio.Event()

    async def talk(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 0:
            await go_on.wait()
        writer.write(response(str(number).encode()))

    async with saying(talk) as heard:
        pool = to(heard)
        first = asyncio.create_task(ask(pool) if how == "cancelled" else asyncio.wait_for(ask(pool), 0.05))
        await until(lambda: heard.requests)
        if how == "cancelled":
            first.cancel()
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            await first
        second = asyncio.create_task(ask(pool))
        await until(lambda: len(heard.requests) == 2)
        go_on.set()
        assert await second == b"1"
        assert heard.connections == 2
        pool.close()


@pytest.mark.parametrize("with_the_first", [True, False])
async def test_an_answer_that_nobody_asked_for_closes_its_connection(with_the_first: bool) -> None:
    async def talk(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(response(str(number).encode()))
        if number == 0:
            if not with_the_first:
                await writer.drain()
                await asyncio.sleep(0.05)
            writer.write(response(b"unasked"))

    async with saying(talk) as heard:
        pool = to(heard)
        assert await ask(pool) == b"0"
        await until(lambda: heard.closed == 1)
        assert [await ask(pool), await ask(pool)] == [b"1", b"2"]
        assert heard.connections == 2
        pool.close()


async def test_a_server_that_says_close_gets_no_second_request_on_the_connection() -> None:
    async with saying(always(response(b"bye", Connection="close"))) as heard:
        pool = to(heard)
        assert [await ask(pool), await ask(pool)] == [b"bye", b"bye"]
        assert heard.connections == 2
        pool.close()


def hang_up_on(number: int) -> Talk:
    async def talk(writer: asyncio.StreamWriter, this: int) -> None:
        if this == number:
            writer.close()
        else:
            writer.write(response(str(this).encode()))

    return talk


async def test_a_request_on_a_connection_that_was_closed_while_out_of_use_is_sent_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_STALE_S", -1.0)
    async with saying(hang_up_on(1)) as heard:
        pool = to(heard)
        assert await ask(pool) == b"0"
        assert await ask(pool) == b"2"
        pool.close()


async def test_a_request_whose_answer_had_begun_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_STALE_S", -1.0)

    async def talk(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(response(b"whole") if number == 0 else response(b"half")[:-1])
        await writer.drain()
        if number:
            writer.close()

    async with saying(talk) as heard:
        pool = to(heard)
        assert await ask(pool) == b"whole"
        with pytest.raises(ConnectionLostError):
            await ask(pool)
        assert len(heard.requests) == 2
        pool.close()


@pytest.mark.parametrize("hung_up_on", [0, 1], ids=["new", "in use"])
async def test_a_request_on_any_other_connection_is_not_sent_twice_because_it_may_have_killed_the_server(
    hung_up_on: int,
) -> None:
    async with saying(hang_up_on(hung_up_on)) as heard:
        pool = to(heard)
        for number in range(hung_up_on):
            assert await ask(pool) == str(number).encode()
        with pytest.raises(ConnectionLostError):
            await ask(pool)
        assert len(heard.requests) == hung_up_on + 1
        pool.close()


async def test_an_old_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_AGE_S", 0.0)
    async with saying(always(response(b""))) as heard:
        pool = to(heard)
        for _ in range(3):
            await ask(pool)
        assert heard.connections == 3
        await until(lambda: heard.closed == 3)
        pool.close()


async def test_closing_ends_those_in_use_and_refuses_new_ones() -> None:
    async def never(_writer: asyncio.StreamWriter, _number: int) -> None:
        await asyncio.Event().wait()

    async with saying(never) as heard:
        pool = to(heard)
        call = asyncio.create_task(ask(pool))
        await until(lambda: heard.requests)
        pool.close()
        with pytest.raises(ConnectionLostError):
            await call
        with pytest.raises(ConnectionError, match="closed"):
            await ask(pool)


async def test_nobody_there_is_a_connection_error() -> None:
    nobody = Connections("127.0.0.1", free_port(), tls=None, connect_s=5, silence_s=20, probe_s=10)
    with pytest.raises(ConnectionError):
        await ask(nobody)
    with pytest.raises(socket.gaierror):
        await ask(Connections("no such host", 1, tls=None, connect_s=5, silence_s=20, probe_s=10))
    with pytest.raises(ConnectionError, match="no name"):
        await ask(Connections("a" * 70, 1, tls=None, connect_s=5, silence_s=20, probe_s=10))
