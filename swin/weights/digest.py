"""A fingerprint of a checkpoint's content, and the bounded walk through it that reading relies on."""

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

DIGEST = "digest"  # the key of a file's top level that holds the digest of everything else
_PREFIX = "swin1:"
# A training checkpoint of Swin-L has about 10,000 items on 5 levels; class names of ImageNet-22K add 22,000.
_MAX_DEPTH, _MAX_ITEMS = 64, 1_000_000
_BLOCK_WORDS = 4096


def walk(content: Any) -> Iterator[Any]:
    """Every value of nested dicts, lists and tuples, parents before children and keys before values.

    What a pickle builds may be deeper than Python can recurse, hold itself, or repeat one list a billion times.

    Raises:
        ValueError: it is deeper or larger than any checkpoint.
    """
    stack, count = [(content, 0)], 1
    while stack:
        value, depth = stack.pop()
        yield value
        if not isinstance(value, dict | list | tuple):
            continue
        children = [child for item in value.items() for child in item] if isinstance(value, dict) else list(value)
        count += len(children)
        if depth == _MAX_DEPTH:
            raise ValueError(f"its values are nested more than {_MAX_DEPTH} levels deep")
        if count > _MAX_ITEMS:
            raise ValueError(f"it holds more than {_MAX_ITEMS} values")
        stack.extend((child, depth + 1) for child in reversed(children))


def is_digest(value: Any) -> bool:
    """Whether a value is one of `digest`; other programs may have a key of that name."""
    return isinstance(value, str) and value.startswith(_PREFIX)


def digest(content: dict[str, Any]) -> str:
    """SHA-256 over the types, keys, values, shapes and bits of a checkpoint, but for its own entry `digest`.

    It is the same for what was saved and what is then loaded, on any device. Of a tensor, SHA-256 gets the sums of
    blocks of 4,096 words, which any flipped bit changes and which cost a fifth of what all bytes would.
    It tells damage from content, not friend from foe.

    Raises:
        TypeError: there is a value that is neither a tensor nor plain, or a tensor that is not dense.
    """
    state = hashlib.sha256()
    for value in walk({key: value for key, value in content.items() if key != DIGEST}):
        for part in _parts(value):
            state.update(part)
    return _PREFIX + state.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """What stands for one value; of a container its size, so that no two nestings look the same."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"a checkpoint holds dense tensors, not {value.layout} ones of {value.dtype}")
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield f"{value.dtype} {tuple(value.shape)};".encode()
        num_summed = len(data) // (8 * _BLOCK_WORDS) * 8 * _BLOCK_WORDS
        yield data[:num_summed].view(np.int64).reshape(-1, _BLOCK_WORDS).sum(axis=1).data  # overflows wrap around
        yield data[num_summed:].data
    elif isinstance(value, dict | list | tuple):
        kind = next(kind for kind in (dict, list, tuple) if isinstance(value, kind))
        yield f"{kind.__name__} {len(value)};".encode()
    elif type(value) is float:
        yield b"float " + struct.pack("<d", value)  # keeps apart what == does not: zeros of either sign, NaNs
    elif type(value) is str:
        text = value.encode("utf-8", "surrogatepass")
        yield f"str {len(text)};".encode() + text
    elif value is None or type(value) in (bool, int):
        yield f"{type(value).__name__} {value};".encode()
    else:
        raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")
