"""Reading weight files safely: no code in a file is ever run."""

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from swin.errors import CheckpointError
from swin.weights.digest import DIGEST, digest, is_digest, walk
from swin.weights.hub import fetch, is_hub_name

# The classes of the configs in training checkpoints of the official repository and of timm. They are not made, but read
# as ordered dicts: torch's safe reader fills only the dicts that it knows. What a namespace holds is left out of those.
_CONFIGS: list[Any] = [(OrderedDict, "yacs.config.CfgNode"), (OrderedDict, "argparse.Namespace")]
# What weights, masks, indices and counters have; with the others torch can do little.
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_DTYPES = _FLOATS | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
CLASSES = "classes"  # the metadata of a `.safetensors` file that has names of classes, a JSON list
_DOS_FOLDER = 0x10  # the bit of a member's attributes in the directory


# What a folder stands for, the first that is there: of a run, its best checkpoint; of a published model, its weights.
_IN_FOLDERS = ("checkpoints/best.pth", "checkpoints/last.pth", "model.safetensors", "pytorch_model.bin")


def find_weight_file(path: str | Path) -> Path:
    """Return the weight file that a run's folder, that of a published model or a name on the hub stands for.

    A file stands for itself.

    Raises:
        ConfigError, CheckpointError: the hub's file cannot be had, see `swin.weights.hub.fetch`.
    """
    path = fetch(str(path)) if is_hub_name(str(path)) else Path(path)
    return next((path / name for name in _IN_FOLDERS if (path / name).is_file()), path)


def read_weight_file(path: str | Path) -> Any:
    """What a `.safetensors` file, with the names of classes in its metadata, or one of `torch.save` holds.

    Raises:
        CheckpointError: as `read_torch_file`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    _check_is_file(path)
    try:
        content: dict[str, Any] = load_file(path, device="cpu")
        _check_structure(content, path.stat().st_size)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if CLASSES in metadata:
            content[CLASSES] = json.loads(metadata[CLASSES])
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise _damaged(path, error) from None
    return content


def read_torch_file(path: str | Path) -> Any:
    """What a file written by `torch.save` holds, with all tensors on the CPU.

    Tensors, plain containers and numbers are read, and as ordered dicts the yacs node of official training checkpoints
    and the namespace of timm's. Any other pickled object is refused, and so is what a checkpoint never has: packed
    members, tensors larger than their memory, sparse or quantised ones, values nested without end. A file with a digest
    (`swin.weights.digest`) is compared with it, others with the sums of their members; torch's older format has none.

    Tensors are views of the mapped file, so that processes share one copy. Use them at once and copy what is kept:
    a file that is replaced by another stays whole, but one that is written over in place takes the process down.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects that could run code.
    """
    path = Path(path)
    _check_is_file(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # torch decides by the same bytes
        if is_zip:
            _check_members(path)
        with torch.serialization.safe_globals(_CONFIGS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old kinds of files, which are read all the same
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        _check_structure(content, path.stat().st_size)
        stored = content.get(DIGEST) if isinstance(content, dict) else None
        if is_digest(stored) and stored != digest(content):
            raise ValueError("its digest is another than its content's")
        if is_zip and not is_digest(stored):
            _check_sums(path)
    except Exception as error:  # a damaged file can make torch's reader raise anything
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", text)):
            raise CheckpointError(
                f"checkpoint {path} holds a Python object ({found[1]}), which could run code, and is refused; "
                "save it again with tensors and plain containers only."
            ) from None
        raise _damaged(path, text.partition("WeightsUnpickler error: ")[2].strip() or error) from None
    return content


def _check_is_file(path: Path) -> None:
    if folds := sorted(fold for fold in path.glob("fold-*") if (fold / "config.yaml").is_file()):
        raise CheckpointError(
            f"{path} is the folder of a cross-validation, and each of its {len(folds)} folds has weights of its own. "
            f"Give one, as {folds[0]}."
        )
    if (path / "config.yaml").is_file():
        raise CheckpointError(
            f"{path} is the folder of a run that has saved no weights: neither checkpoints/best.pth nor last.pth is "
            "there. Train it further, or give another checkpoint."
        )
    if not path.is_file():
        what = "is a folder without weights" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}; give a .pth or .safetensors file, or a run's folder.")


def _check_members(path: Path) -> None:
    """Check the directory of an archive, and the sums of all members but the tensors'.

    Of a member that looks like a folder torch may return memory as it finds it, and a packed one may have any size.
    Raises a ValueError for what torch cannot have written, and whatever `zipfile` raises on damage.
    """
    num_bytes = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            is_plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
            if not is_plain or member.is_dir() or member.external_attr & _DOS_FOLDER:
                raise ValueError(f"{member.filename} is packed or no file, which torch never writes")
            num_bytes -= member.file_size
            if num_bytes < 0:
                raise ValueError(f"{member.filename} is larger than the file")
            if "/data/" in member.filename:
                archive.open(member).close()  # compares the two places that name it
            else:
                archive.read(member)


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"check sum of {damaged} is wrong")


def _check_structure(content: Any, num_bytes: int) -> None:
    """Refuse what would take unbounded time or memory to use, or has no place in a model.

    Raises:
        ValueError: values without end, tensors that are not dense in memory of their own size, or far more in all than
            the file's bytes, which tied weights may repeat.
    """
    total = 0
    for value in walk(content):
        if not isinstance(value, Tensor):
            continue
        if value.layout != torch.strided or value.dtype not in _DTYPES or value.device.type != "cpu":
            raise ValueError(f"it holds a tensor that is {value.layout} of {value.dtype} on {value.device}")
        total += value.nbytes
        if value.nbytes > value.untyped_storage().nbytes() or total > 8 * num_bytes:
            raise ValueError(f"it holds a tensor of shape {tuple(value.shape)} in less memory than that takes")


def _damaged(path: Path, why: object) -> CheckpointError:
    reason = str(why).splitlines()[0] if str(why) else type(why).__name__
    return CheckpointError(
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is truncated, damaged or no checkpoint "
        f"({reason}); copy it again or use an earlier one."
    )
