"""Writes the manifest of a checkpoint folder.

    python -m triton_models.proguard.seal CHECKPOINT [--name NAME]

Run it on weights that you trust: the model refuses to load a folder that was not sealed, or that changed afterwards. A calibration
that the folder's manifest has already is kept only while the weights are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .guard import manifest
from .guard.errors import ManifestError

_PROCESSOR_KEYS = ("size", "min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def seal(folder: Path, *, name: str | None = None, now: datetime | None = None) -> manifest.Manifest:
    """Hash every file in `folder` and write its manifest. Raises `ManifestError` when it is no checkpoint."""
    config = _json(folder / "config.json")
    if config is None:
        raise ManifestError(f"{folder} has no readable config.json, so it is not a checkpoint")
    files = manifest.hash_files(folder)
    if not any(path.endswith(".safetensors") for path in files):
        raise ManifestError(f"{folder} has no .safetensors file, so it has no weights that may be served")
    document: dict[str, Any] = {
        "format": manifest.FORMAT,
        "name": name or folder.absolute().name,
        "files": files,
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "quantisation": config.get("quantization_config") or _json(folder / "hf_quant_config.json"),
        "processor": _processor(folder),
        "calibration": _kept_calibration(folder, files),
        "created_at": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
    }
    return manifest.write(folder, document)


def _processor(folder: Path) -> dict[str, Any]:
    """The facts on which training and serving most often disagree (serving.md: pixel limits, then the template)."""
    # transformers 5 writes one processor_config.json; before, the image processor's part was a file of its own.
    whole = _json(folder / "processor_config.json") or {}
    image = _json(folder / "preprocessor_config.json") or whole.get("image_processor") or {}
    facts: dict[str, Any] = {key: image[key] for key in _PROCESSOR_KEYS if key in image}
    for template in _TEMPLATES:
        if (folder / template).is_file():
            facts["chat_template_sha256"] = hashlib.sha256((folder / template).read_bytes()).hexdigest()
    return facts


def _kept_calibration(folder: Path, files: dict[str, dict[str, Any]]) -> Any:
    try:
        before = manifest.read(folder).document
    except ManifestError:
        return None
    return before["calibration"] if before["files"] == files else None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="seal", description="Write the manifest of a checkpoint folder.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", help="what the checkpoint is called; its folder's name without it")
    arguments = parser.parse_args()
    try:
        sealed = seal(arguments.checkpoint, name=arguments.name)
    except ManifestError as error:
        sys.exit(f"seal: {error}")
    sys.stdout.write(f"{sealed.name} {sealed.digest}\n")


if __name__ == "__main__":
    main()
