"""The MLX backend: mlx-lm's models over shared blocks, on any device that MLX has."""

import os

from hogwild.backends.mlx.backend import MlxBackend, dismiss, join, load

__all__ = ["MlxBackend", "dismiss", "join", "load"]

# MLX looks at it once, at its first product on a GPU. An M5, and NVIDIA's GPUs, would round what is multiplied in
# float32 to some 11 bits, where the check at load asks for 1e-4. Who has set it is not overruled.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
