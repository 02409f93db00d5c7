"""A folder as a store: for development and tests, behind the same allow-list as a cloud's buckets."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

from stream.evidence.store import (
    ObjectForbiddenError,
    ObjectMissingError,
    ObjectTooLargeError,
    StoreUnavailableError,
)

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL})


class FolderStore:
    """Regular files under `root`. Symbolic links are followed only while they stay inside.

    The check and the opening cannot be raced: the resolved path is walked from the root's descriptor one folder at a
    time, and a link that appeared meanwhile is refused. Reads block a thread of the loop's default pool.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve(strict=True)

    async def read(self, key: str, max_bytes: int) -> bytes:
        return await asyncio.to_thread(self._read, key, max_bytes)

    def _read(self, key: str, max_bytes: int) -> bytes:
        try:
            descriptor = self._open(key)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise ObjectForbiddenError("not a regular file")
                if found.st_size > max_bytes:
                    raise ObjectTooLargeError(f"{found.st_size} bytes")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    data = file.read(max_bytes + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _MISSING:
                raise ObjectMissingError("no such file, or not readable") from None
            if error.errno == errno.ELOOP:
                raise ObjectForbiddenError("a symbolic link in the way") from None
            raise StoreUnavailableError(errno.errorcode.get(error.errno or 0, "OSError")) from None
        if len(data) > max_bytes:
            raise ObjectTooLargeError(f"more than {max_bytes} bytes")
        return data

    def _open(self, key: str) -> int:
        """A descriptor of the file. Never waits: a named pipe is opened without its writer, and refused later."""
        try:
            path = (self._root / key).resolve(strict=True)
        except RuntimeError:
            raise ObjectForbiddenError("symbolic links in a circle") from None
        if path == self._root or not path.is_relative_to(self._root):
            raise ObjectForbiddenError("the key leads out of the folder")
        *folders, name = path.relative_to(self._root).parts
        here = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = inner
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
