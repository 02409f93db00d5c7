"""`model promote` and `model rollback` on a real tritonserver, under 64 concurrent requests."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import Result

from schemas.policy import default_policy
from stream.devkit.triton import TritonServer
from stream.evidence.settings import EvidenceSettings
from stream.guard.settings import GuardSettings
from stream.operator.models.comparison import Limits
from stream.operator.models.control import ModelControl
from stream.operator.models.golden import read_golden
from stream.operator.models.promotion import Plan, Promoter, Promotion
from stream.operator.models.repository import ModelRepository, Rollout
from tests.end_to_end.harness import eventually
from tests.stream.operator.models.parts import (
    MODEL,
    add_version,
    index,
    loaded,
    make_repository,
    versioned_triton,
    write_events,
)
from tests.stream.operator.models.traffic import Traffic
from tests.stream.operator.parts import document, run

LIMITS = Limits(min_format_valid=0.98, min_agreement=0.95)


@pytest.fixture
def triton(tmp_path: Path, triton_env: Path) -> Iterator[TritonServer]:
    with versioned_triton(make_repository(tmp_path), triton_env, tmp_path / "triton") as server:
        yield server


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return write_events(tmp_path)


def command(triton: TritonServer, *arguments: object) -> Result:
    return run("model", *map(str, arguments), "--url", triton.grpc_url, "--model", MODEL)


def promote(triton: TritonServer, version: int, events: Path, *arguments: object) -> Result:
    where = () if "--exposed" in arguments else ("--repository", triton.repository)
    return command(triton, "promote", version, "--events", events, "--watch", 1, *where, *arguments)


def traffic(triton: TritonServer) -> Traffic:
    return Traffic(triton.grpc_url, MODEL)


def config(triton: TritonServer) -> str:
    return (triton.repository / MODEL / "config.pbtxt").read_text()


def nothing_is_left_of_a_trial(triton: TritonServer) -> bool:
    names = {entry.model for entry in index(triton.grpc_url) if not entry.gone}
    return names == {MODEL} and not (triton.repository / f"{MODEL}_candidate").exists()


def test_a_roll_and_a_rollback_cost_no_request_and_switch_the_manifest_once_each(
    triton: TritonServer, events: Path
) -> None:
    add_version(triton.repository, 2)
    with traffic(triton) as roll:
        result = promote(triton, 2, events)
    assert result.exit_code == 0, result.output
    assert "version 2 promoted" in result.stdout
    assert (roll.errors, roll.manifests) == ([], ["manifest-1", "manifest-2"])
    assert loaded(triton.grpc_url) == [2]
    assert nothing_is_left_of_a_trial(triton)
    with traffic(triton) as back:
        result = command(triton, "rollback", "--repository", triton.repository, "--json")
    assert document(result) == {"was": 2, "serves": 1}
    assert (back.errors, back.manifests) == ([], ["manifest-2", "manifest-1"])
    triton.restart()
    assert loaded(triton.grpc_url) == [1]


@pytest.mark.parametrize(
    ("character", "says"), [("garbled", "0 of 60 answers can be read"), ("flipped", "20 of 60 labels")]
)
def test_a_bad_version_is_rejected_before_any_request_has_met_it(
    triton: TritonServer, events: Path, character: str, says: str
) -> None:
    add_version(triton.repository, 2, character)
    before = config(triton)
    with traffic(triton) as during:
        result = promote(triton, 2, events)
    assert result.exit_code == 1, result.output
    assert f"version 2 rejected: {says}" in result.stdout
    assert (during.errors, during.manifests) == ([], ["manifest-1"])
    assert loaded(triton.grpc_url) == [1]
    assert config(triton) == before
    assert nothing_is_left_of_a_trial(triton)
    assert ModelRepository(triton.repository, MODEL).rollout() is None


def test_a_version_that_goes_bad_after_the_switch_is_rolled_back(triton: TritonServer, events: Path) -> None:
    add_version(triton.repository, 2, "two_faced")
    before = config(triton)
    with traffic(triton) as during:
        result = promote(triton, 2, events, "--json")
    assert result.exit_code == 1, result.output
    assert document(result)["outcome"] == "rolled back"
    assert "cannot be read" in document(result)["why"]
    assert (during.errors, during.manifests) == ([], ["manifest-1", "manifest-2", "manifest-1"])
    assert loaded(triton.grpc_url) == [1]
    assert config(triton) == before
    assert nothing_is_left_of_a_trial(triton)


@pytest.mark.parametrize(
    ("character", "says"), [("refuses", "there is no manifest beside the weights"), ("crashes", "went away")]
)
@pytest.mark.parametrize("way", [(), ("--exposed",)])
def test_a_version_that_does_not_load_or_dies_is_not_promoted_and_the_reason_is_shown(
    triton: TritonServer, events: Path, character: str, says: str, way: tuple[str, ...]
) -> None:
    add_version(triton.repository, 2, character)
    if not way:
        with traffic(triton) as during:
            result = promote(triton, 2, events, "--patience", 1)
        assert (during.errors, during.manifests) == ([], ["manifest-1"])
    else:
        result = promote(triton, 2, events, "--patience", 1, *way)
    assert result.exit_code == 1, result.output
    assert says in result.stdout
    assert loaded(triton.grpc_url) == [1]
    if not way and character == "refuses":
        with urllib.request.urlopen(f"{triton.http_url}/v2/health/ready", timeout=5) as ready:
            assert ready.status == 200, "a failed load leaves the whole server not ready"
    assert nothing_is_left_of_a_trial(triton)


def test_without_the_repository_the_new_version_is_tried_in_the_open_and_rolled_back_without_a_lost_request(
    triton: TritonServer, events: Path
) -> None:
    add_version(triton.repository, 2)
    add_version(triton.repository, 3, "flipped")
    refused = command(triton, "promote", 2, "--events", events)
    assert refused.exit_code == 2
    assert "--exposed" in refused.stderr
    with traffic(triton) as roll:
        result = promote(triton, 2, events, "--exposed")
    assert result.exit_code == 0, result.output
    assert "restarts" in result.stderr
    assert (roll.errors, roll.manifests) == ([], ["manifest-1", "manifest-2"])
    assert loaded(triton.grpc_url) == [2]
    with traffic(triton) as bad:
        assert promote(triton, 3, events, "--exposed").exit_code == 1
    assert (bad.errors, bad.manifests) == ([], ["manifest-2", "manifest-3", "manifest-2"])
    assert loaded(triton.grpc_url) == [2]


def test_an_old_version_that_is_kept_serves_those_who_pin_it_and_comes_back_without_a_load(
    triton: TritonServer, events: Path
) -> None:
    add_version(triton.repository, 2)
    with traffic(triton) as roll:
        result = promote(triton, 2, events, "--keep")
    assert result.exit_code == 0, result.output
    assert (roll.errors, roll.manifests) == ([], ["manifest-1", "manifest-2"])
    assert loaded(triton.grpc_url) == [1, 2]
    with traffic(triton) as back:
        assert command(triton, "rollback").exit_code == 0
    assert (back.errors, back.manifests) == ([], ["manifest-2", "manifest-1"])


def is_model(process: psutil.Process) -> bool:
    """Not one that is about to become a model, and not one that has ended."""
    try:
        return process.exe().endswith("triton_python_backend_stub")
    except psutil.Error:
        return False


@contextmanager
def counting_copies(triton: TritonServer) -> Iterator[list[int]]:
    """The most processes of models that the server had at a time."""
    most, stop = [0], threading.Event()

    def count() -> None:
        server = psutil.Process(triton.pid)
        latest: deque[int] = deque(maxlen=15)
        while not stop.wait(0.02):
            # A process that is just being made is there twice for a moment, and one that ends takes its time: what counts is there for 0.3 s.
            latest.append(sum(map(is_model, server.children(recursive=True))))
            most[0] = max(most[0], min(latest) if len(latest) == 15 else 0)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("way", "most"), [((), 2), (("--keep",), 3), (("--exposed",), 3)])
def test_no_way_holds_more_copies_in_memory_than_the_readme_says(
    triton: TritonServer, events: Path, way: tuple[str, ...], most: int
) -> None:
    add_version(triton.repository, 2)
    with counting_copies(triton) as copies:
        assert promote(triton, 2, events, *way).exit_code == 0
    assert 2 <= copies[0] <= most
    if not way:
        with counting_copies(triton) as copies:
            assert command(triton, "rollback", "--repository", triton.repository).exit_code == 0
        assert copies[0] <= 2


def test_a_lower_version_can_be_promoted_too(triton: TritonServer, events: Path) -> None:
    add_version(triton.repository, 5)
    assert promote(triton, 5, events).exit_code == 0
    with traffic(triton) as during:
        assert promote(triton, 1, events).exit_code == 0
    assert (during.errors, during.manifests) == ([], ["manifest-5", "manifest-1"])
    kept = promote(triton, 1, events)
    assert kept.exit_code == 2
    assert "serves already" in kept.stderr
    assert "highest" in promote(triton, 5, events, "--keep").output or loaded(triton.grpc_url) == [1, 5]
    assert promote(triton, 9, events).exit_code == 2


def test_without_a_note_of_what_served_before_a_rollback_wants_a_version(triton: TritonServer) -> None:
    for where in ((), ("--repository", triton.repository)):
        result = command(triton, "rollback", *where)
        assert result.exit_code == 2
        assert "name the version" in result.stderr


async def promoter(
    triton: TritonServer, events: Path, tell: Callable[[str], None], *, patience_s: float = 15.0
) -> tuple[Promoter, ModelControl]:
    repository = ModelRepository(triton.repository, MODEL)
    settings = GuardSettings(url=triton.grpc_url, model=MODEL)
    control = ModelControl(settings, default_policy(), repository=repository)
    golden = await read_golden(events, default_policy(), EvidenceSettings(), 10_000)
    plan = Plan(LIMITS, watch_s=0.5, patience_s=patience_s)
    return Promoter(control, golden.samples, plan, repository=repository, tell=tell), control


def promote_with(triton: TritonServer, events: Path, tell: Callable[[str], None], **settings: float) -> Promotion:
    async def go() -> Promotion:
        promoting, control = await promoter(triton, events, tell, **settings)
        try:
            return await promoting.promote(2)
        finally:
            await control.aclose()

    return asyncio.run(go())


def at(step: str, action: Callable[[], None]) -> Callable[[str], None]:
    """Does `action` once, when this step is told."""
    done: list[str] = []

    def tell(line: str) -> None:
        if step in line and not done:
            done.append(line)
            action()

    return tell


def in_a_thread(action: Callable[[], None]) -> None:
    """Blocks until it is done. What runs an event loop of its own cannot run where one runs already."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(60)


@pytest.mark.parametrize(
    ("step", "outcome"), [("asking both", "rejected"), ("switching", "promoted"), ("watching", "promoted")]
)
def test_a_server_that_restarts_between_two_steps_comes_back_with_what_the_outcome_says(
    triton: TritonServer, events: Path, step: str, outcome: str
) -> None:
    add_version(triton.repository, 2)
    result = promote_with(triton, events, at(step, lambda: in_a_thread(triton.restart)), patience_s=2.0)
    assert result.outcome == outcome, result.why
    serves = 2 if outcome == "promoted" else 1
    assert loaded(triton.grpc_url) == [serves]
    assert nothing_is_left_of_a_trial(triton)
    triton.restart()
    assert loaded(triton.grpc_url) == [serves]


def version_2_state(triton: TritonServer) -> str:
    return next((e.state for e in index(triton.grpc_url) if e.model == MODEL and e.version == 2), "")


def test_a_server_that_dies_while_it_loads_comes_back_with_the_old_version(triton: TritonServer, events: Path) -> None:
    add_version(triton.repository, 2, "slow")
    restarts: list[threading.Thread] = []

    def kill_while_loading() -> None:
        def kill() -> None:
            eventually(lambda: version_2_state(triton) == "LOADING", 30, "version 2 loads")
            triton.kill()
            triton.start()

        restarts.append(threading.Thread(target=kill))
        restarts[0].start()

    before = config(triton)
    try:
        result = promote_with(triton, events, at("switching", kill_while_loading), patience_s=60.0)
    finally:
        restarts[0].join(60)
    assert result.outcome == "rolled back"
    assert loaded(triton.grpc_url) == [1]
    assert config(triton) == before
    assert ModelRepository(triton.repository, MODEL).rollout() is None


@pytest.mark.parametrize("step", ["asking both", "watching"])
def test_a_promotion_that_is_interrupted_puts_everything_back(triton: TritonServer, events: Path, step: str) -> None:
    add_version(triton.repository, 2)
    noted = Rollout(serving=1, previous=7)
    ModelRepository(triton.repository, MODEL).note_rollout(noted)
    before = config(triton)

    async def go() -> None:
        task = asyncio.current_task()
        assert task is not None
        promoting, control = await promoter(triton, events, at(step, lambda: task.cancel() and None))
        try:
            await promoting.promote(2)
        finally:
            await control.aclose()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())
    assert loaded(triton.grpc_url) == [1]
    assert config(triton) == before
    assert nothing_is_left_of_a_trial(triton)
    assert ModelRepository(triton.repository, MODEL).rollout() == noted
