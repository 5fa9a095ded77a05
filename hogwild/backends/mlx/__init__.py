"""The MLX backend: mlx-lm's models over shared blocks, on any device that MLX has."""

from hogwild.backends.mlx.backend import MlxBackend, load

__all__ = ["MlxBackend", "load"]
