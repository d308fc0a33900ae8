"""Files that are read or written alike everywhere: JSON, files that appear whole, folders for one process at a time; values from disk in messages."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def json_value(path: Path | str) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: The file is missing or no JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def json_mapping(path: Path | str) -> dict[str, Any]:
    """What a JSON file holds whose outermost value is a mapping.

    Raises:
        ValueError: The file is missing, no JSON, or holds something else; the message names it.
    """
    value = json_value(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds no mapping but {short(value)}")
    return value


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside a file to write to, which takes its place if nothing went wrong: the file is whole or as it was before.

    Raises:
        OSError: The file cannot be written, for instance because the disk is full; the error names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named(path):
            yield beside
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives errors of the disk the name of the file that was written: when a disk is full, writing does not say where.

    Raises:
        OSError: What was raised inside, with a name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps what lies in a folder, or will, for this process; a lock beside it goes when the process ends, however that be.

    Raises:
        ValueError: Another process keeps it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    with path.open("w") as lock:
        try:
            # A record lock: processes forked from this one do not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ValueError(f"{folder}: another process is at work there (it holds {path})") from error
        yield


def short(value: Any) -> str:
    """A value for a message; of containers only the type, since they may hold themselves or be far larger than the file they came from.

    >>> short("EPSG:32611"), short([1, 2])
    ("'EPSG:32611'", 'list')
    """
    if value is None or isinstance(value, bool | float | str):
        return ascii(value[:100] if isinstance(value, str) else value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 100 else f"an integer of {value.bit_length()} bits"
    return type(value).__name__.strip("_").lower()
