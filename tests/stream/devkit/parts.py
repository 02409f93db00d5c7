"""What the development kit's own tests share: an echo model, and a look at what a process has left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import tritonclient.grpc as triton

from stream.devkit.triton import SHARED_MEMORY

ECHO = "echo"

_CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "ECHO" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

_MODEL = """
import ssl  # fails when the stub has taken another libpython than its interpreter's

import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb.InferenceResponse([pb.Tensor("ECHO", pb.get_input_tensor_by_name(request, "TEXT").as_numpy())])
            for request in requests
        ]
"""


def write_echo_model(repository: Path, source: str = _MODEL) -> Path:
    """A model repository with one model that answers a BYTES tensor with itself."""
    version = repository / ECHO / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(source, encoding="utf-8")
    (repository / ECHO / "config.pbtxt").write_text(_CONFIG, encoding="utf-8")
    return repository


def ask_echo(url: str, text: str = "ping") -> str:
    """One inference with a deadline of a second."""
    with triton.InferenceServerClient(url) as client:
        tensor = triton.InferInput("TEXT", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
        answer = client.infer(ECHO, [tensor], client_timeout=1.0)
        return str(answer.as_numpy("ECHO")[0].decode())


def echo_answers(url: str) -> bool:
    return ask_echo(url) == "ping"


def alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stopped(pid: int) -> bool:
    """Whether SIGSTOP holds the process."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def kill_guardian_of(pid: int) -> None:
    psutil.Process(psutil.Process(pid).ppid()).kill()


def processes_about(marker: object) -> list[str]:
    """Living processes, other than this one, whose command line or environment mentions `marker`; as text for a message."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.pid == psutil.Process().pid or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(str(marker) in word for word in (*process.cmdline(), *process.environ().values())):
                found.append(f"{process.pid}: {process.cmdline()}")
        except psutil.Error:
            continue
    return found


def shared_memory(prefix: str) -> list[Path]:
    return sorted(SHARED_MEMORY.glob(f"{prefix}*"))


def eventually(condition: Callable[[], bool], timeout: float = 15.0) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= deadline:
            return False
        pause.wait(0.02)
    return True


class Script:
    """A Python program in a process of its own, which prints one line per step."""

    def __init__(self, source: str, *arguments: object) -> None:
        command = [sys.executable, "-c", source, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line(self) -> str:
        """The next line; fails, with the program's complaint, when it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end()[1]
        return line.strip()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 60.0) -> tuple[int, str]:
        """Waits for the end; the status and what was written to standard error."""
        _, complaint = self.process.communicate(timeout=timeout)
        return self.process.returncode, complaint
