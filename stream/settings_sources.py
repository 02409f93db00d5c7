"""Where settings are read from, and what was meant for a setting and is none.

A misspelled name that is silently ignored is a trap: the worker would run with a default that nobody chose. So every name in the
file, and every `PROGUARD_` variable that looks like a setting, has to be one.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel

from stream.errors import ConfigurationError

PREFIX = "PROGUARD_"
DELIMITER = "__"
MAX_FILE_BYTES = 1024 * 1024

_CLOSE = 0.8
"""How like a setting's name a variable without `__` must be to count as a misspelling. `PROGUARD_HOME` is the Java obfuscator's."""

_SERVICE_LINK = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$"
)
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes puts `<SERVICE>_PORT=tcp://…` and its like into every pod beside a Service, and one may be called `proguard`."""

Path_ = tuple[str, ...]


def read_config(path: Path) -> dict[str, object]:
    """The mapping in a YAML or JSON file. Raises `ConfigurationError` that says what is wrong with the file."""
    try:
        if not path.is_file():
            raise ConfigurationError(f"the settings file {path} does not exist or is not a file")
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigurationError(f"the settings file {path} has more than {MAX_FILE_BYTES} bytes")
    try:
        document = yaml.safe_load(raw)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"the settings file {path} is not YAML{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"the settings file {path} is not YAML: {type(error).__name__}") from None
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise ConfigurationError(f"the settings file {path} must hold a mapping of setting groups, such as `kafka:`")
    return document


def unknown_names(data: Mapping[str, object], model: type[BaseModel], at: Path_ = ()) -> Iterator[Path_]:
    """Paths in `data` that `model` does not have, in order. What is inside a mapping or list of settings is left to its own model."""
    for name, value in data.items():
        field = model.model_fields.get(str(name))
        if field is None:
            yield (*at, str(name))
        elif isinstance(value, Mapping) and (group := _group(field.annotation)) is not None:
            yield from unknown_names(value, group, (*at, str(name)))


def unknown_variables(environment: Mapping[str, str], model: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    """Variables that were meant for a setting and are none, each with the setting it resembles most.

    Meant for one is a name with `__` behind the prefix, and one that is nearly a setting's name. Others with the prefix belong
    to somebody else, and so do the service links of Kubernetes.
    """
    paths = {variable(path): (path, kind) for path, kind in _settings(model)}
    # Compared without the prefix: what all of them share would make short names look alike.
    single = {name.removeprefix(PREFIX).replace(DELIMITER, "_"): name for name in paths}
    for raw, value in environment.items():
        name = raw.upper()
        if not name.startswith(PREFIX):
            continue
        found = paths.get(name)
        if found is not None:
            yield from _inside(name, value, found[1])
            continue
        if any(kind is None and name.startswith(f"{known}{DELIMITER}") for known, (_, kind) in paths.items()):
            continue  # an entry of a mapping, e.g. PROGUARD_KAFKA__PROPERTIES__SECURITY.PROTOCOL
        if _SERVICE_LINK.search(name) and (not name.endswith("_PORT") or _SERVICE_LINK_VALUE.match(value)):
            continue
        rest = name.removeprefix(PREFIX)
        near = difflib.get_close_matches(rest.replace(DELIMITER, "_"), single, n=1, cutoff=_CLOSE)
        if near or DELIMITER in rest:
            yield raw, single[near[0]] if near else None


def variable(path: Path_) -> str:
    """The environment variable of a setting."""
    return PREFIX + DELIMITER.join(path).upper()


def flag(path: Path_) -> str:
    """The command-line flag of a setting."""
    return "--" + ".".join(path).replace("_", "-")


def nearest(path: Path_, model: type[BaseModel]) -> str | None:
    """The dotted name of the setting that an unknown path resembles most, if any does."""
    known = {".".join(known): None for known, _ in _settings(model)}
    return next(iter(difflib.get_close_matches(".".join(path), known, n=1, cutoff=_CLOSE)), None)


def _inside(name: str, value: str, kind: type[BaseModel] | None) -> Iterator[tuple[str, str | None]]:
    """Unknown names in a variable that holds a whole group as JSON. What is not JSON is reported by the settings themselves."""
    if kind is None:
        return
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        for path in unknown_names(document, kind):
            near = nearest(path, kind)
            yield f"{name}: {'.'.join(path)}", near


def _settings(model: type[BaseModel], at: Path_ = ()) -> Iterator[tuple[Path_, type[BaseModel] | None]]:
    """Every setting and group under `model`; a group with its model."""
    for name, field in model.model_fields.items():
        path = (*at, name)
        group = _group(field.annotation)
        yield path, group
        if group is not None:
            yield from _settings(group, path)


def _group(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
