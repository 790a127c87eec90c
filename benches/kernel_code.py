"""Compiles recorded launches ahead of time and reads what the machine code needs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from kernel_launches import Recorded


@dataclass(frozen=True)
class Chip:
    """What a multiprocessor (NVIDIA) or compute unit (AMD) holds, from the makers' manuals.

    Attributes:
        target: what Triton compiles for.
        registers: 32-bit registers of a multiprocessor; of one lane of a SIMD unit for AMD.
        register_step: registers are handed out in multiples of this many (a warp's; a lane's).
        warps: most warps at a time.
        blocks: most blocks at a time.
        shared: bytes of shared memory.
        shared_of_block: bytes of it that one block may have.
        reserved: bytes of shared memory that the system takes from each block.
    """

    target: GPUTarget
    registers: int
    register_step: int
    warps: int
    blocks: int
    shared: int
    shared_of_block: int
    reserved: int

    def occupancy(self, registers: int, shared: int, warps: int) -> float:
        """The share of the possible warps that run at a time.

        Args:
            registers: of a thread.
            shared: bytes of a block.
            warps: of a block.
        """
        if self.target.backend == "hip":
            # A block's waves are spread over four SIMD units, each with registers of its own.
            of_unit = self.registers // _up(max(registers, 1), self.register_step)
            by_registers = min(of_unit, self.warps // 4) * 4 // warps
        else:
            by_registers = self.registers // (_up(registers * 32, self.register_step) * warps)
        needed = _up(shared, 128) + self.reserved
        by_shared = self.shared // needed if needed else self.blocks
        blocks = min(by_registers, by_shared, self.blocks, self.warps // warps)
        return blocks * warps / self.warps


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _nvidia(capability: int, warps: int, blocks: int, shared: int) -> Chip:
    target = GPUTarget("cuda", capability, 32)
    return Chip(target, 65536, 256, warps, blocks, shared * 1024, (shared - 1) * 1024, 1024)


# Compute capability tables of the CUDA C++ programming guide; AMD's CDNA 3 whitepaper and ISA.
CHIPS = {
    "sm_80": _nvidia(80, 64, 32, 164),
    "sm_86": _nvidia(86, 48, 16, 100),
    "sm_89": _nvidia(89, 48, 24, 100),
    "sm_90": _nvidia(90, 64, 32, 228),
    "sm_100": _nvidia(100, 64, 32, 228),
    "gfx942": Chip(GPUTarget("hip", "gfx942", 64), 512, 8, 32, 32, 65536, 65536, 0),
}
_TENSOR_CORE = re.compile(
    r"^\s*(?:@%?\w+\s+)?(wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_s?mfma_)", re.M
)
# The element type of the first factor, and how it is multiplied.
_PRODUCT = re.compile(r"tt\.dot\b([^\n]*?) : tensor<[\dx]*x([a-z]\w*)[^>]*> \*")


@dataclass(frozen=True)
class Code:
    """What a compiled kernel needs on one chip.

    Attributes:
        registers: 32-bit registers of a thread.
        spills: bytes of registers that did not fit and lie in memory.
        shared: bytes of shared memory of a block.
        tensor_core: instructions for tensor cores.
        product: whether the kernel has a matrix product that tensor cores can do.
        occupancy: the share of the possible warps that run at a time.
        fits: whether shared memory is within the chip's.
    """

    registers: int
    spills: int
    shared: int
    tensor_core: int
    product: bool
    occupancy: float
    fits: bool


class _Pointer:
    """What Triton asks of a tensor when it specialises a kernel."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype = tensor.dtype
        self._offset = tensor.storage_offset() * tensor.element_size()
        self._bytes = tensor.untyped_storage().nbytes()

    def data_ptr(self) -> int:
        """The address, if the memory began at 0: its alignment."""
        return self._offset

    def ptr_range(self) -> int:
        """Bytes of the memory."""
        return self._bytes


def source(launch: Recorded, chip: Chip) -> tuple[ASTSource, Any]:
    """The program that a launch would compile on a chip, specialised as Triton does it."""
    kernel, backend = launch.kernel, make_backend(chip.target)
    arguments = [_Pointer(a) if isinstance(a, Tensor) else a for a in launch.arguments]
    options = {n: _Pointer(a) if isinstance(a, Tensor) else a for n, a in launch.options.items()}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, rest = bind(*arguments, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, rest
    )
    return ASTSource(kernel, signature, constants, attributes), parsed


def fingerprint(launch: Recorded, chip: Chip) -> str:
    """The same for launches that compile to the same code, with this version of Triton."""
    program, options = source(launch, chip)
    # The libraries come with Triton; where they are installed changes no code.
    told = {key: value for key, value in vars(options).items() if key != "extern_libs"}
    text = f"{triton.__version__} {program.hash()} {told} {chip}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def compile_for(launch: Recorded, chip: Chip) -> Code:
    """Compiles a launch for a chip.

    Raises:
        Exception: what Triton or its assembler says.
    """
    program, options = source(launch, chip)
    log = io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        compiled = triton.compile(program, target=chip.target, options=options.__dict__)
    warps = compiled.metadata.num_warps
    if chip.target.backend == "hip":
        text = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s*(\d+)", text)
        spills = 4 * _number(r"\.vgpr_spill_count:\s*(\d+)", text)
        spills += _number(r"\.private_segment_fixed_size:\s*(\d+)", text)
    else:
        text, notes = compiled.asm["ptx"], log.getvalue()
        registers = _number(r"Used (\d+) registers", notes)
        spills = _number(r"(\d+) bytes spill stores", notes)
        spills += _number(r"(\d+) bytes spill loads", notes)
    shared = int(compiled.metadata.shared)
    return Code(
        registers=registers,
        spills=spills,
        shared=shared,
        tensor_core=len(_TENSOR_CORE.findall(text)),
        product=_has_product(compiled.asm["ttir"], chip),
        occupancy=chip.occupancy(registers, shared, warps),
        fits=shared <= chip.shared_of_block,
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern} is not in what the compiler said"
    return int(found[1])


def _has_product(program: str, chip: Chip) -> bool:
    """Whether there is a product for tensor cores: NVIDIA's have none in full float32."""
    return any(
        chip.target.backend == "hip" or factor != "f32" or "inputPrecision = tf32" in how
        for how, factor in _PRODUCT.findall(program)
    )


def precision(launch: Recorded) -> str:
    """The dtype of a launch's workload, for readers."""
    names = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
    return names[launch.workload.dtype]
