"""Settings that would open a hole, or cannot work, are refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stream.errors import ConfigurationError
from stream.evidence.resolver import open_configured
from stream.evidence.settings import EvidenceSettings, StoreSettings

S3 = {"kind": "s3", "region": "eu-west-1"}


@pytest.mark.parametrize(
    "prefix",
    [
        "http://photos",
        "file://photos",
        "s3://Photos",
        "s3://",
        "s3://photos/",
        "s3://photos/cats",
        "s3://*",
        "s3:photos",
        "s3://ph tos",
        "s3://u@photos",
        "s3://photos:80",
        "s3://photos\n",
        "photos",
    ],
)
def test_a_store_that_is_not_a_scheme_and_a_bucket_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="a store is named"):
        EvidenceSettings.model_validate({"stores": {prefix: S3}})


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ({"kind": "local"}, "needs it"),
        ({"kind": "s3", "root": "/srv"}, "needs it"),
        ({"kind": "s3", "endpoint": "http://store:9000"}, "allow_http"),
        ({"kind": "s3", "endpoint": "ftp://store"}, "pattern"),
        ({"kind": "s3", "endpoint": "https://user:secret@store"}, "pattern"),
        ({"kind": "s3", "endpoint": "https://store?x=1"}, "pattern"),
        ({"kind": "s3", "options": {"secret_access_key": "x"}}, "credential"),
        ({"kind": "s3", "options": {"AWS_SESSION_TOKEN": "x"}}, "credential"),
        ({"kind": "azure", "options": {"account_key": "x"}}, "credential"),
        ({"kind": "s3", "options": {"bucket": "other"}}, "field of its own"),
        ({"kind": "s3", "options": {"virtual_hosted_style_request": "true"}}, "field of its own"),
        ({"kind": "http"}, "kind"),
        ({"kind": "s3", "bucket": "x"}, "bucket"),
    ],
)
def test_a_store_that_is_unsafe_or_incomplete_is_refused(store: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        StoreSettings.model_validate(store)


@pytest.mark.parametrize(
    ("prefix", "kind"), [("s3://a", "gcs"), ("gs://a", "s3"), ("az://a", "s3"), ("media://a", "s3")]
)
def test_a_scheme_and_another_clouds_store_do_not_go_together(prefix: str, kind: str) -> None:
    with pytest.raises(ValidationError, match="cannot be a store of kind"):
        EvidenceSettings.model_validate({"stores": {prefix: {"kind": kind}}})


def test_a_folder_may_stand_in_for_any_bucket(tmp_path: Path) -> None:
    for prefix in ("s3://a", "gs://a", "az://a", "media://a"):
        EvidenceSettings.model_validate({"stores": {prefix: {"kind": "local", "root": str(tmp_path)}}})


def test_nothing_is_allowed_by_default_and_every_field_is_explained() -> None:
    assert EvidenceSettings().stores == {}
    for model in (EvidenceSettings, StoreSettings):
        assert all(found.description for found in model.model_fields.values())


@pytest.mark.parametrize(
    ("prefix", "store"),
    [
        ("media://a", {"kind": "local", "root": "/nonexistent-folder"}),
        ("az://a", {"kind": "azure", "options": {"account_name": "x", "no_such_option": "y"}}),
        ("s3://a", {"kind": "s3", "options": {"no_such_option": "y"}}),
    ],
)
def test_a_store_that_cannot_be_opened_is_named(prefix: str, store: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=prefix):
        open_configured(prefix, StoreSettings.model_validate(store), 1.0)
