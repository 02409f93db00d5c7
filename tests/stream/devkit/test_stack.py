"""Kafka and Triton together: whatever ends the block, nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from stream.devkit.process import ChildDiedError, StartCancelledError
from stream.devkit.signals import held, terminate_as_exit
from stream.devkit.stack import DevStack, start_together
from stream.errors import DevkitError
from tests.stream.devkit.parts import (
    ECHO,
    Script,
    ask_echo,
    echo_answers,
    eventually,
    processes_about,
    shared_memory,
    write_echo_model,
)
from tests.stream.devkit.test_kafka import read, write
from tests.support.services import fresh_topics

STACK = """
import sys, threading
from pathlib import Path
from stream.devkit.stack import DevStack
from tests.stream.devkit.parts import ECHO, echo_answers

folder, models, environment, when = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]

def never(url):
    if echo_answers(url):
        print("half-way", stack.triton.shm_prefix, flush=True)
    return False

ready = echo_answers if when == "started" else never
stack = DevStack(folder, repository=models, environment=environment, models=[ECHO], ready=ready)
with stack:
    print("started", stack.triton.shm_prefix, flush=True)
    while not threading.Event().wait(0.2):  # a signal that another thread took does not end a long wait
        pass
"""


def nothing_left_of(folder: Path) -> bool:
    return not processes_about(folder) and not folder.exists()


def test_everything_answers_inside_and_nothing_is_left_outside(tmp_path: Path, triton_env: Path) -> None:
    order: list[str] = []
    models = write_echo_model(tmp_path / "models")
    with DevStack(None, repository=models, environment=triton_env, models=[ECHO], ready=echo_answers) as everything:
        folder, prefix, port = everything.folder, everything.triton.shm_prefix, everything.triton.grpc_port
        topic = fresh_topics(everything.kafka, "events")["events"]
        write(everything.kafka, topic, everything.store.put("a.txt", b"a").encode())
        assert read(everything.kafka, topic, 1) == [b"media://demo/a.txt"]
        assert ask_echo(everything.triton.grpc_url, "hello") == "hello"
        everything.callback(lambda: order.append(f"last, while Triton answers: {echo_answers(f'127.0.0.1:{port}')}"))
    assert order == ["last, while Triton answers: True"]
    assert nothing_left_of(folder)
    assert not shared_memory(prefix)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("when", "number", "status"),
    [
        ("half-way", signal.SIGINT, -signal.SIGINT),
        ("half-way", signal.SIGTERM, 143),
        ("started", signal.SIGINT, -signal.SIGINT),
        ("started", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_in_the_middle_of_the_start_or_later_leaves_nothing(
    tmp_path: Path, triton_env: Path, when: str, number: signal.Signals, status: int
) -> None:
    folder = tmp_path / "stack"
    program = Script(STACK, folder, write_echo_model(tmp_path / "models"), triton_env, when)
    reached, prefix = program.line().split()
    assert reached == when
    assert processes_about(folder)
    assert shared_memory(prefix)
    program.signal(number)
    assert program.end()[0] == status
    assert eventually(lambda: nothing_left_of(folder)), processes_about(folder)
    assert not shared_memory(prefix)


@pytest.mark.parametrize("keep", [False, True])
def test_one_server_that_dies_ends_the_start_of_the_other_and_only_logs_may_be_kept(
    tmp_path: Path, triton_env: Path, keep: bool
) -> None:
    models = write_echo_model(tmp_path / "models", "raise RuntimeError('the weights have no manifest')")
    folder = tmp_path / "stack"
    broken = DevStack(folder, repository=models, environment=triton_env, models=[ECHO], ready=echo_answers, keep=keep)
    with pytest.raises(ChildDiedError, match="the weights have no manifest"):
        broken.start()
    assert not processes_about(folder)
    assert (folder / "triton" / "triton.log").exists() == keep
    assert folder.exists() == keep


def test_a_folder_that_holds_something_is_refused_because_it_would_be_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DevkitError, match="not an empty folder"):
        DevStack(tmp_path, repository=tmp_path, environment=tmp_path, models=[], ready=echo_answers)
    assert (tmp_path / "thesis.txt").exists()


class Failing:
    def start(self, cancelled: threading.Event | None = None) -> None:
        raise DevkitError("no Java")

    def stop(self) -> None: ...


class Patient:
    """Starts for ever, unless it is told to give up."""

    stopped = False

    def start(self, cancelled: threading.Event | None = None) -> None:
        assert cancelled is not None
        assert cancelled.wait(30)
        raise StartCancelledError("given up")

    def stop(self) -> None:
        self.stopped = True


def test_one_part_that_fails_ends_the_start_of_the_others_and_its_reason_is_told() -> None:
    patient = Patient()
    with pytest.raises(DevkitError, match="no Java"), ExitStack() as exits:
        start_together([("patient", patient), ("failing", Failing())], exits)
    assert patient.stopped


def test_a_second_interrupt_waits_until_the_release_is_done() -> None:
    released = False

    def release() -> None:
        nonlocal released
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            released = True

    with pytest.raises(KeyboardInterrupt):
        release()
    assert released


def test_sigterm_unwinds_the_stack_inside_and_is_itself_again_outside() -> None:
    with pytest.raises(SystemExit) as left, terminate_as_exit():
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
