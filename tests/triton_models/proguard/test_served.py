"""The real guard on a real tritonserver, where only the server can show it: refusal to load, the cap, cancellation, faults, metrics."""

from __future__ import annotations

import asyncio
import shutil
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tritonclient import grpc
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from stream.devkit.process import ChildDiedError
from stream.devkit.triton import TritonServer
from tests.triton_models.contract_suite import conversation, inputs_of
from tests.triton_models.proguard.engines import KINDS, WAIT_SECONDS, photo
from tests.triton_models.proguard.serving import MODEL, copy_model, serving
from triton_models.proguard.guard import manifest

MAX_IN_FLIGHT = 8

# Appended to the copy's runner: the real engine, with memory or a device that fails while a file says so.
FAULTS = """

_extend = Runner.extend


def _faulty(self, *arguments, **named):
    from pathlib import Path

    fault = Path(__file__).with_name("fault")
    what = fault.read_text() if fault.exists() else ""
    if what == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    if what == "crash":
        raise RuntimeError("CUDA error: unspecified launch failure")
    return _extend(self, *arguments, **named)


Runner.extend = _faulty
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = copy_model(tmp_path_factory.mktemp("faulty"))
    with (copied / MODEL / "guard" / "runner.py").open("a") as runner:
        runner.write(FAULTS)
    return copied


@pytest.fixture(scope="module")
def server(repository: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    settings = {"MAX_IN_FLIGHT": str(MAX_IN_FLIGHT), "NUDGES": "0", "THREADS": "1"}
    with serving(tmp_path_factory.mktemp("served"), checkpoint, settings, repository=repository) as running:
        yield running


@pytest.fixture(scope="module")
def briefly(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A guard that is set to write twelve tokens at most."""
    folder = tmp_path_factory.mktemp("briefly")
    repository = copy_model(folder)
    written = repository / MODEL / "1" / "model.yaml"
    shipped = written.read_text()
    assert "\nmax_tokens: 1024" in shipped
    written.write_text(shipped.replace("\nmax_tokens: 1024", "\nmax_tokens: 12"))
    with serving(folder, checkpoint, {"NUDGES": "0", "THREADS": "1"}, repository=repository) as running:
        yield running


@pytest.fixture
async def client(server: TritonServer) -> AsyncIterator[aio.InferenceServerClient]:
    async with aio.InferenceServerClient(server.grpc_url) as connected:
        yield connected


class Fault:
    """What fails in the server from the next step on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, what: str) -> None:
        self._path.write_text(what)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)


@pytest.fixture
def fault(repository: Path) -> Iterator[Fault]:
    fault = Fault(repository / MODEL / "guard" / "fault")
    yield fault
    fault.end()


def metrics(server: TritonServer) -> dict[str, float]:
    """The model's own metrics by their names; one process writes them, under its own labels."""
    with urllib.request.urlopen(server.metrics_url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    values = (line.rpartition(" ") for line in lines if line.startswith("proguard_") and "_bucket{" not in line)
    return {name.partition("{")[0].removeprefix("proguard_"): float(value) for name, _, value in values}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.05)


async def ask(client: aio.InferenceServerClient, text: str, *, tokens: int = 8, **more: Any) -> bytes:
    result = await client.infer(MODEL, inputs_of(**conversation(text), MAX_TOKENS=[tokens], **more))
    return bytes(result.as_numpy("TEXT")[0])


def status(error: InferenceServerException) -> str:
    return str(error.status()).rpartition(".")[2]


async def test_each_kind_of_request_is_answered_as_by_the_engine_alone(
    client: aio.InferenceServerClient, make_engine: Any
) -> None:
    engine = make_engine()

    async def served(kind: str) -> tuple[bytes, int]:
        asked = KINDS[kind]
        images = {"IMAGES": list(asked.images)} if asked.images else {}
        inputs = inputs_of(SYSTEM=[asked.system], USER=[asked.user], MAX_TOKENS=[asked.max_tokens], **images)
        result = await client.infer(MODEL, inputs)
        return bytes(result.as_numpy("TEXT")[0]), int(result.as_numpy("USAGE")[0])

    together = await asyncio.gather(*map(served, KINDS))
    alone = [await engine.generate(asked) for asked in KINDS.values()]
    assert list(together) == [(one.text.encode(), one.prompt_tokens) for one in alone]


async def test_a_cancelled_call_leaves_the_batch(server: TritonServer, client: aio.InferenceServerClient) -> None:
    long = [asyncio.create_task(ask(client, f"long {n}", tokens=1024)) for n in range(4)]
    await until(lambda: metrics(server)["running"] == 4)
    for task in long:
        task.cancel()
    written = metrics(server)["completion_tokens_total"]
    await until(lambda: metrics(server)["running"] == 0)
    assert metrics(server)["completion_tokens_total"] - written < 4 * 1024
    assert await ask(client, "next")


async def test_a_call_whose_time_is_over_leaves_the_batch(
    server: TritonServer, client: aio.InferenceServerClient
) -> None:
    written = metrics(server)["completion_tokens_total"]
    inputs = inputs_of(**conversation("long"), MAX_TOKENS=[1024])
    long = [client.infer(MODEL, inputs, timeout=300_000) for _ in range(4)]
    ended = await asyncio.gather(*long, return_exceptions=True)
    assert {status(error) for error in ended if isinstance(error, InferenceServerException)} == {"CANCELLED"}
    await until(lambda: metrics(server)["running"] == 0)
    assert metrics(server)["completion_tokens_total"] - written < 4 * 1024
    assert await ask(client, "next")


async def test_one_more_than_may_be_in_flight_is_told_to_come_back(client: aio.InferenceServerClient) -> None:
    long = [asyncio.create_task(ask(client, f"long {n}", tokens=1024)) for n in range(3 * MAX_IN_FLIGHT)]
    done, waiting = await asyncio.wait(long, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_SECONDS)
    refused = [task.exception() for task in done]
    assert refused
    assert {status(error) for error in refused if isinstance(error, InferenceServerException)} == {"UNAVAILABLE"}
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)

    async def answered() -> bool:
        try:
            return bool(await ask(client, "again"))
        except InferenceServerException:
            return False

    async with asyncio.timeout(WAIT_SECONDS):
        while not await answered():
            await asyncio.sleep(0.05)


async def test_no_memory_is_unavailable_and_passes(client: aio.InferenceServerClient, fault: Fault) -> None:
    before = await ask(client, "hello")
    fault.begin("memory")
    with pytest.raises(InferenceServerException, match="memory ran out") as refused:
        await ask(client, "hello")
    assert status(refused.value) == "UNAVAILABLE"
    fault.end()
    assert await ask(client, "hello") == before


async def test_the_models_own_metrics_count_what_it_did(
    server: TritonServer, client: aio.InferenceServerClient
) -> None:
    # The histogram is written with each answer, the counters twice a second: when they agree, those before us are counted.
    await until(lambda: metrics(server)["first_token_seconds_count"] == metrics(server)["unparsable_total"])
    before = metrics(server)
    await asyncio.gather(*(ask(client, f"{n}", tokens=5, IMAGES=[photo(60, 60)]) for n in range(6)))
    due = {"completion_tokens_total": 30, "unparsable_total": 6, "first_token_seconds_count": 6}
    await until(lambda: {name: metrics(server)[name] - before.get(name, 0) for name in due} == due)
    after = metrics(server)
    assert after["prompt_tokens_total"] > before["prompt_tokens_total"]
    assert after["prefix_blocks_reused_total"] > before["prefix_blocks_reused_total"]
    assert after["nudged_total"] == 0
    assert after["running"] == after["waiting"] == 0


def harmed(checkpoint: Path, folder: Path, harm: Callable[[Path], object]) -> Path:
    copied = Path(shutil.copytree(checkpoint, folder / "checkpoint"))
    harm(copied)
    return copied


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / manifest.NAME).unlink(), "has no manifest.json"),
    "other weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
        "does not match its manifest.json",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_checkpoint_that_is_not_the_sealed_one_is_not_loaded_and_the_log_says_what_to_do(
    checkpoint: Path, tmp_path: Path, harm: str
) -> None:
    do, message = HARM[harm]
    copied = harmed(checkpoint, tmp_path, do)
    with pytest.raises(ChildDiedError), serving(tmp_path, copied):
        pass
    log = (tmp_path / "triton.log").read_text()
    assert message in log
    assert f"python -m triton_models.proguard.seal {copied}" in log


@pytest.mark.timeout(240)
async def test_a_crashed_engine_is_an_error_for_every_request_from_then_on(
    server: TritonServer, client: aio.InferenceServerClient, fault: Fault
) -> None:
    # The last test of this server: nothing heals it but another load.
    long = [asyncio.create_task(ask(client, f"long {n}", tokens=1024)) for n in range(4)]
    await until(lambda: metrics(server)["running"] == 4)
    fault.begin("crash")
    results = await asyncio.gather(*long, return_exceptions=True)
    fault.end()
    with pytest.raises(InferenceServerException) as later:
        await ask(client, "later")
    for error in [*results, later.value]:
        assert isinstance(error, InferenceServerException)
        assert "EngineDiedError" in str(error)
        assert status(error) == "INTERNAL"
    with grpc.InferenceServerClient(server.grpc_url) as asked:
        assert asked.is_model_ready(MODEL), "so only a real inference tells: the worker's probe is one"


@pytest.mark.parametrize("asked_for", [None, 400])
async def test_without_a_limit_in_the_request_or_with_a_larger_one_the_settings_hold(
    briefly: TritonServer, asked_for: int | None
) -> None:
    limit: dict[str, Any] = {} if asked_for is None else {"MAX_TOKENS": [asked_for]}
    async with aio.InferenceServerClient(briefly.grpc_url) as client:
        result = await client.infer(MODEL, inputs_of(**conversation("Good morning"), **limit))
    assert result.as_numpy("USAGE")[1] == 12
    assert result.as_numpy("FINISH_REASON").tolist() == [b"length"]
