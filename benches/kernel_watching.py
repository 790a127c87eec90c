"""Runs programs of a launch in Triton's interpreter, and notes what they touch and compute.

Masked lanes touch nothing. Operations are those on floating-point numbers: products in matrices, as
the blocks pad them, and sums, products, quotients, roots and powers outside, one each.
"""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from triton._C.libtriton import ir
from triton.runtime import interpreter

from kernel_launches import Recorded

# Bytes that memory moves at least.
SECTOR = 32


@dataclass
class Watch:
    """What some programs of a launch have done.

    Attributes:
        touched: the sectors of every load and store.
        tensor: operations of tensor cores; of TF32, which takes them twice as long, two for each.
        plain: operations of the other cores.
    """

    touched: list[NDArray[np.int64]] = field(default_factory=list)
    tensor: int = 0
    plain: int = 0

    def sectors(self) -> NDArray[np.int64]:
        """The numbers of the sectors that were touched, sorted."""
        return np.unique(np.concatenate(self.touched))


def watch(launch: Recorded, first: int, programs: int) -> Watch:
    """Runs programs from number `first` on of a launch whose tensors have memory."""
    # Zeros are divided by zeros.
    with _watching() as seen, numbered_from(first, launch.grid), np.errstate(all="ignore"):
        launch.kernel[(programs, 1, 1)](*launch.arguments, **launch.options)
    return seen


def bytes_needed(launch: Recorded) -> int:
    """The fewest bytes possible: every tensor argument once."""
    tensors = {id(tensor): tensor for tensor in launch.tensors}.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def with_memory(launch: Recorded) -> Recorded:
    """The launch with zeros in tensors that have no memory."""
    memory = {id(tensor): _memory(tensor) for tensor in launch.tensors}
    return dataclasses.replace(
        launch,
        arguments=tuple(memory.get(id(a), a) for a in launch.arguments),
        options={name: memory.get(id(a), a) for name, a in launch.options.items()},
    )


def _memory(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, FakeTensor):
        return tensor
    size = tensor.storage_offset() + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    flat = untouched(size + 1, tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def untouched(count: int, dtype: torch.dtype) -> Tensor:
    """Zeros on pages that are not there until they are touched, and small then."""
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)


@contextmanager
def numbered_from(first: int, grid: tuple[int, int, int]) -> Iterator[None]:
    """Has a launch along one axis be that of programs from number `first` on in `grid`."""
    builder = interpreter.interpreter_builder
    place, shape = builder.set_grid_idx, builder.set_grid_dim

    def set_place(x: int, _y: int, _z: int) -> None:
        number = first + x
        place(number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1]))

    def set_shape(*_: int) -> None:
        shape(*grid)

    with (
        mock.patch.object(builder, "set_grid_idx", set_place),
        mock.patch.object(builder, "set_grid_dim", set_shape),
    ):
        yield


@contextmanager
def _watching() -> Iterator[Watch]:
    """Notes what programs touch and compute."""
    builder = interpreter.interpreter_builder
    seen = Watch()

    def touch(pointers: Any, mask: Any) -> None:
        addresses = np.broadcast_to(pointers.data, np.shape(mask.data))[mask.data]
        seen.touched.append(np.unique(addresses.astype(np.int64) // SECTOR))

    def touching(method: str, at: int) -> Any:
        original = getattr(builder, method)

        def call(*arguments: Any) -> Any:
            pointers = arguments[1] if method == "create_atomic_rmw" else arguments[0]
            touch(pointers, arguments[at])
            return original(*arguments)

        return mock.patch.object(builder, method, call)

    def computing(owner: Any, method: str, tally: Callable[[Any, tuple[Any, ...]], None]) -> Any:
        original = getattr(owner, method)

        def call(*arguments: Any) -> Any:
            result = original(*arguments)
            tally(result, arguments)
            return result

        return mock.patch.object(owner, method, call)

    def each(result: Any, _: tuple[Any, ...]) -> None:
        if np.issubdtype(result.data.dtype, np.floating):
            seen.plain += np.size(result.data)

    def reduction(_: Any, arguments: tuple[Any, ...]) -> None:
        data = arguments[1][0].handle.data
        if np.issubdtype(data.dtype, np.floating):
            seen.plain += np.size(data)

    def product(_: Any, arguments: tuple[Any, ...]) -> None:
        left, right, _, precision, *_ = arguments
        operations = 2 * left.data.size * right.data.shape[-1]
        if left.data.dtype != np.float32:
            seen.tensor += operations
        elif precision == ir.INPUT_PRECISION.TF32:
            seen.tensor += 2 * operations
        else:
            seen.plain += operations

    # Triton prepares its language again whenever a kernel calls a function: most of the time.
    prepare, prepared = interpreter._patch_lang, set()

    def prepare_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in prepared:
            return None
        prepared.add(module)
        return prepare(function)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(interpreter, "_patch_lang", prepare_once))
        stack.enter_context(touching("create_masked_load", 1))
        stack.enter_context(touching("create_masked_store", 2))
        stack.enter_context(touching("create_atomic_rmw", 3))
        for method in ("binary_op", "unary_op", "create_erf", "create_rsqrt"):
            stack.enter_context(computing(builder, method, each))
        stack.enter_context(computing(builder, "create_dot", product))
        stack.enter_context(computing(interpreter.ReduceOps, "apply_impl", reduction))
        yield seen
