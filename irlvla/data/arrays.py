"""Headers of .npy files, read without evaluating them: NumPy takes them for Python and allocates what they claim."""

import math
import re
from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np

from irlvla.files import short

_HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>|=]?[biufc](?:1|2|4|8|16))',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(((?:\d{1,12},\s*){0,8}(?:\d{1,12})?)\),?\s*\}\s*"
)
_LONGEST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayHeader:
    """What a .npy file says about its array, and where the values begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    start: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_header(file: BufferedIOBase) -> ArrayHeader:
    """The header at the beginning of a .npy file; the file is left where the values begin.

    Raises:
        ValueError: There is none, or it is of an array of other things than numbers and truth values.
    """
    start = file.read(8)
    width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}.get(start)
    if width is None:
        raise ValueError("it is no npy array")
    length = int.from_bytes(file.read(width), "little")
    content = file.read(min(length, _LONGEST))
    found = _HEADER.fullmatch(content)
    if len(content) != length or found is None:
        raise ValueError(f"its header is {short(content.decode('latin1').strip())}")
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError as error:
        raise ValueError(f"its type is {short(found[1].decode())}") from error
    shape = tuple(int(length) for length in found[3].split(b",") if length.strip())
    return ArrayHeader(dtype=dtype, shape=shape, order="F" if found[2] == b"True" else "C", start=8 + width + length)
