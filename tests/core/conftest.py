"""Short spans, so that the few tokens of a random history fill several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hogwild.core import listing


@pytest.fixture(scope="module")
def short_spans() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "SPAN", 4)
        yield
