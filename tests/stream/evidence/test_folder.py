"""Nothing outside the folder can be read through it, whatever lies inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream.evidence.folder import FolderStore
from stream.evidence.store import ObjectForbiddenError, ObjectMissingError, ObjectTooLargeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "cats").mkdir(parents=True)
    (root / "cats" / "cat.png").write_bytes(b"a cat")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"a secret")
    (tmp_path / "root-next-door").mkdir()
    (tmp_path / "root-next-door" / "key").write_bytes(b"a secret")
    return root


async def test_a_file_is_read_whole(root: Path) -> None:
    assert await FolderStore(root).read("cats/cat.png", 5) == b"a cat"


async def test_a_file_of_more_bytes_is_refused(root: Path) -> None:
    with pytest.raises(ObjectTooLargeError):
        await FolderStore(root).read("cats/cat.png", 4)


@pytest.mark.parametrize("key", ["cats/dog.png", "dogs/cat.png", "cats/cat.png/x", "x" * 300])
async def test_what_is_not_there_is_missing(root: Path, key: str) -> None:
    with pytest.raises(ObjectMissingError):
        await FolderStore(root).read(key, 100)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("file", "../secret/key"),
        ("folder/key", "../secret"),
        ("absolute", "/etc/passwd"),
        ("next-door/key", "../root-next-door"),
        ("chain", "other"),
        ("circle", "circle"),
        ("up/root/cats/cat.png/../../../secret/key", ".."),
    ],
)
async def test_a_link_that_leads_out_is_refused(root: Path, link: str, target: str) -> None:
    (root / "other").symlink_to("../secret/key")
    (root / link.partition("/")[0]).symlink_to(target)
    with pytest.raises((ObjectForbiddenError, ObjectMissingError)):
        await FolderStore(root).read(link, 100)


async def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    (root / "pets").symlink_to("cats")
    assert await FolderStore(root).read("pets/cat.png", 100) == b"a cat"


async def test_a_root_that_is_a_link_itself_works(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    assert await FolderStore(root.parent / "link").read("cats/cat.png", 100) == b"a cat"


@pytest.mark.parametrize(
    "key", ["../secret/key", "/etc/passwd", "cats/../../secret/key", "..", ".", "cats/..", "../root-next-door/key"]
)
async def test_a_key_that_leads_out_is_refused_even_past_the_uri_check(root: Path, key: str) -> None:
    with pytest.raises(ObjectForbiddenError):
        await FolderStore(root).read(key, 10_000)


async def test_what_is_not_a_regular_file_is_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(ObjectForbiddenError):
        await FolderStore(root).read("pipe", 100)
    with pytest.raises(ObjectForbiddenError):
        await FolderStore(root).read("cats", 100)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_stays_open(root: Path) -> None:
    store = FolderStore(root)
    before = open_files()
    for key in ("cats/cat.png", "cats", "nothing", "../secret/key"):
        try:
            await store.read(key, 100)
        except (ObjectForbiddenError, ObjectMissingError):
            continue
    assert open_files() == before
