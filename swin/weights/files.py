"""Reading weight files safely: no code in a file is ever run."""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from swin.errors import CheckpointError

# The class of the configs in official training checkpoints. It is not made, but read as an ordered dict: torch's safe
# reader fills only the dicts that it knows.
_YACS_NODE = (OrderedDict, "yacs.config.CfgNode")


def read_weight_file(path: str | Path) -> Any:
    """What a `.safetensors` file, or one written by `torch.save`, holds.

    Raises:
        CheckpointError: see `read_torch_file`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    _check_is_file(path)
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def read_torch_file(path: str | Path) -> Any:
    """What a file written by `torch.save` holds, with all tensors on the CPU.

    Tensors, plain containers and numbers are read, and the yacs node that official training checkpoints carry, as an
    ordered dict. Any other pickled object is refused. The check sums of the file's members are verified first, so that
    a truncated or damaged file is never half used; torch's older format has none.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects that could run code.
    """
    path = Path(path)
    _check_is_file(path)
    _verify_archive(path)
    try:
        with torch.serialization.safe_globals([_YACS_NODE]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old kinds of files, which are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make torch's reader raise anything
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", text)):
            raise CheckpointError(
                f"checkpoint {path} holds a Python object ({found[1]}), which could run code, and is refused; "
                "save it again with tensors and plain containers only."
            ) from None
        raise _damaged(path, text.partition("WeightsUnpickler error: ")[2] or error) from None


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}; give the path of a .pth or .safetensors file.")


def _verify_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # names that are no text, unknown ways of packing, ...
        raise _damaged(path, error) from None
    if damaged is not None:
        raise _damaged(path, f"check sum of {damaged} is wrong")


def _damaged(path: Path, why: object) -> CheckpointError:
    reason = str(why).splitlines()[0] if str(why) else type(why).__name__
    return CheckpointError(
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is truncated, damaged or no checkpoint "
        f"({reason}); copy it again or use an earlier one."
    )
