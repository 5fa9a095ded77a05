"""Where models come from, and how text becomes tokens. Importing this loads no tensor library."""

from hogwild.models.checkpoint import Checkpoint, Weights
from hogwild.models.source import ALIASES, BUNDLED, find_checkpoint
from hogwild.models.tokenizer import Tokenizer

__all__ = ["ALIASES", "BUNDLED", "Checkpoint", "Tokenizer", "Weights", "find_checkpoint"]
