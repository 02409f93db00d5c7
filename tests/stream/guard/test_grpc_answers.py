from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from schemas import tensors
from stream.guard.backend import Completion
from stream.guard.errors import GuardRefusedError
from stream.guard.grpc_answers import AnswerReader

TYPES = {
    tensors.TEXT: "BYTES",
    tensors.FINISH_REASON: "BYTES",
    tensors.SCORES: "FP32",
    tensors.USAGE: "INT32",
    tensors.MANIFEST: "BYTES",
}


def string(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def answer(text: str = "fine", usage: tuple[int, int] = (10, 5), model: str = "guard", version: str = "1") -> bytes:
    response = service_pb2.ModelInferResponse(model_name=model, model_version=version)
    contents = {
        tensors.TEXT: string(text),
        tensors.FINISH_REASON: string("stop"),
        tensors.SCORES: struct.pack("<2f", 0.25, 0.5),
        tensors.USAGE: struct.pack("<2i", *usage),
        tensors.MANIFEST: string("sha"),
    }
    for name, raw in contents.items():
        response.outputs.add(name=name, datatype=TYPES[name], shape=[2 if name in ("SCORES", "USAGE") else 1])
        response.raw_output_contents.append(raw)
    return bytes(response.SerializeToString())


def read(reader: AnswerReader, message: bytes) -> Completion | None:
    """None for a refusal."""
    try:
        return reader.completion(message)
    except GuardRefusedError:
        return None


TEXTS = st.text() | st.text(min_size=100).map(lambda text: text * 200)
"""Also those whose length takes two and three bytes."""
ANSWERS = st.builds(
    answer,
    TEXTS,
    st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
    st.sampled_from(["guard", "another"]),
    st.sampled_from(["1", "22"]),
)


@given(st.lists(ANSWERS, min_size=1, max_size=5))
def test_an_answer_reads_the_same_after_others_as_alone(messages: list[bytes]) -> None:
    reader = AnswerReader()
    for message in messages:
        alone = read(AnswerReader(), message)
        assert alone is not None
        assert read(reader, message) == alone


@given(ANSWERS, st.data())
def test_a_damaged_answer_reads_the_same_after_a_whole_one_as_alone(message: bytes, data: st.DataObject) -> None:
    reader = AnswerReader()
    assert read(reader, message) is not None
    kind = data.draw(st.sampled_from(["cut", "changed", "longer", "twice"]))
    at = data.draw(st.integers(0, len(message) - 1))
    damaged = {
        "cut": message[:at],
        "changed": message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :],
        "longer": message + data.draw(st.binary(min_size=1, max_size=20)),
        "twice": message + message,
    }[kind]
    assert read(reader, damaged) == read(AnswerReader(), damaged)
    assert read(reader, message) == read(AnswerReader(), message)


def test_what_the_answers_have_in_common_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = AnswerReader()
    first, second = answer("one"), answer("a longer one" * 2000, usage=(7, 3))
    expected = read(AnswerReader(), second)
    assert read(reader, first) is not None
    monkeypatch.setattr(service_pb2, "ModelInferResponse", None)
    assert read(reader, second) == expected


def test_a_tensor_more_is_seen_although_the_answer_begins_as_the_one_before() -> None:
    response = service_pb2.ModelInferResponse.FromString(answer())
    response.outputs.add(name="MORE", datatype="BYTES", shape=[1])
    reader = AnswerReader()
    assert read(reader, answer()) is not None
    assert read(reader, response.SerializeToString()) is None  # its contents are missing
    response.raw_output_contents.append(b"more")
    assert read(reader, response.SerializeToString()) == read(AnswerReader(), answer())
