"""What a pass of the engine costs on the host, without a model: many sessions that are decoded together.

    python -m bench.host --sessions 1 8 32 --workers 2

All of it is timed: rows, checks, planning, the work list of the GPU kernels, and what becomes of the tokens, text and
events included. In the place of the model stands a text that every worker recites, each from another place on, so
that steps end and are published as in a real run. Prints milliseconds per pass (the median), and microseconds for each
session, of which `work list` is a part.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from hogwild.backends.base import BackendInfo, ForwardResult, LayerSpec, ModelSpec
from hogwild.core.options import SessionOptions
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import NO_ROTARY
from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.core.work import cut_work
from hogwild.engine import Engine
from hogwild.model import Model, load

TEXT = "".join(f"Part {i} of it is a sentence that goes on for a while until it ends here.\n\n" for i in range(50))
WARM_UP = 60  # passes


class Reciter:
    """A backend that computes nothing: row r of a pass says what stands 17 r tokens on in the text."""

    pool_owner = None
    info = BackendInfo("recited", "none", "none", "none")

    def __init__(self, token_ids: Sequence[int], vocab_size: int) -> None:
        self._token_ids, self._num_passes = np.array(token_ids), 0
        layer = LayerSpec(NO_ROTARY, 1, 1, 1)
        self.spec = ModelSpec("recited", 1, 1, 1, vocab_size, 1 << 20, 0, 8, (layer,), 0, 0)
        self.seconds = 0.0  # that work lists have taken

    def reserve(self, num_slots: int) -> None: ...

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        """Cut the plan as for a GPU of 132 processors."""
        start = time.perf_counter()
        cut_work(plan, tile=64, query_tile=16, num_items=132)
        self.seconds += time.perf_counter() - start
        return ForwardResult(logits=len(plan.logit_tokens))

    def sample(self, logits: int, requests: Sequence[SampleRequest]) -> SampleResult:
        self._num_passes += 1
        places = (self._num_passes + 17 * np.arange(logits)) % len(self._token_ids)
        return SampleResult(self._token_ids[places], np.ones(logits, dtype=np.bool_))

    def close(self) -> None: ...


def measure(num_sessions: int, num_workers: int, num_passes: int) -> tuple[float, float]:
    """Seconds of a pass, and of its work list."""
    bundled = load("bundled", backend="reference")
    tokenizer = bundled.tokenizer
    backend = Reciter(tokenizer.encode(TEXT), bundled.spec.vocab_size)
    bundled.close()
    engine = Engine(Model("recited", backend, tokenizer, {}), cache_tokens=1 << 16)  # type: ignore[arg-type]
    most = num_passes + WARM_UP + 1
    for _ in range(num_sessions):
        engine.submit("Name a thing.", SessionOptions(num_workers=num_workers, max_passes=most), style="pair")
    for _ in range(WARM_UP):
        engine.step()
    backend.seconds, passes = 0.0, []
    for _ in range(num_passes):
        start = time.perf_counter()
        engine.step()
        passes.append(time.perf_counter() - start)
    return statistics.median(passes), backend.seconds / num_passes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--passes", type=int, default=200)
    arguments = parser.parse_args()
    print(f"{'sessions':>8} {'ms a pass':>10} {'us a session':>13} {'work list':>10}")
    for count in arguments.sessions:
        seconds, cutting = measure(count, arguments.workers, arguments.passes)
        print(f"{count:8} {seconds * 1e3:10.2f} {seconds / count * 1e6:13.0f} {cutting / count * 1e6:10.0f}")


if __name__ == "__main__":
    main()
