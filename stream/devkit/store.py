"""A local folder as a bucket."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from stream.errors import DevkitError


class LocalStore:
    """Objects under `root`, named `media://demo/<name>`: no URI tells where the folder is.

    A resolver reads them when its allow-list maps `prefix` (`media://demo`) to `root`.
    """

    def __init__(self, folder: Path, *, scheme: str = "media", bucket: str = "demo") -> None:
        self.root = folder.absolute()
        self.prefix = f"{scheme}://{bucket}"
        self.root.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, data: bytes) -> str:
        """Writes an object and returns its URI. `name` may hold folders; DevkitError when it would leave the store."""
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise DevkitError(f"not a name for an object: {name!r}")
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return f"{self.prefix}/{path}"
