"""The model with `engine: tensorrt_llm` in a real tritonserver, on the stand-in for the LLM API."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from schemas import tensors
from schemas.answer import Reading, parse
from schemas.events import Modality
from schemas.policy import default_policy
from stream.devkit.triton import TritonServer
from tests.gpu.prompts import Prompt, picture, prompt
from tests.triton_models.proguard import fake_trt
from triton_models.proguard.guard import manifest

MODEL = "proguard"
POLICY = default_policy().index
Outputs = dict[str, Any]


def infer(client: grpc.InferenceServerClient, asked: Prompt, timeout: float = 60) -> Outputs:
    inputs = [(tensors.SYSTEM, [asked.system.encode()]), (tensors.USER, [asked.user.encode()])]
    inputs += [(tensors.IMAGES, list(asked.images))] if asked.images else []
    sent = []
    for name, values in inputs:
        array = np.array(values, dtype=np.object_)
        tensor = grpc.InferInput(name, list(array.shape), "BYTES")
        tensor.set_data_from_numpy(array)
        sent.append(tensor)
    result = client.infer(MODEL, sent, client_timeout=timeout)
    return {name: result.as_numpy(name) for name in tensors.OUTPUTS}


def answers(url: str) -> bool:
    with grpc.InferenceServerClient(url) as client:
        return bool(infer(client, prompt("ready", "hello", None))[tensors.TEXT][0])


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("trt")
    repository = fake_trt.repository(folder / "models", checkpoint)
    with TritonServer(repository, Path(sys.prefix), folder, models=[MODEL], ready=answers) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url) as connected:
        yield connected


def test_a_conversation_is_answered_with_scores_and_the_manifest(
    client: grpc.InferenceServerClient, checkpoint: Path
) -> None:
    outputs = infer(client, prompt("one", "a bomb", "no"))
    read = parse(outputs[tensors.TEXT][0].decode(), Modality.TEXT, POLICY)
    assert (read.reading, read.request, read.response) == (Reading.STRICT, "unsafe", "safe")
    assert outputs[tensors.SCORES][0] > 0.5 > outputs[tensors.SCORES][1]
    assert outputs[tensors.MANIFEST].tolist() == [manifest.read(checkpoint).digest.encode()]
    assert (outputs[tensors.USAGE] > 0).all()


def test_an_image_alone_has_no_response(client: grpc.InferenceServerClient) -> None:
    outputs = infer(client, prompt("image", "", None, (picture(56, 56, 1), picture(84, 56, 2))))
    assert parse(outputs[tensors.TEXT][0].decode(), Modality.IMAGE, POLICY).reading is Reading.STRICT
    assert np.isnan(outputs[tensors.SCORES][1])


def test_sixty_four_at_once_answer_as_one_by_one(client: grpc.InferenceServerClient) -> None:
    asked = [prompt(str(at), f"{'a bomb' if at % 3 else 'bread'} {at}", None) for at in range(64)]
    alone = [infer(client, one) for one in asked]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda one: infer(client, one), asked))
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(one[name], other[name], equal_nan=name == tensors.SCORES) for name in tensors.OUTPUTS)


def test_a_broken_image_is_refused_and_the_next_request_answered(client: grpc.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="BadImageError"):
        infer(client, prompt("broken", "hello", None, (b"no image",)))
    assert infer(client, prompt("next", "hello", None))[tensors.FINISH_REASON].tolist() == [b"stop"]


def test_an_executor_that_died_is_an_error_that_names_it_and_fails_every_later_request(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"text": "<think>x</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:None\n</answer>"}
    script = fake_trt.write_script(tmp_path / "script.json", [good, {"error": "executor"}])
    monkeypatch.setenv(fake_trt.SCRIPT_VARIABLE, str(script))
    repository = fake_trt.repository(tmp_path / "models", checkpoint)
    begun = time.monotonic()
    with (
        TritonServer(repository, Path(sys.prefix), tmp_path, models=[MODEL], ready=answers) as running,
        grpc.InferenceServerClient(running.grpc_url) as client,
    ):
        for _ in range(2):
            with pytest.raises(InferenceServerException, match="EngineDiedError"):
                infer(client, prompt("dead", "hello", None))
    assert time.monotonic() - begun < 120


def test_a_release_that_is_not_installed_stops_the_server_with_what_to_do(checkpoint: Path, tmp_path: Path) -> None:
    repository = fake_trt.repository(tmp_path / "models", checkpoint, installed=False)
    with pytest.raises(Exception, match=r"tritonserver 26\.07-trtllm-python-py3"):
        TritonServer(repository, Path(sys.prefix), tmp_path, models=[MODEL], ready=answers).start()
