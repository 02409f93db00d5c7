from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from stream.errors import ConfigurationError
from stream.worker.health import HealthServer


class Checked:
    """A running server whose checks a test sets."""

    def __init__(self) -> None:
        self.live = {"polls": True}
        self.ready = {"guard": True, "partitions": True}
        self.registry = CollectorRegistry()
        self.server = HealthServer(
            "127.0.0.1", 0, live=lambda: self.live, ready=lambda: self.ready, registry=self.registry
        )

    def get(self, path: str) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=3)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()


@pytest.fixture
def checked() -> Iterator[Checked]:
    checked = Checked()
    checked.server.start()
    yield checked
    checked.server.stop()


@pytest.mark.parametrize("path", ["/live", "/ready"])
def test_a_check_that_is_well_answers_200_with_what_was_looked_at(checked: Checked, path: str) -> None:
    status, kind, body = checked.get(path)
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == (checked.live if path == "/live" else checked.ready)


def test_a_check_that_fails_answers_503_and_says_which(checked: Checked) -> None:
    checked.ready = {"guard": False, "partitions": True}
    status, _, body = checked.get("/ready")
    assert (status, json.loads(body)) == (503, {"guard": False, "partitions": True})
    assert checked.get("/live")[0] == 200
    checked.live = {"polls": False}
    assert checked.get("/live")[0] == 503


@pytest.mark.parametrize("path", ["/", "/live/", "/ready/../live", "/metricsx", "/%2e%2e/etc/passwd"])
def test_another_path_is_not_found_and_told_which_there_are(checked: Checked, path: str) -> None:
    status, _, body = checked.get(path)
    assert status == 404
    assert json.loads(body)["paths"] == ["/live", "/ready", "/metrics"]


def test_metrics_are_prometheus_text(checked: Checked) -> None:
    Counter("proguard_things_total", "Things.", registry=checked.registry).inc(3)
    status, kind, body = checked.get("/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert b"proguard_things_total 3.0" in body


def test_a_check_that_raises_is_an_error_of_that_request_alone(
    checked: Checked, capfd: pytest.CaptureFixture[str]
) -> None:
    good, checked.live = checked.live, None  # type: ignore[assignment]
    assert checked.get("/live")[0] == 500
    checked.live = good
    assert checked.get("/live")[0] == 200
    capfd.readouterr()


def test_a_port_that_is_taken_is_a_configuration_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}"):
            HealthServer("127.0.0.1", port, live=dict, ready=dict, registry=CollectorRegistry())


def test_an_address_of_another_machine_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        HealthServer("192.0.2.1", 0, live=dict, ready=dict, registry=CollectorRegistry())


def test_an_ipv6_address_can_be_listened_on() -> None:
    server = HealthServer("::1", 0, live=lambda: {"a": True}, ready=dict, registry=CollectorRegistry())
    server.start()
    try:
        connection = http.client.HTTPConnection("::1", server.port, timeout=3)
        connection.request("GET", "/live")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.stop()


def test_a_client_that_says_nothing_keeps_no_probe_waiting_and_no_stop(
    checked: Checked, capfd: pytest.CaptureFixture[str]
) -> None:
    address = ("127.0.0.1", checked.server.port)
    silent = [socket.create_connection(address) for _ in range(8)]
    silent[0].sendall(b"GET /live HT")
    began = time.monotonic()
    assert checked.get("/live")[0] == 200
    assert checked.get("/metrics")[0] == 200
    checked.server.stop()
    assert time.monotonic() - began < 2
    for connection in silent:
        connection.close()
    assert capfd.readouterr().err == ""


def test_clients_that_hang_up_or_talk_nonsense_leave_no_traceback(
    checked: Checked, capfd: pytest.CaptureFixture[str]
) -> None:
    for said in (b"", b"\x00\xff\r\n\r\n", b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", checked.server.port)) as connection:
            connection.sendall(said)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    assert checked.get("/live")[0] == 200
    assert "Traceback" not in capfd.readouterr().err
