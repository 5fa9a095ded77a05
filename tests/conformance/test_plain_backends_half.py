"""The plain backends' attention on generated cases, against the exact answer: the other half of them."""

from __future__ import annotations

import pytest
from plain_checks import PARTS, check_part


@pytest.mark.parametrize("part", range(1, PARTS, 2))
def test_cases(part: int) -> None:
    check_part(part)
