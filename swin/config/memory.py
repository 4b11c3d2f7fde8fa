"""What a configuration needs in memory at least, by arithmetic: nothing is allocated to find out."""

from collections.abc import Iterator, Mapping
from typing import Any

from swin.config.keys.model import GROUP_OF_TYPE

_MODEL_SIZES = ("PATCH_SIZE", "IN_CHANS", "EMBED_DIM", "DEPTHS", "NUM_HEADS", "WINDOW_SIZE", "MLP_RATIO")


def model_group(values: Mapping[str, Any]) -> str:
    """The group that the keys of the model's own family are in, as MODEL.SWIN."""
    return f"MODEL.{GROUP_OF_TYPE[values['MODEL.TYPE']]}"


def size_keys(values: Mapping[str, Any]) -> list[str]:
    """The keys from which it follows how large a run is."""
    group = model_group(values)
    return ["DATA.BATCH_SIZE", "DATA.IMG_SIZE", "MODEL.NUM_CLASSES", *(f"{group}.{name}" for name in _MODEL_SIZES)]


def least_bytes(values: Mapping[str, Any]) -> Iterator[tuple[float, str, str]]:
    """Estimate what has to be held at one time whatever the device: parameters, and activations of the widest layer.

    Training needs several times as much: gradients, the optimizer's state and the activations of all layers.

    Args:
        values: at least MODEL.TYPE and the keys of `size_keys`, each allowed by itself.

    Yields:
        The bytes in float32, what they hold, and the names of the keys that it follows from.
    """
    batch, img_size, classes, patch, channels, embed_dim, depths, heads, window, ratio = (
        values[key] for key in size_keys(values)
    )
    sides = [img_size] * 2 if isinstance(img_size, int) else img_size
    dims = [embed_dim * 2**stage for stage in range(len(depths))]
    layers = []  # numbers that the widest layer of each stage makes of an image
    for stage, dim in enumerate(dims):
        # The grid is halved from stage to stage, and padded to whole windows.
        height, width = (-(-side // (patch * 2**stage * window)) * window for side in sides)
        layers.append(height * width * dim * max(3, ratio))  # the queries, keys and values, or the hidden layer
    blocks = sum(depth * (4 + 2 * ratio) * dim**2 for depth, dim in zip(depths, dims, strict=True))
    # For each pair of tokens of a window: an index of 8 bytes in each block, a bias for each head in one of them.
    pairs = (2 * sum(depths) + max(heads)) * window**4
    of_a_layer = "BATCH_SIZE IMG_SIZE PATCH_SIZE EMBED_DIM WINDOW_SIZE MLP_RATIO"
    yield 4 * batch * channels * sides[0] * sides[1], "the images of a batch", "BATCH_SIZE IMG_SIZE IN_CHANS"
    yield 4 * batch * max(layers), "one layer's activations", of_a_layer
    yield 4 * channels * patch**2 * embed_dim, "the patch embedding", "PATCH_SIZE IN_CHANS EMBED_DIM"
    yield 4 * blocks, "the blocks", "EMBED_DIM DEPTHS MLP_RATIO"
    yield 4 * pairs, "the position biases", "DEPTHS NUM_HEADS WINDOW_SIZE"
    yield 4 * classes * (dims[-1] + batch), "the classifier", "BATCH_SIZE NUM_CLASSES EMBED_DIM DEPTHS"
