"""From the bytes of Triton's gRPC answer to a completion.

What the answers of one model have in common (its name and version, the tensors' names, types and shapes) comes first in the message
and is the same bytes each time: it is decoded once, and of the next answers only the tensors' contents are. That takes a third of the
time of decoding them whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from stream.guard.backend import Completion
from stream.guard.wire import broken_answer, completion_of

_CONTENTS_TAG = 6 << 3 | 2
"""What stands before each of `raw_output_contents` (field 6 of KServe's ModelInferResponse, length-delimited)."""


class _Head(NamedTuple):
    """The part of an answer before its contents."""

    encoded: bytes
    model: str
    version: str
    names: tuple[str, ...]


class AnswerReader:
    """Reads the answers of one model; from any other it is only slower."""

    def __init__(self) -> None:
        self._head: _Head | None = None

    def completion(self, message: bytes) -> Completion:
        """The tensors of an answer. Raises `GuardRefusedError` for one that breaks the contract: another try will not mend it."""
        try:
            head, contents = self._split(message)
            raw = dict(zip(head.names, contents, strict=True))
        except (DecodeError, ValueError) as error:
            raise broken_answer(error) from error
        return completion_of(raw, head.model, head.version)

    def _split(self, message: bytes) -> tuple[_Head, Sequence[bytes]]:
        """What the answers have in common, and the contents of this one's tensors. Raises `DecodeError`."""
        if self._head is not None and message.startswith(self._head.encoded):
            contents = _contents(message, len(self._head.encoded))
            if contents is not None:
                return self._head, contents
        response = service_pb2.ModelInferResponse.FromString(message)
        contents = list(response.raw_output_contents)
        response.ClearField("raw_output_contents")
        names = tuple(output.name for output in response.outputs)
        # Where this is not how the message begins (protobuf promises no order), the next one is decoded whole as well.
        self._head = _Head(response.SerializeToString(), response.model_name, response.model_version, names)
        return self._head, contents


def _contents(message: bytes, start: int) -> list[bytes] | None:
    """The contents of the tensors, when `message` holds nothing else from `start` on, and holds them whole."""
    found: list[bytes] = []
    at, end = start, len(message)
    while at < end:
        if message[at] != _CONTENTS_TAG:
            return None
        at += 1
        length = shift = 0
        # A length is a varint: seven bits a byte, the lowest first, and the eighth says that more follow.
        while True:
            if at == end or shift > 28:
                return None
            byte = message[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        found.append(message[at : at + length])
        at += length
    return found if at == end else None
