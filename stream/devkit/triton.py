"""A real `tritonserver` on this machine: the binary of the nvidia-pytriton wheel, Python backend, CPU, loopback only."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from stream.devkit.process import ChildProcess, free_ports
from stream.errors import DevkitError

ENVIRONMENT_VARIABLE = "PROGUARD_TRITON_ENV"
START_SECONDS = 120.0
STOP_SECONDS = 8.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps its regions, not a file of ours

Ready = Callable[[str], bool]
"""Given the server's gRPC address, tells whether it answered a real inference. An exception means "not yet".

Health, ready and model-ready all answer 200 while the Python process behind a model is dead: only an answer proves anything.
It should give up by itself within a second or two."""


def triton_environment(root: Path, name: str = ".venv-triton") -> Path:
    """The environment that holds `tritonserver`: `$PROGUARD_TRITON_ENV`, or the folder `name` in the repository at `root`.

    Raises DevkitError, with the command that builds it, when there is none.
    """
    configured = os.environ.get(ENVIRONMENT_VARIABLE)
    folder = Path(configured).expanduser() if configured else root / name
    if not (folder / "bin" / "python").exists():
        raise DevkitError(
            f"there is no Triton environment at {folder}: build it with `make {name}/ready`"
            f" or point {ENVIRONMENT_VARIABLE} at one"
        )
    return folder.absolute()


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the parts of a Triton environment are."""

    version: str
    """The interpreter's, such as 3.11: the Python backend has one stub for each."""
    libraries: Path
    """The interpreter's own lib folder. Without it in LD_LIBRARY_PATH the stub takes the system's libpython, and `import ssl` fails."""
    server: Path

    @property
    def binary(self) -> Path:
        return self.server / "bin" / "tritonserver"

    @property
    def backend_files(self) -> tuple[Path, Path, Path]:
        backend = self.server / "backends" / "python"
        stub = self.server / "python_backend_stubs" / self.version / "triton_python_backend_stub"
        return backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", stub


_ASK = """
import json, sys, sysconfig
print(json.dumps([".".join(map(str, sys.version_info[:2])), sysconfig.get_config_var("LIBDIR"), sysconfig.get_path("purelib")]))
"""


@functools.cache
def installation(environment: Path) -> Installation:
    """Looks into an environment. Raises DevkitError when it has no `tritonserver` for its own Python."""
    python = environment / "bin" / "python"
    try:
        answer = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DevkitError(f"the Python of the Triton environment {environment} does not run: {error}") from error
    version, libraries, packages = json.loads(answer.stdout)
    found = Installation(version, Path(libraries), Path(packages) / "pytriton" / "tritonserver")
    for needed in (found.binary, *found.backend_files):
        if not needed.exists():
            raise DevkitError(
                f"the Triton environment {environment} (Python {version}) has no {needed.name}:"
                " it needs the nvidia-pytriton wheel and Python 3.11 or 3.12; rebuild it with `make .venv-triton/ready`"
            )
    return found


class TritonServer:
    """One server that loads `models` from `repository`, ready when `ready(grpc_url)` says so.

    `environment` is a virtual environment with nvidia-pytriton and numpy < 2 (see `triton_environment`); `folder` takes the log
    (`triton.log`) and the backend's files; `variables` are added to the server's environment. Ports stay the same from one start to the next. After `stop` and `kill` no process and
    no shared memory region of this server is left.
    """

    def __init__(
        self,
        repository: Path,
        environment: Path,
        folder: Path,
        *,
        models: Sequence[str],
        ready: Ready,
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        start_timeout: float = START_SECONDS,
        variables: Mapping[str, str] = MappingProxyType({}),
        discard_if_orphaned: Sequence[Path] = (),
    ) -> None:
        self.repository = repository.absolute()
        self.environment = environment.absolute()
        self.folder = folder.absolute()
        self.models = tuple(models)
        self._ready = ready
        ports = free_ports(3)
        self.grpc_port = grpc_port or ports[0]
        self.http_port = http_port or ports[1]
        self.metrics_port = metrics_port or ports[2]
        self._start_timeout = start_timeout
        self._own_variables = dict(variables)
        self.shm_prefix = f"proguard_{uuid.uuid4().hex[:12]}_"
        self._discard_if_orphaned = discard_if_orphaned
        self._child: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        """`host:port`, as tritonclient wants it."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def pid(self) -> int:
        return self._running_child().pid

    def start(self, cancelled: threading.Event | None = None) -> None:
        """Blocks until a real inference was answered. Raises DevkitError (`ChildDiedError` with the end of the log); then nothing runs."""
        found = installation(self.environment)
        self._child = ChildProcess(
            self._command(found),
            name="Triton",
            log=self.folder / "triton.log",
            environment=self._variables(found),
            folder=self._lay_out(found),
            discard=[(SHARED_MEMORY, f"{self.shm_prefix}*")],
            discard_if_orphaned=self._discard_if_orphaned,
        )
        try:
            self._child.start()
            self._child.wait_until(lambda: self._ready(self.grpc_url), self._start_timeout, cancelled=cancelled)
        except BaseException:
            self._child.kill()
            raise

    def stop(self) -> None:
        """An orderly shutdown, then SIGKILL: a server whose Python process has died ignores every polite signal."""
        if self._child is not None:
            self._child.stop(STOP_SECONDS)

    def kill(self) -> None:
        """What `kill -9` does to the server and the Python processes of its models."""
        self._running_child().kill()

    def pause(self) -> None:
        """The server keeps its connections and answers nobody until `resume`."""
        self._running_child().pause()

    def resume(self) -> None:
        self._running_child().resume()

    def restart(self) -> None:
        """`stop`, then `start` on the same ports."""
        self.stop()
        self.start()

    def _running_child(self) -> ChildProcess:
        if self._child is None:
            raise DevkitError("Triton was not started")
        return self._child

    def _lay_out(self, found: Installation) -> Path:
        """The Python backend as symlinks: a copied stub would not find its own libraries (its RPATH is relative)."""
        backend = self.folder / "backends" / "python"
        backend.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        for source in found.backend_files:
            link = backend / source.name
            link.unlink(missing_ok=True)
            link.symlink_to(source)
        return self.folder

    def _variables(self, found: Installation) -> dict[str, str]:
        # The stub's interpreter is the first `python3` on the PATH. PYTHONPATH and PYTHONHOME of this process are not its.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return (
            variables
            | self._own_variables
            | {
                "PATH": f"{self.environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "LD_LIBRARY_PATH": str(found.libraries),
                "TMPDIR": str(self.folder / "tmp"),
            }
        )

    def _command(self, found: Installation) -> list[str | Path]:
        backend = "--backend-config=python"
        return [
            found.binary,
            f"--model-repository={self.repository}",
            f"--backend-directory={self.folder / 'backends'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.models),
            "--disable-auto-complete-config",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}",
            "--http-address=127.0.0.1",
            f"--http-port={self.http_port}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            f"{backend},shm-region-prefix-name={self.shm_prefix}",
            f"{backend},shm-default-byte-size=4194304",
            f"{backend},stub-timeout-seconds=60",
            "--exit-timeout-secs=5",
        ]
