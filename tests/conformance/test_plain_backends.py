"""The plain backends' attention on generated cases, against the exact answer: half of them.

The other half is in a file of its own, so that two processes share the work.
"""

from __future__ import annotations

import pytest
from plain_checks import PARTS, check_part


@pytest.mark.parametrize("part", range(0, PARTS, 2))
def test_cases(part: int) -> None:
    check_part(part)
