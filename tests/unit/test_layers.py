"""Parts of the model on their own."""

import pytest
import torch
from torch import nn

from swin.models.layers import Gelu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_gelu_is_torchs_own_to_the_bit_and_in_place_without_gradients(dtype, without_gradients):
    x = torch.randn(7, 33, dtype=dtype)
    expected, before = nn.GELU()(x), x.clone()
    assert torch.equal(Gelu()(x), expected)
    assert torch.equal(x, before)
    with without_gradients():
        out = Gelu()(x)
    assert out is x
    assert torch.equal(out, expected)
