"""The breakable link: what passes, what does not, and what a client sees of it."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stream.devkit.process import free_port
from stream.devkit.proxy import TcpProxy
from stream.errors import DevkitError

PATIENCE_S = 10.0
BRIEFLY_S = 0.2


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65_536):
            self.request.sendall(data)


@pytest.fixture
def echo() -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was reset is what these tests do."""

    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[TcpProxy]:
    with TcpProxy(echo) as proxy:
        yield proxy


@contextmanager
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S) as connection:
        yield connection


def exchange(connection: socket.socket, data: bytes = b"ping") -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def receive(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        chunk = connection.recv(65_536)
        assert chunk, "closed in the middle"
        found += chunk
    return found


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(BRIEFLY_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE_S)
    return False


def test_bytes_pass_unchanged_both_ways(proxy: TcpProxy) -> None:
    data = bytes(range(256)) * 20_000
    with client(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert receive(connection, len(data)) == data
        sender.join()


def test_what_was_sent_before_the_end_arrives_before_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(PATIENCE_S)
        with TcpProxy(target.getsockname()[1]) as proxy, client(proxy) as connection:
            at_target, _ = target.accept()
            with at_target:
                at_target.settimeout(PATIENCE_S)
                connection.sendall(b"last words")
                connection.shutdown(socket.SHUT_WR)
                assert receive(at_target, 10) == b"last words"
                assert at_target.recv(1) == b""


def test_a_cut_resets_what_is_there_and_what_comes_until_it_is_healed(proxy: TcpProxy) -> None:
    with client(proxy) as connection:
        assert exchange(connection) == b"ping"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with client(proxy) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    proxy.heal()
    with client(proxy) as connection:
        assert exchange(connection) == b"ping"


def test_a_reset_is_over_at_once(proxy: TcpProxy) -> None:
    with client(proxy) as before:
        assert exchange(before) == b"ping"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            before.recv(1)
    with client(proxy) as after:
        assert exchange(after) == b"ping"


def test_what_waits_in_a_silence_passes_when_it_is_healed(proxy: TcpProxy) -> None:
    with client(proxy) as connection:
        proxy.silence()
        connection.sendall(b"ping")
        assert is_silent(connection)
        proxy.heal()
        assert receive(connection, 4) == b"ping"


def test_silenced_answers_are_lost_by_a_reset_though_the_request_arrived(proxy: TcpProxy) -> None:
    with client(proxy) as connection:
        proxy.silence(requests=False)
        connection.sendall(b"ping")
        assert is_silent(connection)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        proxy.heal()


def test_a_delay_holds_in_each_direction_and_keeps_the_order(proxy: TcpProxy) -> None:
    with client(proxy) as connection:
        assert exchange(connection) == b"ping"
        proxy.delay(0.1)
        began = time.monotonic()
        assert exchange(connection, b"slow") == b"slow"
        assert time.monotonic() - began >= 0.2
        connection.sendall(b"first")
        proxy.delay(0.0)
        connection.sendall(b"second")
        assert receive(connection, 11) == b"firstsecond"


def test_a_target_that_is_not_there_resets_the_client() -> None:
    # The reset may come so soon that the connecting itself meets it.
    with TcpProxy(free_port()) as proxy, pytest.raises(ConnectionResetError), client(proxy) as connection:
        connection.recv(1)


def test_a_port_that_is_taken_is_an_error(proxy: TcpProxy) -> None:
    with pytest.raises(DevkitError, match="cannot listen"):
        TcpProxy(1, port=proxy.port).start()


def test_a_stopped_proxy_leaves_no_connection_and_no_port(echo: int) -> None:
    proxy = TcpProxy(echo)
    with pytest.raises(DevkitError, match="not running"):
        proxy.cut()
    proxy.start()
    with client(proxy) as connection:
        assert exchange(connection) == b"ping"
        proxy.stop()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)
    proxy.stop()
