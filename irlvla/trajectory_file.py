"""The file of trajectories that is to be scored: an .npz with arrays named after scene tokens."""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data.arrays import array_header
from irlvla.types import POSES, STEPS

KINDS = (("", POSES, 0), ("_10hz", STEPS - 1, 1000))
"""Suffix of an array's name, its poses, number of its first trajectory in the table."""

_BAD_ARCHIVE = (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
LARGEST = 1 << 29
"""Bytes of an array: a few hundred thousand plans of a scene."""


class _Reader(io.RawIOBase):
    """A file that keeps its own place, so that forked processes read the one that was opened before side by side."""

    def __init__(self, path: Path) -> None:
        self._file, self._place = os.open(path, os.O_RDONLY), 0
        self._size = os.fstat(self._file).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._file, [buffer], self._place)
        self._place += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, for `tokens_in` and `plans`; processes forked meanwhile may read it too.

    Raises:
        ValueError: The file is missing, or no npz file.
    """
    try:
        reader = _Reader(path)
    except OSError as error:
        raise ValueError(f"trajectories {path} do not exist or cannot be opened ({error})") from error
    with reader:
        try:
            archive = zipfile.ZipFile(reader)
            archive.filename = str(path)
        except _BAD_ARCHIVE as error:
            raise ValueError(f"trajectories {path}: no readable npz file ({str(error)[:300]})") from error
        with archive:
            yield archive


def tokens_of(path: Path) -> list[str]:
    """Tokens that have plans in a trajectories file, in the file's order.

    Raises:
        ValueError: The file cannot be read or holds no array called <token>_poses or <token>_poses_10hz.
    """
    with opened(path) as archive:
        tokens = list(tokens_in(archive))
    if not tokens:
        raise ValueError(f"trajectories {path}: no array is called <token>_poses or <token>_poses_10hz")
    return tokens


def tokens_in(archive: zipfile.ZipFile) -> dict[str, int]:
    """Token -> bytes of its plans, in the file's order.

    Raises:
        ValueError: An array that is passed over has another name in its own header: the file is damaged, and it may be somebody's plans.
    """
    sizes: dict[str, int] = {}
    for entry in archive.infolist():
        for suffix, _, _ in KINDS:
            ending = f"_poses{suffix}.npy"
            if entry.filename.endswith(ending) and not entry.filename.endswith(f"_prev{ending}"):
                token = entry.filename.removesuffix(ending)
                sizes[token] = sizes.get(token, 0) + entry.file_size
                break
        else:
            _check_name(archive, entry)
    return sizes


def _check_name(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    try:
        with suppress(NotImplementedError, RuntimeError):  # nobody reads how it is packed
            archive.open(entry).close()
    except zipfile.BadZipFile as error:
        raise ValueError(f"trajectories {archive.filename}: array {entry.filename} cannot be used: {str(error)[:300]}") from error


def plans(archive: zipfile.ZipFile, token: str, suffix: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A scene's plans of one kind and those made one frame earlier, None for what the file does not hold.

    Args:
        archive: From `opened`.
        token: The scene.
        suffix: Of the kind, see `KINDS`.

    Returns:
        Float64 arrays (N, 8, 3) or (N, 40, 3).

    Raises:
        ValueError: An array cannot be read, has another shape, is not of numbers or not finite, or the two differ in length.
    """
    count = {kind: count for kind, count, _ in KINDS}[suffix]
    poses, previous = (_array(archive, f"{token}_{name}{suffix}", count) for name in ("poses", "prev_poses"))
    if poses is not None and previous is not None and len(previous) != len(poses):
        raise ValueError(f"{len(poses)} plans in {token}_poses{suffix} but {len(previous)} in {token}_prev_poses{suffix}")
    return poses, previous


def _array(archive: zipfile.ZipFile, name: str, count: int) -> np.ndarray | None:
    if f"{name}.npy" not in archive.NameToInfo:
        return None
    entry = archive.NameToInfo[f"{name}.npy"]
    try:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in another way than NumPy does")
        with archive.open(entry) as file:
            header = array_header(file)
            # Before anything is allocated: the header may claim what it likes.
            if len(header.shape) != 3 or header.shape[1:] != (count, 3) or header.dtype.kind not in "fiu":
                raise ValueError(f"it has shape {header.shape} of {header.dtype}, not (N, {count}, 3) of numbers")
            if header.size > LARGEST:
                raise ValueError(f"its {header.shape[0]} plans have {header.size} bytes, more than {LARGEST}")
            data = file.read(header.size + 1)
    except _BAD_ARCHIVE as error:
        raise ValueError(f"array {name} cannot be used: {str(error)[:300]}") from error
    if len(data) != header.size:
        raise ValueError(f"array {name} cannot be used: {len(data)} bytes for shape {header.shape} of {header.dtype}")
    values = np.frombuffer(data, dtype=header.dtype).reshape(header.shape, order=header.order).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"array {name} cannot be used: it holds values that are not finite")
    return np.ascontiguousarray(values)
