"""The contents of the guard's tensors, which are the same bytes over gRPC and over HTTP."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from schemas import tensors
from stream.guard.backend import Completion
from stream.guard.errors import GuardError, GuardRefusedError, GuardTimeoutError, GuardUnavailableError

_UNAVAILABLE = frozenset({"UNAVAILABLE", "NOT_FOUND", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"})
_STUB_DIED = ("stub process", "is not healthy", "not ready", "no longer ready", "shutting down")


def strings(values: Sequence[bytes]) -> bytes:
    """A BYTES tensor: each string behind its length (4, little-endian)."""
    return b"".join(part for value in values for part in (struct.pack("<I", len(value)), value))


def completion_of(contents: Mapping[str, bytes], model: str, version: str) -> Completion:
    """The completion that the output tensors say. Raises `GuardRefusedError` when they break the contract: another try will not mend it."""
    try:
        request_score, response_score = struct.unpack("<2f", contents[tensors.SCORES])
        prompt_tokens, completion_tokens = struct.unpack("<2i", contents[tensors.USAGE])
        return Completion(
            text=_one_string(contents[tensors.TEXT]),
            finish_reason=_one_string(contents[tensors.FINISH_REASON]),
            request_score=request_score,
            response_score=response_score,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            model=model,
            version=version,
            manifest=_one_string(contents[tensors.MANIFEST]),
        )
    except (KeyError, ValueError, struct.error) as error:
        raise broken_answer(error) from error


def broken_answer(cause: Exception) -> GuardRefusedError:
    """For an answer that cannot be read as the contract's tensors."""
    return GuardRefusedError(f"the answer breaks the tensor contract: {type(cause).__name__}")


def guard_error(status: str, details: str) -> GuardError:
    """What a status of gRPC's, and the server's own words beside it, mean for whoever asked. The words may quote content and go no further."""
    message = details.lower()
    if status == "DEADLINE_EXCEEDED":
        return GuardTimeoutError("no answer within the timeout", status)
    if status in _UNAVAILABLE or any(sign in message for sign in _STUB_DIED):
        return GuardUnavailableError("the server is not there", status)
    return GuardRefusedError("the server refused the request", status)


def _one_string(raw: bytes) -> str:
    """The string of a BYTES [1] tensor."""
    if len(raw) < 4 or int.from_bytes(raw[:4], "little") != len(raw) - 4:
        raise ValueError("not one string")
    return raw[4:].decode()
