"""An S3 server as a child process: moto's, for tests of what reads objects over the network."""

from __future__ import annotations

import sys
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Self

from stream.devkit.process import ChildProcess, free_port

START_SECONDS = 60.0
STOP_SECONDS = 3.0
REQUEST_SECONDS = 10.0


class S3Server:
    """S3 in memory at `endpoint`, path style, any credentials. Everything in it is gone after `stop`.

    The log is `folder/s3.log`. `start` blocks until the server has listed its buckets (about 2 s).
    """

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._child = ChildProcess(command, name="the S3 server", log=folder.absolute() / "s3.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, cancelled: threading.Event | None = None) -> None:
        """Raises DevkitError (`ChildDiedError` with the end of the log) when it does not answer; then nothing runs."""
        try:
            self._child.start()
            self._child.wait_until(lambda: b"Buckets" in self._send("GET", "/"), START_SECONDS, cancelled=cancelled)
        except BaseException:
            self._child.kill()
            raise

    def stop(self) -> None:
        self._child.stop(STOP_SECONDS)

    def kill(self) -> None:
        self._child.kill()

    def pause(self) -> None:
        """The server keeps its connections and answers nobody until `resume`."""
        self._child.pause()

    def resume(self) -> None:
        self._child.resume()

    def create_bucket(self, bucket: str) -> None:
        self._send("PUT", f"/{bucket}")

    def put(self, bucket: str, name: str, data: bytes) -> str:
        """Writes an object into an existing bucket and returns its `s3://` URI."""
        self._send("PUT", f"/{bucket}/{urllib.parse.quote(name)}", data)
        return f"s3://{bucket}/{name}"

    def _send(self, method: str, path: str, data: bytes | None = None) -> bytes:
        # Without a type, urllib says that the bytes are a form, and moto tries to read them as one.
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(self.endpoint + path, data, headers, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body
