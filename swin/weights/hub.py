"""Weights by name from the Hugging Face hub, or from what its own cache on this machine holds."""

import re
from itertools import product
from pathlib import Path

from swin.errors import CheckpointError, ConfigError

# hf-hub:OWNER/NAME[@REVISION][:FILE], as timm writes it; timm's own models go without the prefix as well.
_HUB_NAME = re.compile(
    r"(?:hf[-_]hub:(?P<repo>[\w.-]+/[\w.-]+)|(?P<timm>timm/[\w.-]+))(?:@(?P<revision>[^:]+))?(?::(?P<file>.+))?"
)
_FILES = ("model.safetensors", "pytorch_model.bin")  # what a repository calls its weights, the first that is there


def is_hub_name(name: str) -> bool:
    """Whether a text names weights on the hub rather than a file."""
    return name.startswith(("hf-hub:", "hf_hub:")) or bool(_HUB_NAME.fullmatch(name) and not Path(name).exists())


def fetch(name: str) -> Path:
    """Return the local file of the weights that `name` says: the hub's cache's, and else downloaded into it.

    The hub's own variables hold: HF_HUB_CACHE for the cache's folder, HF_HUB_OFFLINE=1 to use nothing else, HF_TOKEN.

    Raises:
        ConfigError: huggingface_hub is not installed.
        CheckpointError: `name` is none, or its file is neither on the hub nor in the cache, or cannot be reached.
    """
    if (match := _HUB_NAME.fullmatch(name)) is None:
        raise CheckpointError(f"{name} is no name of weights: expected hf-hub:OWNER/NAME[@REVISION][:FILE].")
    repo, files = match["repo"] or match["timm"], (match["file"],) if match["file"] else _FILES
    by_hand = f"download {' or '.join(files)} from https://huggingface.co/{repo} and give the file: --pretrained FILE"
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise ConfigError(f'{name} needs huggingface_hub: pip install "swin-trainer[hub]", or {by_hand}.') from None
    reason = ""
    for is_local, file in product((True, False), files):  # the cache first: without a network a look-up takes minutes
        try:
            return Path(hf_hub_download(repo, file, revision=match["revision"], local_files_only=is_local))
        except Exception as error:  # networks, servers and accounts fail in ways of their own
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
            is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if not (is_local or is_absent):
                break
    raise CheckpointError(f"{name} cannot be had from the hub ({reason}). Where the hub is not reached, {by_hand}.")
