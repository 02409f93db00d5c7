"""The model repository on disk: which versions a model's `config.pbtxt` names, and a second name for a version on trial.

What is said to a running Triton is forgotten when it restarts; what stands here is not.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from stream.operator.models.errors import ModelRepositoryError

CONFIG = "config.pbtxt"
TRIAL_SUFFIX = "_candidate"

_TOKEN = re.compile(r"""\#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}\[\]<>]|[\w.+-]+|\s+|.""", re.DOTALL)
_OPEN, _CLOSE = "{[<", "}]>"


@dataclass(frozen=True, slots=True)
class Rollout:
    """The last switch of a model: what serves since, and what served before."""

    serving: int
    previous: int


class ModelRepository:
    """The folder that Triton was given, as seen from here, and one model in it.

    Triton loads a version anew when anything in the model's folder has another time of change than at its last load. So nothing but
    `config.pbtxt` is ever changed there: it is put in place whole, and all else lies beside the folder.

    Raises `ModelRepositoryError` for what cannot be read or written, with what to do.
    """

    def __init__(self, root: Path, model: str) -> None:
        self.root = root
        self.model = model
        self._folder = root / model
        self._config = self._folder / CONFIG
        self._rollout = root / f"{model}.rollout.json"
        if not self._config.is_file():
            raise ModelRepositoryError(f"{root} is no model repository with a {model}: it has no {model}/{CONFIG}")

    @property
    def trial(self) -> str:
        """The second name, under which a version is tried."""
        return self.model + TRIAL_SUFFIX

    def versions(self) -> list[int]:
        """The versions that lie in the folder."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def require(self, version: int) -> None:
        """Raises unless the folder holds this version."""
        if version not in self.versions():
            held = ", ".join(map(str, self.versions())) or "none"
            raise ModelRepositoryError(f"there is no version {version} in {self._folder} (it has {held})")

    def config(self) -> str:
        """The text of `config.pbtxt`."""
        try:
            return self._config.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelRepositoryError(f"cannot read {self._config}: {error.strerror}") from error

    def write_config(self, text: str) -> None:
        """Puts `text` in place of `config.pbtxt`, whole or not at all."""
        self._replace(self._config, text)

    def write_policy(self, versions: Sequence[int]) -> None:
        """From the next load on, the model is these versions and no others. Comments stay."""
        self.write_config(with_versions(self.config(), versions))

    def stage(self, version: int) -> None:
        """Gives `version` the second name: a folder of links to it, and a configuration under that name.

        What lies beside the versions (a package that `model.py` imports) is linked too.
        """
        self.unstage()
        folder = self.root / self.trial
        try:
            folder.mkdir()
            for path in self._folder.iterdir():
                if path.name != CONFIG and (not path.name.isdecimal() or path.name == str(version)):
                    (folder / path.name).symlink_to(Path("..") / self.model / path.name)
            (folder / CONFIG).write_text(
                with_name(with_versions(self.config(), [version]), self.trial), encoding="utf-8"
            )
        except OSError as error:
            raise ModelRepositoryError(f"cannot write {folder}: {error.strerror}") from error

    def trial_config(self) -> str | None:
        """The configuration under the second name, if it is given."""
        path = self.root / self.trial / CONFIG
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def unstage(self) -> None:
        """Takes the second name away. What it linked to stays."""
        folder = self.root / self.trial
        if not folder.exists():
            return
        if any(path.name.isdecimal() and not path.is_symlink() for path in folder.iterdir()):
            raise ModelRepositoryError(f"{folder} is a model of its own, so its name cannot be used for a trial")
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ModelRepositoryError(f"cannot remove {folder}: {error.strerror}") from error

    def rollout(self) -> Rollout | None:
        """The last switch that was noted, if any."""
        try:
            found = json.loads(self._rollout.read_text(encoding="utf-8"))
            return Rollout(int(found["serving"]), int(found["previous"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelRepositoryError(f"{self._rollout} is not readable: name the version yourself") from error

    def note_rollout(self, rollout: Rollout) -> None:
        """Remembers a switch, for `model rollback`."""
        self._replace(self._rollout, json.dumps({"serving": rollout.serving, "previous": rollout.previous}) + "\n")

    def forget_rollout(self) -> None:
        """There was no switch."""
        self._rollout.unlink(missing_ok=True)

    def _replace(self, target: Path, text: str) -> None:
        # Beside the model's folder: a file that came and went inside would change the folder's time.
        draft = self.root / f".{self.model}.{target.name}.draft"
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise ModelRepositoryError(f"cannot write {target}: {error.strerror}") from error


def with_versions(config: str, versions: Sequence[int]) -> str:
    """`config` with `version_policy` naming exactly these; everything else, comments too, as it was."""
    kept = _without(config, "version_policy").rstrip("\n")
    listed = ", ".join(map(str, versions))
    return _checked(f"{kept}\nversion_policy {{ specific {{ versions: [ {listed} ] }} }}\n")


def with_name(config: str, name: str) -> str:
    """`config` under another name."""
    return _checked(f'name: "{name}"\n{_without(config, "name")}')


def _checked(config: str) -> str:
    try:
        text_format.Parse(config, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ModelRepositoryError(f"{CONFIG} is not a model configuration: {error}") from error
    return config


def _without(config: str, field: str) -> str:
    """The text without this top-level field and its value, whichever way it is written."""
    kept: list[str] = []
    tokens = list(_TOKEN.findall(config))
    at = depth = 0
    while at < len(tokens):
        token = tokens[at]
        if depth == 0 and token == field:
            at = _value_end(tokens, at + 1)
            continue
        depth += (token in _OPEN) - (token in _CLOSE)
        kept.append(token)
        at += 1
    return "".join(kept)


def _value_end(tokens: Sequence[str], at: int) -> int:
    """Behind the value that begins at or after `at`, and the separator that may follow it."""
    for index in _solid(tokens, at):
        if tokens[index] == ":":
            continue
        if tokens[index] not in _OPEN:
            end = index + 1
            break
        depth = 0
        for inner in range(index, len(tokens)):
            depth += (tokens[inner] in _OPEN) - (tokens[inner] in _CLOSE)
            if depth == 0:
                break
        end = inner + 1
        break
    else:
        return len(tokens)
    following = next(_solid(tokens, end), None)
    return following + 1 if following is not None and tokens[following] in ",;" else end


def _solid(tokens: Sequence[str], at: int) -> Iterator[int]:
    return (index for index in range(at, len(tokens)) if not tokens[index].isspace() and tokens[index][0] != "#")
