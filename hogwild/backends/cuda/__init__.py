"""transformers' models, unmodified, over shared blocks of K/V, on any torch device: by kernels or by torch operations.

Covered: decoder models that take transformers' attention interface, with any rotary layout that is a pure rotation,
grouped queries, sliding windows, sinks, soft caps and layers without rotary embedding. Everything else is refused when
the model is loaded, see `certify`.
"""

from hogwild.backends.cuda.backend import TorchBackend, dismiss, join, load

__all__ = ["TorchBackend", "dismiss", "join", "load"]
