"""Only what is spelt exactly as in the settings is an image URI."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.deadletters import Reason
from stream.errors import EventError
from stream.evidence.uris import MAX_URI_LENGTH, Location, locate
from tests.stream.evidence.hostile_uris import ALLOWED, HOSTILE_URIS

ACCEPTED = {
    "s3://photos/cat.png": Location("s3://photos", "cat.png"),
    "gs://photos/2026/09/cat.jpg": Location("gs://photos", "2026/09/cat.jpg"),
    "az://photos/cat": Location("az://photos", "cat"),
    "media://photos/.hidden/..cat": Location("media://photos", ".hidden/..cat"),
    "s3://photos/with space, comma=+&;:@!$'()[]~.png": Location("s3://photos", "with space, comma=+&;:@!$'()[]~.png"),
    "s3://photos/猫/кот/ねこ/🐈.webp": Location("s3://photos", "猫/кот/ねこ/🐈.webp"),
    "s3://photos/s3://secrets/cat": None,
    "s3://photos/" + "a" * (MAX_URI_LENGTH - 12): Location("s3://photos", "a" * (MAX_URI_LENGTH - 12)),
}


@pytest.mark.parametrize("uri", HOSTILE_URIS.values(), ids=HOSTILE_URIS.keys())
def test_a_hostile_uri_is_forbidden_and_not_repeated(uri: str) -> None:
    with pytest.raises(EventError) as caught:
        locate(uri, ALLOWED)
    assert caught.value.reason is Reason.IMAGE_FORBIDDEN
    _, _, key = uri.partition("photos/")
    assert len(key) < 4 or key not in caught.value.detail


def test_there_are_at_least_a_hundred_hostile_uris() -> None:
    assert len(set(HOSTILE_URIS.values())) >= 100


@pytest.mark.parametrize(("uri", "location"), ACCEPTED.items(), ids=range(len(ACCEPTED)))
def test_an_allowed_uri_keeps_its_key_untouched(uri: str, location: Location | None) -> None:
    if location is None:
        with pytest.raises(EventError):
            locate(uri, ALLOWED)
    else:
        assert locate(uri, ALLOWED) == location


def test_an_empty_allow_list_forbids_everything() -> None:
    with pytest.raises(EventError):
        locate("s3://photos/cat.png", frozenset())


TRICKY = st.sampled_from(
    ["s3", "media", "://", "/", "..", ".", "photos", "%2e", "%2f", "\\", "@", ":", "?", "#", "\x00", "cat"]
)


@given(st.one_of(st.text(max_size=60), st.lists(TRICKY, max_size=12).map("".join)))
def test_whatever_is_accepted_is_an_allowed_prefix_and_a_plain_relative_key(uri: str) -> None:
    try:
        location = locate(uri, ALLOWED)
    except EventError:
        return
    assert uri == f"{location.prefix}/{location.key}"
    assert location.prefix in ALLOWED
    assert all(segment not in ("", ".", "..") for segment in location.key.split("/"))
    assert not set(location.key) & set("%\\?#\x00")
