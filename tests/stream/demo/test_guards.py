"""Which guard the demo runs, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.demo.guards import MANIFEST, GuardName, choose_guard
from stream.errors import ConfigurationError, DevkitError


def nowhere() -> Path:
    raise AssertionError("nothing was to be made")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose environments look built."""
    for name in (".venv-triton", ".venv-proguard"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
        python.chmod(0o755)
    return tmp_path


def test_the_embedded_guard_needs_no_checkpoint_and_takes_none(root: Path) -> None:
    chosen = choose_guard(GuardName.LITE, None, root, nowhere)
    assert (chosen.environment, chosen.variables, chosen.meaningless) == (root / ".venv-triton", {}, False)
    with pytest.raises(ConfigurationError, match="--guard proguard"):
        choose_guard(GuardName.LITE, root, root, nowhere)


def test_a_sealed_checkpoint_is_served_as_it_is(root: Path) -> None:
    checkpoint = root / "checkpoint"
    checkpoint.mkdir()
    with pytest.raises(ConfigurationError, match=r"not sealed yet \(python -m triton_models.proguard.seal"):
        choose_guard(GuardName.PROGUARD, checkpoint, root, nowhere)
    (checkpoint / MANIFEST).write_text("{}")
    chosen = choose_guard(GuardName.PROGUARD, checkpoint, root, nowhere)
    assert chosen.environment == root / ".venv-proguard"
    assert chosen.variables == {"PROGUARD_MODEL_CHECKPOINT": str(checkpoint)}
    assert not chosen.meaningless


def test_a_tiny_checkpoint_that_cannot_be_made_says_why(root: Path) -> None:
    with pytest.raises(DevkitError, match="no torch here"):
        choose_guard(GuardName.PROGUARD, None, root, lambda: root)


def test_a_missing_environment_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(DevkitError, match=r"make \.venv-proguard/ready"):
        choose_guard(GuardName.PROGUARD, None, tmp_path, nowhere)
