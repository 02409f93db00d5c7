"""The house's own rules: who may import whom, and how long a module may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schemas", "stream", "training", "triton_models")
MAX_LINES = 400

FORBIDDEN = {
    "schemas": {"stream", "training", "triton_models"},
    "stream": {"training", "triton_models"},
    "training": {"stream"},
    "triton_models": {"schemas", "stream", "training"},
}
EXCEPTIONS = {
    # It asks only where the package lies: the demo gives the folder to Triton.
    ("stream/demo/command.py", "triton_models"),
}
SCHEMAS_MAY_USE = {"pydantic", "pydantic_core", "schemas"}
GENERATORS_MAY_USE = {"yaml"}
GENERATORS = {"schemas/asyncapi.py", "schemas/publish.py"}


def modules(*folders: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(module: str) -> Iterator[str]:
    """The full name of everything that `module` imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < len(Path(module).parts), f"{module} imports from above its room"
            if node.level == 0:
                yield node.module or ""


def rooms_used(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(module)}


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_imports_to_the_left_of_itself(room: str) -> None:
    wrong = [
        (module, other)
        for module in modules(room)
        for other in rooms_used(module) & FORBIDDEN[room]
        if (module, other) not in EXCEPTIONS
    ]
    assert wrong == []


def test_every_exception_is_still_needed_and_takes_no_code() -> None:
    for module, other in EXCEPTIONS:
        assert [name for name in imported(module) if name.partition(".")[0] == other] == [other]


def test_contracts_need_pydantic_and_nothing_else() -> None:
    wrong = {
        (module, package)
        for module in modules("schemas")
        for package in rooms_used(module) - SCHEMAS_MAY_USE - sys.stdlib_module_names
        if not (module in GENERATORS and package in GENERATORS_MAY_USE)
    }
    assert wrong == set()


def test_the_generators_are_imported_by_no_contract() -> None:
    names = {module.removesuffix(".py").replace("/", ".") for module in GENERATORS}
    users = {module for module in modules("schemas", "stream") if names & set(imported(module))}
    assert users <= GENERATORS | {"schemas/compat.py"}


def test_the_product_never_imports_its_tests() -> None:
    assert [module for module in modules(*ROOMS) if "tests" in rooms_used(module)] == []


def test_no_module_is_longer_than_a_stranger_can_read() -> None:
    long = {
        module: len((ROOT / module).read_text(encoding="utf-8").splitlines()) for module in modules(*ROOMS, "tests")
    }
    assert {module: lines for module, lines in long.items() if lines > MAX_LINES} == {}


def test_every_module_postpones_its_annotations() -> None:
    without = [
        module
        for module in modules("schemas", "stream", "training")
        if (text := (ROOT / module).read_text(encoding="utf-8")).strip()
        and "from __future__ import annotations" not in text
        and len(ast.parse(text).body) > 1
    ]
    assert without == []


def test_nothing_points_outside_the_clone() -> None:
    outside = "/" + "work" + "/"
    assert [
        module for module in modules(*ROOMS, "tests") if outside in (ROOT / module).read_text(encoding="utf-8")
    ] == []
