"""How exactly a kernel multiplies matrices."""

import torch
from torch import Tensor


def input_precision(operand: Tensor) -> str:
    """What `tl.dot` is given: TF32 where PyTorch's own products may use it, else exact.

    Args:
        operand: one of the matrices. TF32 is for float32; of 16 bits no flag makes another program.
    """
    single = operand.dtype == torch.float32
    return "tf32" if single and torch.backends.cuda.matmul.allow_tf32 else "ieee"
