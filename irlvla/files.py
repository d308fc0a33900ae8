"""JSON from disk, and values from disk in messages: what every reader does alike."""

import json
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
