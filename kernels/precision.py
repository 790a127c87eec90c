"""How exactly a kernel multiplies float32 matrices."""

import torch


def input_precision() -> str:
    """What `tl.dot` is given: TF32 where PyTorch's own matrix products may use it, else exact."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
