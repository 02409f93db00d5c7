"""The shipped sample events are what their README says."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from importlib import resources

import pytest
from PIL import Image, ImageChops, ImageStat
from pydantic import ValidationError

from schemas.envelope import BrokenEnvelopeError, Headers, UnsupportedEnvelopeError, open_envelope
from schemas.events import EVENT_TYPE, ContentEvent, Modality
from schemas.policy import default_policy
from stream.demo.samples.make_images import files

SAMPLES = resources.files("stream.demo.samples")
LINES = SAMPLES.joinpath("events.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")
README = SAMPLES.joinpath("README.md").read_text(encoding="utf-8")
GROUPS = {
    "benign": 94,
    "unsafe": 84,
    "conversation": 36,
    "ood": 26,
    "image": 26,
    "text_image": 26,
    "marker": 15,
    "evidence": 10,
    "structured": 2,
    "oversized": 1,
}
UNREADABLE = 11
NOT_PICTURES = {"disguised.png", "truncated.png", "huge.png"}


def read(line: bytes) -> ContentEvent:
    """A line as the worker reads it, with the header that the sender gives to a structured CloudEvent."""
    headers: Headers = [("content-type", b"application/cloudevents+json")] if b'"specversion"' in line else []
    return ContentEvent.model_validate_json(open_envelope(line, headers, EVENT_TYPE).data)


def is_readable(line: bytes) -> bool:
    try:
        read(line)
    except (ValidationError, UnsupportedEnvelopeError, BrokenEnvelopeError):
        return False
    return True


EVENTS = [read(line) for line in LINES if is_readable(line)]


def media_names(event: ContentEvent) -> list[str]:
    return [ref.uri.removeprefix("media://demo/") for ref in event.images]


def test_exactly_the_intended_lines_cannot_be_read() -> None:
    refused = [line for line in LINES if not is_readable(line)]
    assert refused == [line for line in LINES if b"broken-" in line]
    numbers = sorted(match.group() for line in refused for match in re.finditer(rb"broken-\d{4}", line[:1024]))
    assert sorted(set(numbers)) == [b"broken-%04d" % number for number in range(1, UNREADABLE + 1)]
    assert len(refused) == UNREADABLE


def test_one_unreadable_line_is_of_an_unknown_version() -> None:
    unknown = []
    for line in LINES:
        try:
            read(line)
        except UnsupportedEnvelopeError:
            unknown.append(json.loads(line)["type"])
        except ValidationError:
            continue
    assert unknown == ["stream.proguard.content.submitted.v9"]


def test_the_groups_have_their_counts_and_the_readme_says_them() -> None:
    assert Counter(event.attributes["group"] for event in EVENTS) == GROUPS
    table = {name: int(count) for name, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", README, re.MULTILINE)}
    assert table == GROUPS | {"unreadable": UNREADABLE}
    assert len(LINES) == sum(table.values()) >= 260


def test_ids_are_unique() -> None:
    counts = Counter(event.id for event in EVENTS)
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_category_and_every_sub_category_is_intended() -> None:
    policy = default_policy()
    expected = {event.attributes["expect"] for event in EVENTS if event.attributes["group"] != "oversized"}
    assert expected == {category.id for category in policy.categories} | {"safe", "ood", "evidence"}
    named = [event.attributes for event in EVENTS if "sub" in event.attributes]
    assert {note["sub"] for note in named} == {child.id for top in policy.categories for child in top.subcategories}
    assert all(policy.index[note["sub"]][0].id == note["expect"] for note in named)


def test_every_modality_many_languages_and_several_tenants_occur() -> None:
    assert {event.modality for event in EVENTS} == set(Modality)
    assert len({event.tenant for event in EVENTS}) == 3
    foreign = [event.locale for event in EVENTS if event.locale not in (None, "en")]
    assert len(foreign) >= 30
    assert len(set(foreign)) >= 10


def test_threads_hold_several_events_in_their_order() -> None:
    threads: dict[str, list[ContentEvent]] = {}
    for event in EVENTS:
        if "thread" in event.attributes:
            threads.setdefault(event.attributes["thread"], []).append(event)
    assert len(threads) >= 5
    assert all(len(events) >= 3 for events in threads.values())
    times = [[event.occurred_at for event in events] for events in threads.values()]
    assert times == [sorted(thread) for thread in times]
    assert all(len({event.tenant for event in events}) == 1 for events in threads.values())


def test_the_oversized_line_passes_every_limit_but_that_of_the_record() -> None:
    oversized = [line for line in LINES if len(line) > 64 * 1024]
    assert [read(line).attributes["group"] for line in oversized] == ["oversized"]
    assert len(read(oversized[0]).user_text.encode()) == 300 * 1024


def test_images_exist_and_match_unless_the_event_says_why_not() -> None:
    for event in EVENTS:
        if event.attributes["group"] == "evidence":
            continue
        for ref, name in zip(event.images, media_names(event), strict=True):
            data = SAMPLES.joinpath("images", name).read_bytes()
            assert ref.sha256 in (None, hashlib.sha256(data).hexdigest()), name
            Image.open(io.BytesIO(data)).load()


def test_each_way_to_have_no_image_occurs() -> None:
    reasons = Counter(event.attributes["reason"] for event in EVENTS if event.attributes["group"] == "evidence")
    assert reasons == {
        "image_missing": 2,
        "image_forbidden": 4,
        "image_invalid": 2,
        "image_too_large": 1,
        "image_mismatch": 1,
    }


def test_the_pictures_that_must_not_be_decoded_are_what_they_claim() -> None:
    images = SAMPLES.joinpath("images")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(images.joinpath("huge.png").read_bytes()))
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(images.joinpath("disguised.png").read_bytes()))
    truncated = Image.open(io.BytesIO(images.joinpath("truncated.png").read_bytes()))
    with pytest.raises(OSError, match=r"truncated|Truncated|broken"):
        truncated.load()


def test_the_committed_pictures_are_what_the_script_draws() -> None:
    drawn = dict(files())
    committed = {entry.name: entry.read_bytes() for entry in SAMPLES.joinpath("images").iterdir()}
    assert drawn.keys() == committed.keys()
    assert sum(map(len, committed.values())) < 600_000
    assert {name for event in EVENTS for name in media_names(event)} >= committed.keys()
    for name in drawn.keys() - NOT_PICTURES:
        # Compressors and rasterisers differ a little between releases and processors; what is seen must not.
        pair = [Image.open(io.BytesIO(data)).convert("RGB") for data in (drawn[name], committed[name])]
        assert max(ImageStat.Stat(ImageChops.difference(*pair)).mean) < 2, name


def test_a_photo_carries_a_location_that_the_worker_has_to_remove() -> None:
    data = SAMPLES.joinpath("images", "holiday-with-location.jpg").read_bytes()
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(0x8825)
