"""Shows how large the attack suites are at the end of a run that included them."""

from __future__ import annotations

import pytest

from tests.attacks.sizes import SUITES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = ", ".join(f"{suite.name} {suite.cases}" for suite in SUITES)
    terminalreporter.write_line(f"attack suites: {counts}")
