"""Draw where a model looks: class activation maps of any stage, or the attention of any block, over the image.

python -m tools.cam --checkpoint output/swin_tiny/default/checkpoints/best.pth --input photo.jpg --output maps

A map is made by the package pytorch-grad-cam from the output of `norm1` of a stage's last block, which that package
suggests for Swin: in a trial with digits, hiding what it shows cost more of the class's probability than with the
block's output or the model's last norm. Of Swin V2 it is the block's output. The grid is put onto the pixels that its
tokens were made of, whatever was padded.
"""

import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from swin.errors import ConfigError, DataError
from swin.inference import load_torch_predictor
from swin.kernels.windows import reverse
from swin.models import Backbone, SwinTransformerV2
from swin.models.layers import PatchMerging, shift_of
from swin.models.swin import WindowAttention
from swin.models.swin_v2 import CosineWindowAttention
from swin.predictor import Predictor
from swin.preprocess import EvalTransform
from tools.arguments import command, model_parser, positive
from tools.images import check_read, open_images, read_batches, to_rgb
from tools.pictures import plain, require, save_picture

METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
_COLOURS = "inferno"
_LEGENDS = {"attention": "attention received (1: the average)", "eigencam": "strength of the main component"}
_REPORT_BATCH = 16


class What(NamedTuple):
    """Which map to draw: of a class, or with a `block` (from 1) its attention; the stage from 1."""

    stage: int
    method: str = "gradcam"
    block: int | None = None


def class_grids(model: Backbone, images_BCHW: Tensor, labels: Sequence[int], what: What) -> Tensor:
    """Return a map (B, H, W) of a stage's grid for each image: where it speaks for the label, unscaled, or against."""
    import pytorch_grad_cam as package
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    block = model.stages()[what.stage - 1].blocks[-1]
    # Swin V2 normalises what its branches give, so that no norm there sees all that the block does.
    layer = block if isinstance(model, SwinTransformerV2) else block.get_submodule("norm1")
    targets = [ClassifierOutputTarget(label) for label in labels]
    method = getattr(package, METHODS[what.method])
    with (
        method(model, [layer], reshape_transform=lambda x_BHWC: x_BHWC.permute(0, 3, 1, 2)) as cam,
        torch.enable_grad(),
    ):
        cam(images_BCHW, targets)
        seen = cam.activations_and_grads
        gradients = seen.gradients[0].numpy() if seen.gradients else None
        grids = cam.get_cam_image(images_BCHW, layer, targets, seen.activations[0].numpy(), gradients, False)
    model.zero_grad()
    return torch.from_numpy(grids).float()


def attention_grids(model: Backbone, images_BCHW: Tensor, what: What) -> Tensor:
    """Return how much each position of a block's grid (B, H, W) is attended to: 1 is as much as its window's average.

    It is the sum of a position's attention weights over the queries of its window, in the mean of the heads; queries of
    the padding do not count. Attention's output is linear in the values, so that this sum is the gradient of the
    output's sum for a value, whichever backend attends.
    """
    block = model.get_submodule(f"layers.{what.stage - 1}.blocks.{(what.block or 1) - 1}")
    if not hasattr(block, "attn"):
        raise ConfigError("--attention: this model is a Swin-MLP, whose blocks have no attention; leave it out.")
    attention = cast(WindowAttention | CosineWindowAttention, block.attn)
    seen: dict[str, Tensor] = {}
    hooks = [
        attention.qkv.register_forward_hook(lambda module, inputs, output: seen.update(qkv=output)),
        attention.proj.register_forward_pre_hook(lambda module, inputs: seen.update(out=inputs[0])),
    ]
    try:
        with torch.enable_grad():
            model(images_BCHW.requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    (gradient,) = torch.autograd.grad(seen["out"].sum(), seen["qkv"])  # (B, K, T, 3*N*D)
    received_BKT = gradient.unflatten(-1, (3, attention.num_heads, -1))[..., 2, :, :].mean(dim=(-2, -1))
    _, H, W, _ = seen["out"].shape
    window = attention.window_of(H, W)
    height, width = H + -H % window[0], W + -W % window[1]
    shift = shift_of((height, width), window, attention.shift_size)
    grid_BHW = reverse(received_BKT, window, height, width).roll(shift, dims=(1, 2))
    return grid_BHW[:, :H, :W].cpu()


def heat_of(grids_BHW: Tensor, model: Backbone, stage: int, size: tuple[int, int]) -> np.ndarray:
    """Put grids of a stage onto images of a size (H, W), scaled so that the greatest value is 1; what is negative is 0.

    A token covers a square of pixels, from the top left. Tokens of padding lie outside of the image and are cut off;
    pixels beyond the last whole patch have the value of their neighbours.
    """
    stride = int(model.patch_embed.proj.stride[0])
    for earlier in model.stages()[: stage - 1]:
        stride *= cast(PatchMerging, earlier.downsample).factor
    positive = grids_BHW.clamp(min=0)
    scaled = positive / positive.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    heat = F.interpolate(scaled[:, None], scale_factor=stride, mode="bilinear")[..., : size[0], : size[1]]
    missing = (0, size[1] - heat.shape[3], 0, size[0] - heat.shape[2])
    return F.pad(heat, missing, mode="replicate")[:, 0].numpy()


def overlay(picture: Image.Image, heat_HW: np.ndarray) -> Image.Image:
    """Lay a map over a picture of its size: the hotter, the less of the picture is seen through its colour."""
    from matplotlib import colormaps

    colours = np.uint8(255 * colormaps[_COLOURS](heat_HW)[..., :3])
    return Image.composite(Image.fromarray(colours), picture, Image.fromarray(np.uint8(200 * heat_HW)))


def make_cam(predictor: Predictor) -> Callable[[Sequence[Tensor], Sequence[int]], list[Image.Image]]:
    """Make the function that draws Grad-CAM of the last stage over images.

    Returns:
        For uint8 images (C, h, w) as `predictor.read` gives them, and the label of each to explain: RGB pictures of
        what the model saw of each image, at its input size, under the map.

    Raises:
        ConfigError: A package is not installed.
    """
    require("matplotlib", "pytorch_grad_cam")
    what = What(stage=len(_model(predictor).stages()))

    def draw(images: Sequence[Tensor], labels: Sequence[int]) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for start in range(0, len(images), _REPORT_BATCH):
            batch = images[start : start + _REPORT_BATCH]
            maps = _maps(predictor, batch, labels[start : start + _REPORT_BATCH], what)
            pictures += [overlay(picture, heat_HW) for picture, _, heat_HW in maps]
        return pictures

    return draw


def _maps(
    predictor: Predictor, images: Sequence[Tensor], labels: Sequence[int], what: What
) -> list[tuple[Image.Image, Tensor, np.ndarray]]:
    """For each image what the model sees of it, the grid of its map, and that put onto it."""
    model, batch_BCHW = _model(predictor), torch.stack([predictor.transform(image) for image in images])
    batch_BCHW = batch_BCHW.to(predictor.device)
    if what.block is None:
        grids_BHW = class_grids(model, batch_BCHW, labels, what)
    else:
        grids_BHW = attention_grids(model, batch_BCHW, what)
    heat_BHW = heat_of(grids_BHW, model, what.stage, (batch_BCHW.shape[2], batch_BCHW.shape[3]))
    resize = cast(EvalTransform, predictor.transform).resize
    return [(to_rgb(resize(image)), *maps) for image, *maps in zip(images, grids_BHW, heat_BHW, strict=True)]


def _model(predictor: Predictor) -> Backbone:
    return cast(Backbone, predictor.model)


def draw_figure(picture: Image.Image, heat_HW: np.ndarray, top: float, title: str, legend: str) -> Any:
    """Draw an image beside the map over it, with the map's colours up to `top`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 3.4 * picture.height / picture.width), layout="constrained", dpi=120)
    axes = figure.subplots(1, 2)
    for axis, shown in zip(axes, (picture, overlay(picture, heat_HW)), strict=True):
        axis.imshow(shown)
        axis.axis("off")
    figure.colorbar(ScalarMappable(Normalize(0, top or 1), _COLOURS), ax=axes, label=legend, shrink=0.9)
    figure.suptitle(title, fontsize=11)
    return figure


def _choose_map(predictor: Predictor, stage: int | None, method: str, attention: str | None) -> What:
    stages = _model(predictor).stages()
    if attention is None:
        what = What(stage or len(stages), method)
    elif match := re.fullmatch(r"([1-9]\d*)\.([1-9]\d*)", attention):
        what = What(int(match[1]), block=int(match[2]))
    else:
        raise ConfigError(
            f"--attention {attention} is not a block: give stage.block, both counted from 1, such as 3.5."
        )
    if what.stage > len(stages):
        raise ConfigError(f"there is no stage {what.stage}: this model has stages 1 to {len(stages)}.")
    if what.block and what.block > (depth := len(stages[what.stage - 1].blocks)):
        raise ConfigError(f"--attention {attention}: stage {what.stage} has blocks 1 to {depth}.")
    return what


def find_label(text: str, classes: Sequence[str] | None, num_classes: int) -> int:
    """Return the label of a class given by its name, by one of several that commas divide, or by its label."""
    names = list(classes or ())
    if text in names:
        return names.index(text)
    if len(found := [label for label, name in enumerate(names) if text in name.split(", ")]) == 1:
        return found[0]
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    near = get_close_matches(text, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"--class {text!r}: expected a class's name, or a label from 0 to {num_classes - 1}{hint}")


def draw_maps(
    predictor: Predictor, names: Sequence[str], images: Sequence[Tensor], label: int | None, what: What
) -> list[tuple[Any, dict[str, Any]]]:
    """Return a figure and its facts for each image; the map is that of `label`, or of the predicted class if None."""
    scores_BK = predictor.scores(images)
    labels = scores_BK.argmax(dim=1).tolist() if label is None else [label] * len(images)
    results = []
    maps = _maps(predictor, images, labels, what)
    for name, shown, scores_K, (picture, grid_HW, heat_HW) in zip(names, labels, scores_BK.tolist(), maps, strict=True):
        class_name = str(predictor.classes[shown] if predictor.classes else shown)
        facts = {"file": name, "class": class_name, "label": shown, "score": scores_K[shown], "stage": what.stage}
        facts |= {"method": what.method} if what.block is None else {"method": "attention", "block": what.block}
        place = f"stage {what.stage}" + (f", block {what.block}" if what.block else "")
        title = f"{plain(Path(name).name)}\n{plain(class_name)} {scores_K[shown]:.1%}, {facts['method']} of {place}"
        legend = _LEGENDS.get(facts["method"], "evidence for the class")
        figure = draw_figure(picture, heat_HW, float(grid_HW.max().clamp(min=0)), title, legend)
        results.append((figure, {**facts, "image_size": heat_HW.shape, "grid": grid_HW.tolist()}))
    return results


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    example = "--checkpoint output/swin_tiny/default/checkpoints/best.pth --input photo.jpg --stage 3 --output maps"
    parser = model_parser("cam", "Draw where a model looks, over the image.", example)
    parser.add_argument("--input", required=True, type=Path, metavar="PATH", help="an image, or a folder of images")
    parser.add_argument("--class", dest="class_", metavar="CLASS", help="name or label (default: the predicted class)")
    parser.add_argument("--stage", type=positive, help="stage, from 1 (default: the last)")
    parser.add_argument(
        "--method", choices=METHODS, default="gradcam", help="default: gradcam; eigencam is the same for all classes"
    )
    parser.add_argument("--attention", metavar="S.B", help="draw the attention of block B of stage S, from 1, instead")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for a PNG and JSON an image")
    options = parser.parse_args(argv)
    errors: list[DataError] = []
    require("matplotlib", "pytorch_grad_cam")
    predictor = load_torch_predictor(options.checkpoint, device=options.device)
    what = _choose_map(predictor, options.stage, options.method, options.attention)
    num_classes, label = _model(predictor).num_classes, None
    if options.class_ is not None:
        label = find_label(options.class_, predictor.classes, num_classes)
    source = open_images(options.input, predictor.channels)
    kind = "cam" if what.block is None else "attention"
    for batch in read_batches(source, predictor, options.batch_size, errors):
        names = [source.name(index) for index in batch]
        results = draw_maps(predictor, names, [*batch.values()], label, what)
        for index, (figure, facts) in zip(batch, results, strict=True):
            save_picture(figure, options.output / f"{source.names[index]}.{kind}.png", facts)
    count = len(source.labels)
    print(f"{options.output}: {count - len(errors)} pictures *.{kind}.png, each with its numbers in a .json")
    check_read(errors, count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
