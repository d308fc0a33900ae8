"""Arrays in .npy files that are mapped: their headers are read without evaluating them, since NumPy takes them for Python."""

import math
import os
import re
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from irlvla.files import named, short

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


def new_array(path: Path, shape: tuple[int, ...], kind: type | np.dtype) -> np.ndarray:
    """A new .npy file of zeros, mapped for writing, that has its room on disk: writing to a map of a full disk would kill the process.

    Args:
        path: the file; one that is there is replaced, so that whoever has mapped it keeps what it holds.
        shape: of the array.
        kind: of its numbers.

    Raises:
        OSError: the disk is full, or the file cannot be made; the error names it.
    """
    path.unlink(missing_ok=True)
    with named(path):
        array = open_memmap(path, mode="w+", dtype=kind, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def mapped_array(path: Path, shape: tuple[int | None, ...], kind: type) -> np.ndarray:
    """A read-only memory map of an .npy file's array.

    Args:
        path: the file.
        shape: the shape that the array has to have; None stands for any size.
        kind: the type of number that it has to hold.

    Raises:
        ValueError: there is no such file, or it holds another array, or fewer or more bytes than that takes.
    """
    try:
        with path.open("rb") as file:
            header = array_header(file)
        size = path.stat().st_size - header.start
        is_right = len(header.shape) == len(shape) and all(wanted in (None, size) for wanted, size in zip(shape, header.shape))
        if header.dtype != kind or not is_right or header.order != "C" or header.size != size:
            raise ValueError(f"it has the shape {header.shape} of {header.dtype} in {size} bytes, not {shape} of {np.dtype(kind)}")
        if not size:
            return np.zeros(header.shape, kind)
        return np.memmap(path, dtype=kind, mode="r", offset=header.start, shape=header.shape)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
