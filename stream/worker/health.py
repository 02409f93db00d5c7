"""The worker's HTTP endpoints: /live, /ready, /metrics. On a thread of their own, so that a busy loop cannot hide them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from stream.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STOP_POLL_S = 0.1
"""How long `stop` may wait for the thread to notice."""

Checks = Mapping[str, bool]
"""What was looked at, and whether it is well."""


class HealthServer:
    """Serves the two checks and the metrics until `stop`.

    A check that is all True answers 200, else 503; the body is its JSON, so that `curl` says what is missing.
    Raises `ConfigurationError` when the address cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        live: Callable[[], Checks],
        ready: Callable[[], Checks],
        registry: CollectorRegistry,
    ) -> None:
        metrics = make_wsgi_app(registry)

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            if path in ("/live", "/ready"):
                checks = live() if path == "/live" else ready()
                status = "200 OK" if all(checks.values()) else "503 Service Unavailable"
                body = json.dumps(checks).encode()
            else:
                status, body = "404 Not Found", b'{"paths": ["/live", "/ready", "/metrics"]}'
            start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            return [body]

        try:
            server_class = _Server6 if ":" in host else _Server
            self._server = make_server(host, port, app, server_class=server_class, handler_class=_QuietHandler)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port} for health checks: {error.strerror}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_POLL_S,), name="health", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop serving. Waits for no request: those under way end with the process."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a client that is slow, or never says anything, must not make the next probe fail."""

    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        """A client that hangs up or says nothing is no news: no traceback among the structured logs."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    """Probes come every few seconds: no access log. A client that connects and says nothing is cut off."""

    timeout = 5

    def log_message(self, *_args: object) -> None:
        return
