"""Numbers compared by their bits, without a copy: the proof of a merge asks this of every one of them."""

import ctypes

import numpy as np
import torch

INTEGERS = {2: torch.int16, 4: torch.int32}  # by bytes per element
# The bits of infinity, those of the sign, and the integers without one.
LIMITS = {
    torch.bfloat16: (0x7F80, 1 << 15, np.uint16),
    torch.float16: (0x7C00, 1 << 15, np.uint16),
    torch.float32: (0x7F800000, 1 << 31, np.uint32),
}
memcmp = ctypes.CDLL(None).memcmp
memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def bits(rows: torch.Tensor) -> np.ndarray:
    """The numbers as integers, to compare them bit by bit; numpy does so several times as fast as torch."""
    return rows.view(INTEGERS[rows.element_size()]).numpy()


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two contiguous tensors have the same bytes. memcmp takes half the time of numpy, a tenth of torch's."""
    return one.nbytes == other.nbytes and memcmp(one.data_ptr(), other.data_ptr(), one.nbytes) == 0


def all_finite(rows: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite.

    Among integers with a sign none is above the positive ones of those, and among integers without, the negative ones.
    """
    numbers = bits(rows)
    infinity, sign, unsigned = LIMITS[rows.dtype]
    return numbers.size == 0 or bool(numbers.max() < infinity and numbers.view(unsigned).max() < infinity | sign)
