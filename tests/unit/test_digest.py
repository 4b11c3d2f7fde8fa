"""The digest of a checkpoint: any changed bit changes it, saving and loading does not."""

import copy
import math
import struct
from collections import OrderedDict

import pytest
import torch

from swin.weights.digest import digest, walk

DTYPES = [
    *(torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.uint16),
]
PLAIN = {
    "dict": {"a": 1, 2: "b", (3, "c"): None},
    "ordered": OrderedDict(x=[1, 2.5, -0.0, math.nan, math.inf], y=()),
    "tuple": (True, False, 10**30, -1, "text\ud800\n"),
    "nested": [[], [[]], {}, {"a": {}}],
}


def random_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    num_bytes = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (num_bytes,), dtype=torch.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (1025, 41)], ids=str)
def test_any_flipped_bit_of_any_tensor_changes_it(dtype, shape):
    torch.manual_seed(0)
    tensor = random_bits(dtype, *shape)
    before = digest({"t": tensor})
    data = tensor.reshape(-1).view(torch.uint8)
    for position in {0, 7, 32767, 32768, len(data) // 2, len(data) - 1} & set(range(len(data))):
        for bit in range(1 if dtype == torch.bool else 8):
            data[position] ^= 1 << bit
            assert digest({"t": tensor}) != before, (position, bit)
            data[position] ^= 1 << bit
    assert digest({"t": tensor}) == before


@pytest.mark.parametrize("legacy", [False, True])
def test_it_is_the_same_after_saving_and_loading(tmp_path, legacy):
    torch.manual_seed(0)
    dtypes = DTYPES[:8] if legacy else DTYPES  # torch's older format has no others
    tensors = {str(dtype): random_bits(dtype, 5, 9) for dtype in dtypes}
    views = {"strided": torch.randn(9, 8).T[1:, ::2], "offset": torch.arange(99, dtype=torch.uint8)[3:]}
    content = {"tensors": tensors, "views": views, **PLAIN, "parameter": torch.nn.Parameter(torch.randn(3))}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert digest(torch.load(tmp_path / "a.pth", weights_only=True)) == digest(content)


def test_it_does_not_depend_on_layout_and_leaves_out_its_own_entry():
    tensor = torch.randn(6, 8)
    assert digest({"t": tensor.T}) == digest({"t": tensor.T.contiguous()})
    assert digest({"t": tensor, "digest": "swin1:0"}) == digest({"t": tensor})


def quiet_nan(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", 0x7FF8 << 48 | bits))[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (quiet_nan(0), quiet_nan(1)),
        (None, "None"),
        ("1", 1),
        ([1, 2], (1, 2)),
        ([1, [2]], [[1], 2]),
        ([[1], 2], [[1, 2]]),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {1: "a"}),
        ({"a": 1}, ["a", 1]),
        ({}, []),
        (["ab", "c"], ["a", "bc"]),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(()), torch.zeros(1)),
        (torch.zeros(5000), torch.zeros(5001)),
    ],
    ids=str,
)
def test_what_differs_in_any_way_has_another(one, other):
    assert digest({"v": one}) != digest({"v": other})
    assert digest({"v": one}) == digest({"v": copy.deepcopy(one)})


@pytest.mark.parametrize(
    "value", [{1}, b"bytes", 1j, torch.float32, torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")]
)
def test_what_no_checkpoint_holds_is_a_type_error(value):
    with pytest.raises(TypeError, match="a checkpoint holds"):
        digest({"a": [value]})


def test_content_without_end_is_refused_at_once():
    deep: list = []
    for _ in range(3000):
        deep = [deep]
    own: dict = {}
    own["own"] = own
    doubled: list = [0]
    for _ in range(60):  # 2^60 items in 60 lists
        doubled = [doubled, doubled]
    wide = [[0] * 2000] * 2000
    for content, words in ((deep, "64 levels"), (own, "64 levels"), (doubled, ""), (wide, "1000000 values")):
        with pytest.raises(ValueError, match=f"more than {words}"):
            list(walk(content))
