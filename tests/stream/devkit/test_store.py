"""Buckets for tests: a folder and an S3 server."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from stream.devkit.s3 import S3Server
from stream.devkit.store import LocalStore
from stream.errors import DevkitError


def test_an_object_lies_under_the_root_and_its_uri_does_not_tell_where(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "bucket")
    uri = store.put("cats/cat 1.png", b"\x89PNG")
    assert uri == "media://demo/cats/cat 1.png"
    assert (store.root / "cats" / "cat 1.png").read_bytes() == b"\x89PNG"
    assert str(tmp_path) not in uri


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../outside", "a/../../outside", "."])
def test_no_object_lies_outside_the_root(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path / "bucket")
    with pytest.raises(DevkitError):
        store.put(name, b"x")
    assert list(tmp_path.rglob("*")) == [store.root]


def test_a_real_s3_client_reads_what_was_put(s3_server: S3Server) -> None:
    s3_server.create_bucket("media-test")
    uri = s3_server.put("media-test", "cats/ä cat.png", b"\x89PNG")
    assert uri == "s3://media-test/cats/ä cat.png"
    store = S3Store(
        "media-test",
        endpoint=s3_server.endpoint,
        access_key_id="any",
        secret_access_key="any",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    assert bytes(obstore.get(store, "cats/ä cat.png").bytes()) == b"\x89PNG"
