"""Models on the Hugging Face hub: only the files that are needed, never code or pickles."""

from __future__ import annotations

from pathlib import Path

from hogwild.errors import ModelNotFound

NEEDED = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "*.safetensors",
    "model.safetensors.index.json",
]
# Second copies of the weights that some repositories carry.
UNNEEDED = ["original/*", "consolidated*.safetensors", "*/*"]


def download(repo: str, revision: str | None, *, offline: bool | None = None) -> Path:
    """The local folder of a repository, fetched if it is not there. Raises `ModelNotFound` with the reason."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local_only = HF_HUB_OFFLINE if offline is None else offline
    shown = repo if revision is None else f"{repo}@{revision}"
    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=NEEDED, ignore_patterns=UNNEEDED, local_files_only=local_only
        )
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{shown} is gated: its owner must let you in", remedy=f"ask at huggingface.co/{repo}, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{repo} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"no model {shown} on the hub", remedy="check the spelling; a private one needs `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "offline was asked for" if local_only else "the hub cannot be reached"
        raise ModelNotFound(
            f"{shown} was not downloaded before, and {reason}",
            remedy="connect to the network once, or give a folder or a .gguf file",
        ) from error
    except (HFValidationError, ValueError, OSError) as error:
        raise ModelNotFound(
            f"{shown} cannot be fetched from the hub", got=f"{type(error).__name__}: {error}"[:300]
        ) from error
    return Path(folder)
