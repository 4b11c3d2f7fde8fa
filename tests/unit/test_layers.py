"""Parts of the model on their own."""

from collections import defaultdict

import pytest
import torch
from torch import nn

from swin.models import SwinTransformer, freeze


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_what_hooks_keep_stays_as_it_was_and_comes_whole(without_gradients):
    model = SwinTransformer(embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=3).eval()
    kept = defaultdict(list)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, inputs, output, name=name: kept[name].append(output))
    with without_gradients():
        model(torch.randn(5, 3, 128, 128))
    for block in (0, 1):
        (output,) = kept[f"layers.0.blocks.{block}"]
        assert len(output) == 5, "a batch in parts"
        hidden, activated = (kept[f"layers.0.blocks.{block}.mlp.{name}"][0] for name in ("fc1", "act"))
        assert torch.equal(activated, nn.functional.gelu(hidden)), "what a hook kept was overwritten"


def test_drop_paths_drawn_apart_are_those_of_the_forward_pass():
    model = SwinTransformer(embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=3, drop_path_rate=0.5)
    images = torch.randn(6, 3, 32, 32)
    torch.manual_seed(7)
    expected = model(images)
    drop_paths = model.draw_drop_paths(6, torch.Generator().manual_seed(7))
    assert drop_paths.shape == (4, 2, 6)
    assert set(drop_paths[-1].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(drop_paths[0], torch.ones(2, 6)), "the first block drops nothing"
    assert torch.equal(model(images, drop_paths), expected)
    torch.testing.assert_close(model(images[2:4], drop_paths[..., 2:4]), expected[2:4])
    assert torch.equal(model.eval()(images, drop_paths), model(images))


def test_nothing_is_drawn_where_nothing_drops():
    arguments = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "num_classes": 3}
    generator = torch.Generator()
    assert SwinTransformer(**arguments, drop_path_rate=0.0).draw_drop_paths(4, generator) is None
    model = SwinTransformer(**arguments, drop_path_rate=0.5)
    assert model.draw_drop_paths(4, generator) is not None
    freeze(model, [1])
    assert model.draw_drop_paths(4, generator) is None, "frozen blocks drop nothing"
