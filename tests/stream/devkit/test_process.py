"""A child never outlives its parent, and nobody waits for a child that is dead."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from stream.devkit.process import ChildDiedError, ChildProcess, StartCancelledError, free_port, free_ports
from stream.errors import DevkitError
from tests.stream.devkit.parts import Script, alive, eventually, kill_guardian_of, processes_about, stopped

FOREVER = "import threading; threading.Event().wait()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + FOREVER
WITH_GRANDCHILD = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}, sys.argv[1]]);"
    f" print('both', flush=True); {FOREVER}"
)

PARENT = """
import sys, threading
from pathlib import Path
from stream.devkit.process import ChildProcess

folder, source = Path(sys.argv[1]), sys.argv[2]
child = ChildProcess(
    [sys.executable, "-c", source, str(folder)], name="child", log=folder / "log",
    discard=[(folder / "shared", "left_*")], discard_if_orphaned=[folder / "data"],
)
starter = threading.Thread(target=child.start)  # a thread that is over by the time the test looks
starter.start()
starter.join()
child.wait_until(lambda: "both" in child.log_tail(), 20)
print(child.pid, flush=True)
threading.Event().wait()
"""


def python(source: str, folder: Path, *arguments: str) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", source, *arguments], name="the test's child", log=folder / "child.log")


def has_line(child: ChildProcess, text: str) -> None:
    child.wait_until(lambda: text in child.log_tail(), 20)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_ended_leaves_no_child_no_shared_memory_and_no_folder(
    tmp_path: Path, number: signal.Signals
) -> None:
    for left in ("shared/left_1", "shared/kept", "data/segment"):
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).write_text("x", encoding="utf-8")
    parent = Script(PARENT, tmp_path, WITH_GRANDCHILD)
    pid = int(parent.line())
    assert alive(pid)
    parent.signal(number)
    parent.end()
    assert eventually(lambda: not processes_about(tmp_path)), processes_about(tmp_path)
    assert eventually(lambda: not (tmp_path / "data").exists())
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["kept"]


def test_a_child_started_in_a_thread_outlives_that_thread(tmp_path: Path) -> None:
    child = python(FOREVER, tmp_path)
    starter = threading.Thread(target=child.start)
    starter.start()
    starter.join()
    child.pause()
    assert eventually(lambda: stopped(child.pid))
    child.stop()


def test_a_killed_guardian_takes_its_child_with_it(tmp_path: Path) -> None:
    child = python(FOREVER, tmp_path)
    child.start()
    kill_guardian_of(child.pid)
    assert eventually(lambda: not alive(child.pid))
    assert not child.running
    assert child.returncode == -signal.SIGKILL


def test_a_child_that_dies_during_its_start_is_reported_at_once_with_the_end_of_its_log(tmp_path: Path) -> None:
    started = time.monotonic()
    with python("import sys; sys.exit('no such policy')", tmp_path) as child:
        with pytest.raises(ChildDiedError, match="no such policy") as caught:
            child.wait_until(lambda: False, 60)
        assert caught.value.returncode == 1
        assert caught.value.name == "the test's child"
    assert time.monotonic() - started < 10


def test_a_child_that_is_never_ready_is_reported_with_the_last_reason(tmp_path: Path) -> None:
    def refuse() -> bool:
        raise ConnectionRefusedError("nobody listens")

    with python(FOREVER, tmp_path) as child, pytest.raises(DevkitError, match="nobody listens"):
        child.wait_until(refuse, 0.2)


def test_a_cancelled_wait_ends_at_once(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with python(FOREVER, tmp_path) as child, pytest.raises(StartCancelledError):
        child.wait_until(lambda: False, 60, cancelled=cancelled)


def test_a_command_that_does_not_exist_is_an_error_and_not_a_child(tmp_path: Path) -> None:
    child = ChildProcess([tmp_path / "absent"], name="absent", log=tmp_path / "log")
    with pytest.raises(DevkitError, match="absent"):
        child.start()
    assert not child.running


def test_a_deaf_child_is_killed_with_its_grandchildren(tmp_path: Path) -> None:
    child = python(DEAF, tmp_path)
    child.start()
    has_line(child, "deaf")
    child.stop(0.2)
    assert child.returncode == -signal.SIGKILL

    child = python(WITH_GRANDCHILD, tmp_path, str(tmp_path))
    child.start()
    has_line(child, "both")
    assert len(processes_about(tmp_path)) >= 2
    child.kill()
    assert not processes_about(tmp_path)


def test_stopping_twice_or_never_having_started_is_no_error(tmp_path: Path) -> None:
    child = python(FOREVER, tmp_path)
    child.stop()
    child.kill()
    child.start()
    child.stop()
    child.stop()
    assert child.returncode == -signal.SIGTERM
    child.start()
    assert child.running
    child.stop()


def test_a_paused_child_can_be_resumed_and_stopped(tmp_path: Path) -> None:
    with python(FOREVER, tmp_path) as child:
        child.pause()
        assert eventually(lambda: stopped(child.pid))
        child.resume()
        assert eventually(lambda: not stopped(child.pid))
        child.pause()
        child.stop()
    assert child.returncode == -signal.SIGTERM


def test_a_child_that_ends_by_itself_tells_its_status(tmp_path: Path) -> None:
    with python("raise SystemExit(7)", tmp_path) as child:
        assert child.wait(30) == 7


def test_free_ports_differ_can_be_bound_and_are_never_a_clients_source_port() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    floor = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    for port in [*ports, free_port()]:
        assert port < floor
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", port))


def test_the_child_sees_only_the_environment_that_it_was_given(tmp_path: Path) -> None:
    show = "import os; print('ONLY=' + os.environ.get('ONLY', '-'), 'HOME' in os.environ, flush=True)"
    environment = {"ONLY": "this", "PATH": os.environ["PATH"]}
    child = ChildProcess([sys.executable, "-c", show], name="show", log=tmp_path / "log", environment=environment)
    with child:
        child.wait(30)
    assert child.log_tail() == "ONLY=this False"
