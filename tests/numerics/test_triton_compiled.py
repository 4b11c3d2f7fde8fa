"""The Triton kernels through Triton's compiler, for GPUs that need not be there: they compile, fit into the shared
memory and keep to their registers. What they compute is tested in `test_triton.py`."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from swin.kernels import triton as launcher  # noqa: E402
from swin.kernels import triton_device as device  # noqa: E402

ASSEMBLERS = sorted((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas*"))
POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
ONE_BLOCK = (device.forward, device.backward_whole)
BLOCKS = (device.forward, device.backward_queries, device.backward_keys, device.backward_bias)
SHARED_MEMORY = 100 * 1024  # of an RTX 30, the least since Ampere
# A thread has about 1,000 bytes of registers. With four warps those in float32 spill up to 40,000.
MOST_SPILLED = 128

pytestmark = [
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
    pytest.mark.skipif(launcher.is_interpreted(), reason="TRITON_INTERPRET is set"),
    pytest.mark.skipif(not ASSEMBLERS, reason="Triton's assembler is not installed"),
]


def compile_for(architecture: int, kernel, dtype: torch.dtype, window: int, head_dim: int):
    constants = launcher._constants(dtype, window, 3, head_dim)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    names = kernel.arg_names
    signature = dict.fromkeys(names, "i32") | {"scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature |= dict.fromkeys({"qkv", "out", "grad", "grad_qkv"} & set(names), POINTERS[dtype])
    signature |= dict.fromkeys({"bias", "lse", "delta", "grad_bias"} & set(names), "*fp32")
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if signature[name][0] == "*"},
    )
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def spilled_bytes(assembly: str, architecture: int, folder: Path) -> int:
    file = folder / "kernel.ptx"
    file.write_text(assembly)
    name = f"--gpu-name=sm_{architecture}" + ("a" if architecture == 90 else "")
    for assembler in ASSEMBLERS:  # Triton writes for the one that it chooses; the other may be too old
        command = [assembler, "-v", name, file, "-o", folder / "kernel.cubin"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            return sum(map(int, re.findall(r"(\d+) bytes spill stores", result.stderr)))
    raise AssertionError(result.stderr[-2000:])


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(
    ("kernel", "dtype", "window", "head_dim"),
    [(kernel, torch.bfloat16, 7, 32) for kernel in ONE_BLOCK]
    + [(kernel, torch.bfloat16, 12, 32) for kernel in BLOCKS]
    + [(kernel, torch.float32, 7, 32) for kernel in ONE_BLOCK]
    + [(kernel, torch.float16, 24, 64) for kernel in BLOCKS],
)
def test_a_kernel_compiles_and_fits(kernel, dtype, window, head_dim, architecture, tmp_path):
    compiled = compile_for(architecture, kernel, dtype, window, head_dim)
    assert compiled.metadata.shared <= SHARED_MEMORY
    assert spilled_bytes(compiled.asm["ptx"], architecture, tmp_path) <= MOST_SPILLED
