"""Every attack suite has the size that was promised. The end of a test run shows the counts (`conftest`)."""

from __future__ import annotations

import pytest

from tests.attacks.sizes import SUITES, Suite
from tests.support.services import REPOSITORY_ROOT


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.name}={suite.cases}")
def test_a_suite_has_the_cases_that_were_promised(suite: Suite) -> None:
    assert suite.cases >= suite.promised
    assert (REPOSITORY_ROOT / suite.place).is_file()
