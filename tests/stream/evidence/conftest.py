"""What the tests of this folder keep in the shared S3 server."""

from __future__ import annotations

import pytest

from stream.devkit.s3 import S3Server
from tests.stream.evidence.files import encode, scene

BUCKET = "evidence"


@pytest.fixture(scope="session")
def s3(s3_server: S3Server) -> S3Server:
    """The server with one bucket more, `evidence`, and `cat.png` in it."""
    s3_server.create_bucket(BUCKET)
    s3_server.put(BUCKET, "cat.png", encode(scene(), "PNG"))
    return s3_server
