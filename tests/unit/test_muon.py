"""Muon: its updates are those of the definition, in float64 and by timm; what it takes for matrices."""

import pytest
import torch

from swin.config import load_config
from swin.models import SwinTransformer, add_adapters
from swin.muon import orthogonalise
from swin.optim import build_optimizer, make_optimizer, set_lr, step_if

LR, DECAY, MOMENTUM = 0.02, 0.05, 0.95


def small_swin():
    torch.manual_seed(0)
    options = {"patch_size": 2, "window_size": 4, "num_classes": 3, "img_size": 32}
    # A patch has as many values as channels: its matrix is as large as others, of another shape.
    return SwinTransformer(embed_dim=12, depths=(1, 2), num_heads=(1, 2), **options)


def backward(model, seed):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    (1e3 * model(images).square().sum()).backward()  # gradients of queries and keys far above the smallest norm


def polar_factor(matrix):
    """What the iteration aims at: U V^T of the singular value decomposition."""
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left @ right


def iterate(matrix):
    """The definition, a matrix at a time, in float64."""
    x = matrix.double()
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4), (1, 5)])
def test_orthogonalised_matrices_are_those_of_the_definition(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalise(matrices)
    for matrix, own in zip(matrices, found, strict=True):
        # Five products of float32 matrices of at most twelve rows.
        torch.testing.assert_close(own, iterate(matrix).float(), rtol=1e-4, atol=1e-4)
        values = torch.linalg.svdvals(own)
        # The polynomial's fixed range, but for singular values that begin near 0.
        assert values.max() < 1.25
        aligned = (own.double() * polar_factor(matrix)).sum() / min(shape)
        assert 0.5 < aligned < 1.25
    assert not orthogonalise(torch.zeros(1, *shape)).any()


@pytest.mark.parametrize("has_adapters", [False, True])
def test_updates_are_those_of_the_definition(has_adapters):
    model = small_swin()
    if has_adapters:  # their matrices of queries, keys and values are tall
        pytest.importorskip("peft", reason="peft is not installed")
        add_adapters(model, rank=2, alpha=6, modules=["*.attn.qkv"], seed=0)
        for each in (each for name, each in model.named_parameters() if "lora_B" in name):
            each.data.normal_(std=0.1)
    optimizer = make_optimizer(model, name="muon", lr=LR, weight_decay=DECAY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected, momenta = {}, {}
    for step in range(3):
        backward(model, step)
        for group in optimizer.param_groups:
            for parameter, pieces in zip(group["params"], group.get("pieces", []), strict="pieces" in group):
                name = names[id(parameter)]
                assert pieces == (3 if "qkv" in name and "lora_A" not in name else 1)
                momentum = momenta.get(name, 0) * MOMENTUM + (1 - MOMENTUM) * parameter.grad.double()
                momenta[name] = momentum
                nesterov = (1 - MOMENTUM) * parameter.grad.double() + MOMENTUM * momentum
                parts = nesterov.flatten(1).chunk(pieces)
                update = torch.cat([0.2 * max(part.shape) ** 0.5 * iterate(part) for part in parts])
                expected[name] = parameter.detach().double() * (1 - LR * DECAY) - LR * update.view_as(parameter)
        optimizer.step()
        for name, value in expected.items():
            # An update is LR times values of about 0.2; float32 products of up to 48 rows lose 1e-4 of that.
            torch.testing.assert_close(model.get_parameter(name).double(), value, rtol=1e-5, atol=1e-5)
    # Four matrices a block, the patches' and the merging's; or two of each adapter.
    assert len(expected) == (3 * 2 if has_adapters else 3 * 4 + 2)


def test_what_is_no_matrix_gets_adamw_and_all_get_their_decay():
    model, plain = small_swin(), small_swin()
    muon = make_optimizer(model, name="muon", lr=LR, weight_decay=DECAY)
    adamw = make_optimizer(plain, name="adamw", lr=LR, weight_decay=DECAY)
    backward(model, 0)
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        other.grad = own.grad.clone()
    muon.step()
    adamw.step()
    matrices = {id(parameter) for group in muon.param_groups if "pieces" in group for parameter in group["params"]}
    assert sum(len(group["params"]) for group in muon.param_groups) == len(list(model.parameters()))
    for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, other) == (id(own) not in matrices), name
    assert [(group["weight_decay"], "pieces" in group) for group in muon.param_groups] == [
        (DECAY, False),
        (0.0, False),
        (DECAY, True),
    ]
    assert not any(parameter is model.head.weight for group in muon.param_groups[2:] for parameter in group["params"])


def test_layer_decay_scales_the_rates_of_matrices_too():
    model = small_swin()
    optimizer = make_optimizer(model, name="muon", lr=LR, weight_decay=DECAY, layer_decay=0.5)
    set_lr(optimizer, LR)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    backward(model, 0)
    step_if(optimizer, torch.tensor(True))
    rates = {}
    for name in ("layers.0.blocks.0.attn.proj.weight", "layers.1.blocks.1.mlp.fc1.weight"):
        change = model.get_parameter(name).detach() - before[name]
        rates[name] = change.square().mean().sqrt().item()
    first, last = rates.values()
    assert 0.15 < first / last < 0.4  # two blocks apart: a quarter, but for how near to 1 the singular values come


def test_the_config_chooses_it():
    options = ["TRAIN.OPTIMIZER.NAME", "Muon", "TRAIN.OPTIMIZER.MUON_MOMENTUM", 0.9]
    groups = build_optimizer(load_config(opts=options), small_swin()).param_groups
    assert [group.get("momentum") for group in groups] == [None, None, 0.9]


def test_updates_are_near_timms():
    """timm's iteration is in bfloat16, and it takes queries, keys and values as one matrix."""
    timm = pytest.importorskip("timm.optim.muon", reason="this timm has no Muon")
    torch.manual_seed(0)
    values = [torch.randn(8, 12), torch.randn(16, 4)]
    own, other = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    model = torch.nn.ParameterList(own)
    ours = make_optimizer(model, name="muon", lr=LR, weight_decay=DECAY)
    theirs = timm.Muon(other, lr=LR, weight_decay=DECAY, momentum=MOMENTUM, nesterov=True)
    for seed in range(3):
        grads = [torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)) for value in values]
        for parameters, optimizer in ((own, ours), (other, theirs)):
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.clone()
            optimizer.step()
    for mine, peer in zip(own, other, strict=True):
        torch.testing.assert_close(mine, peer, rtol=0, atol=0.1 * 3 * LR * 0.2 * 12**0.5)  # a tenth of the updates
