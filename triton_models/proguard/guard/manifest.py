"""The manifest beside a checkpoint's weights: which files it is, and what it was made for.

`manifest.json` is an object with

    format         1
    name           what people call it
    files          {path: {"sha256": hex, "size": bytes}}: every file of the checkpoint but the manifest itself
    dtype          of the weights, such as bfloat16; null when the configuration does not say
    quantisation   the configuration's quantisation entry, or null
    processor      what must be the same in training and serving: pixel limits, patch sizes, the chat template's digest
    calibration    what `training` fitted for the scores, or null
    created_at     UTC, ISO 8601

Its digest, the SHA-256 of its canonical JSON (sorted keys, no spaces, UTF-8), is what MANIFEST answers: it changes when any file,
or the calibration, does. Only the standard library is used, so that an exporter or an operator's script may import it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ManifestError

NAME = "manifest.json"
FORMAT = 1
SEAL = "python -m triton_models.proguard.seal"
_KEYS = {"format", "name", "files", "dtype", "quantisation", "processor", "calibration", "created_at"}
_SKIPPED_FOLDERS = {".cache", ".git", "__pycache__"}
"""What downloads leave beside the files. Nothing is loaded from there."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was read and, when `open_checkpoint` made it, checked against the files."""

    document: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256(canonical(self.document)).hexdigest()

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """The entry as it was written; None before anybody fitted one."""
        entry: Mapping[str, Any] | None = self.document["calibration"]
        return entry


def canonical(document: Mapping[str, Any]) -> bytes:
    """The bytes that the digest is over."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def open_checkpoint(folder: Path, *, threads: int = 4) -> Manifest:
    """Read the manifest in `folder` and compare it with every file. Raises `ManifestError`, which says what to do.

    Reads all files once (hashing takes about half a second a gigabyte and thread).
    """
    manifest = read(folder)
    recorded: Mapping[str, Mapping[str, Any]] = manifest.document["files"]
    found = {name: path.stat().st_size for name, path in _files(folder)}
    for name in sorted(recorded.keys() - found.keys()):
        raise _mismatch(folder, f"{name} is in the manifest and not in the folder")
    for name in sorted(found.keys() - recorded.keys()):
        raise _mismatch(folder, f"{name} is in the folder and not in the manifest")
    for name, size in found.items():
        if size != recorded[name]["size"]:
            raise _mismatch(folder, f"{name} has {size} bytes, and {recorded[name]['size']} in the manifest")
    for name, sha256 in _hashes(folder, found, threads):
        if sha256 != recorded[name]["sha256"]:
            raise _mismatch(folder, f"{name} is not the file that the manifest was made for (its SHA-256 differs)")
    return manifest


def read(folder: Path) -> Manifest:
    """The manifest in `folder`, its form checked but not its files. Raises `ManifestError`."""
    if not folder.is_dir():
        raise ManifestError(f"there is no checkpoint folder {folder}")
    path = folder / NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{folder} has no {NAME}, so nothing says that its weights are the ones that were evaluated."
            f" If you trust them, write one: {SEAL} {folder}"
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read ({error}); write it again: {SEAL} {folder}") from error
    if not isinstance(document, dict) or set(document) != _KEYS or document["format"] != FORMAT:
        raise ManifestError(f"{path} is not a manifest of format {FORMAT}; write it again: {SEAL} {folder}")
    files = document["files"]
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and set(entry) == {"sha256", "size"} for entry in files.values()
    ):
        raise ManifestError(f"the list of files in {path} is not one; write it again: {SEAL} {folder}")
    return Manifest(document)


def write(folder: Path, document: Mapping[str, Any]) -> Manifest:
    """Write `document` as the manifest of `folder`, whole or not at all."""
    path = folder / NAME
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
    return read(folder)


def hash_files(folder: Path, *, threads: int = 4) -> dict[str, dict[str, Any]]:
    """The `files` entry for what lies in `folder` now."""
    sizes = {name: path.stat().st_size for name, path in _files(folder)}
    return {name: {"sha256": sha256, "size": sizes[name]} for name, sha256 in _hashes(folder, sizes, threads)}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for directory, folders, names in os.walk(folder, followlinks=True):  # Hub caches link to their blobs.
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in names:
            path = Path(directory) / name
            relative = path.relative_to(folder).as_posix()
            if relative not in (NAME, Path(NAME).with_suffix(".partial").as_posix()):
                yield relative, path


def _hashes(folder: Path, names: Mapping[str, int], threads: int) -> Iterator[tuple[str, str]]:
    ordered = sorted(names, key=lambda name: -names[name])  # The largest first, so that no thread is left with it.
    with ThreadPoolExecutor(threads) as pool:  # hashlib releases the interpreter's lock.
        yield from zip(ordered, pool.map(lambda name: _sha256(folder / name), ordered), strict=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mismatch(folder: Path, what: str) -> ManifestError:
    return ManifestError(
        f"the checkpoint {folder} does not match its {NAME}: {what}."
        f" Restore the files, or, if you trust what lies there now, write it again: {SEAL} {folder}"
    )
