"""A run's folder: what was asked, what was learned, and enough state to go on as if nothing had happened.

A checkpoint is a folder of safetensors (one file a module) and one JSON file; a training state adds optimisers and random
generators. Folders appear whole or not at all: they are written beside their place and renamed. The JSON file holds sums by which
damaged files are known.
"""

import csv
import dataclasses
import json
import os
import re
import shutil
import types
import typing
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from irlvla import origin
from irlvla.definitions import EPDMS
from irlvla.files import json_mapping, named, replaced, short

Generator = torch.Generator | np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint folder holds: state dicts by module name, and three plain JSON values."""

    weights: dict[str, dict[str, torch.Tensor]]
    config: dict[str, Any]
    normaliser: dict[str, Any]
    provenance: dict[str, Any]


def save(
    folder: Path | str,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    config: Any,
    normaliser: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a checkpoint folder, replacing an older one only when the new one is complete.

    Args:
        folder: where the checkpoint is to lie.
        weights: module name -> its `state_dict()`.
        config: a frozen dataclass or a dict of plain values.
        normaliser: plain values or arrays that turn metres into what the network sees.
        provenance: `provenance(...)` of this module.

    Returns:
        The folder.
    """
    with _replaced(Path(folder)) as new:
        sums = {name: _write_tensors(new / f"{name}.safetensors", state) for name, state in weights.items()}
        values = {"weights": sorted(weights), "config": config, "normaliser": dict(normaliser), "provenance": dict(provenance)}
        _write_summed(new / "checkpoint.json", values, sums)
    return Path(folder)


def load(folder: Path | str) -> Checkpoint:
    """A checkpoint folder's contents, on the CPU.

    Raises:
        ValueError: the folder is no checkpoint, or a file of it is missing or damaged.
    """
    settle(folder)
    path = Path(folder) / "checkpoint.json"
    values = _checked_json(path)
    for key, kind in (("weights", list), ("config", dict), ("normaliser", dict), ("provenance", dict)):
        if not isinstance(values.get(key), kind):
            raise ValueError(f"{path}: {key} is {short(values.get(key))}, no {kind.__name__}")
    wrong = [name for name in values["weights"] if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name)]
    if wrong:
        raise ValueError(f"{path}: weights names {short(wrong[0])}, no module")
    weights = {name: _checked_tensors(Path(folder), name, values) for name in values["weights"]}
    return Checkpoint(weights=weights, config=values["config"], normaliser=values["normaliser"], provenance=values["provenance"])


def save_state(
    folder: Path | str,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    optimisers: Mapping[str, torch.optim.Optimizer | Mapping[str, Any]],
    generators: Mapping[str, Generator],
    values: Mapping[str, Any],
) -> Path:
    """Writes all that a training loop needs to continue with the same numbers.

    Args:
        folder: where the state is to lie; an older one there is replaced.
        weights: module (or average, or buffer) name -> its tensors.
        optimisers: optimisers by name, or their `state_dict()`.
        generators: explicit random generators by name, torch's or NumPy's.
        values: counters and other plain JSON values (step, best score ...).

    Returns:
        The folder.
    """
    states: dict[str, Any] = {"weights": sorted(weights), "optimisers": {}, "generators": {}, "values": dict(values)}
    sums: dict[str, int] = {}
    with _replaced(Path(folder)) as new:
        for name, state in weights.items():
            sums[f"weights-{name}"] = _write_tensors(new / f"weights-{name}.safetensors", state)
        for name, optimiser in optimisers.items():
            state = optimiser.state_dict() if isinstance(optimiser, torch.optim.Optimizer) else optimiser
            moments = {f"{index}.{key}": value for index, row in state["state"].items() for key, value in row.items()}
            tensors = {key: torch.as_tensor(value) for key, value in moments.items()}
            sums[f"optimiser-{name}"] = _write_tensors(new / f"optimiser-{name}.safetensors", tensors)
            states["optimisers"][name] = state["param_groups"]
        for name, generator in generators.items():
            if isinstance(generator, torch.Generator):
                sums[f"generator-{name}"] = _write_tensors(new / f"generator-{name}.safetensors", {"state": generator.get_state()})
                states["generators"][name] = "torch"
            else:
                states["generators"][name] = generator.bit_generator.state
        _write_summed(new / "state.json", states, sums)
    return Path(folder)


def has_state(folder: Path | str) -> bool:
    """Whether a training state that `load_state` reads lies in a folder."""
    settle(folder)
    return (Path(folder) / "state.json").exists()


def load_state(
    folder: Path | str,
    modules: Mapping[str, torch.nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    generators: Mapping[str, Generator],
) -> dict[str, Any]:
    """Puts a saved state back into modules, optimisers and generators, in place.

    Returns:
        The plain values that were saved with it.

    Raises:
        ValueError: the folder is no state, or lacks something that is asked for by name.
    """
    folder = Path(folder)
    states = _checked_json(folder / "state.json")
    for name, module in modules.items():
        module.load_state_dict(_checked_tensors(folder, f"weights-{name}", states))
    for name, optimiser in optimisers.items():
        if name not in states["optimisers"]:
            raise ValueError(f"{folder}: no optimiser {name!r}, only {sorted(states['optimisers'])}")
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _checked_tensors(folder, f"optimiser-{name}", states).items():
            index, moment = key.split(".", 1)
            moments.setdefault(int(index), {})[moment] = value
        optimiser.load_state_dict({"state": moments, "param_groups": states["optimisers"][name]})
    for name, generator in generators.items():
        if name not in states["generators"]:
            raise ValueError(f"{folder}: no generator {name!r}, only {sorted(states['generators'])}")
        if isinstance(generator, torch.Generator):
            generator.set_state(_checked_tensors(folder, f"generator-{name}", states)["state"])
        else:
            generator.bit_generator.state = states["generators"][name]
    return states["values"]


def state_tensors(folder: Path | str, name: str) -> dict[str, torch.Tensor]:
    """The tensors saved under `name` in a training state that belong to no module (averages, caches)."""
    return _checked_tensors(Path(folder), f"weights-{name}", _checked_json(Path(folder) / "state.json"))


@contextmanager
def metrics_writer(folder: Path | str, resume_step: int | None = None, name: str = "metrics") -> Iterator[Callable[..., None]]:
    """Opens `folder/metrics.csv` and TensorBoard's event file; gives a function `write(step, loss=..., ...)`.

    The CSV is long (step, name, value), so rows of different kinds share one file; `train__loss=` becomes the name train/loss.

    Args:
        folder: the stage's folder.
        resume_step: rows of later steps than this one, left by an interrupted run, are dropped; None starts afresh.
        name: stem of the CSV file.

    Yields:
        The function that writes one row's values under their names.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    kept = [] if resume_step is None or not path.exists() else [row for row in metrics(path) if row[0] <= resume_step]
    # Rows that were there are never gone, not even for a moment.
    with replaced(path) as beside, beside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["step", "name", "value"])
        writer.writerows([step, key, repr(value)] for step, key, value in kept)
    with named(path), path.open("a", newline="") as stream, SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step) as board:
        writer = csv.writer(stream)

        def write(step: int, **values: float) -> None:
            for key, value in values.items():
                name = key.replace("__", "/")
                writer.writerow([step, name, repr(float(value))])
                board.add_scalar(name, float(value), step)
            stream.flush()

        yield write


def metrics(path: Path | str) -> list[tuple[int, str, float]]:
    """Rows (step, name, value) of a metrics CSV in the order they were written; a half-written last row is left out."""
    rows = []
    with Path(path).open(newline="") as stream:
        for row in list(csv.reader(stream))[1:]:
            if len(row) == 3:
                rows.append((int(row[0]), row[1], float(row[2])))
    return rows


def provenance(data_hash: str = "", seed: int | None = None) -> dict[str, Any]:
    """Where a result comes from: commit (None outside a git checkout), command, data, definition of the score, versions."""
    return {
        "commit": origin.commit(),
        "changed_since_commit": origin.changed_since_commit(),
        "command": origin.command(),
        "data_hash": data_hash,
        "seed": seed,
        "epdms_definition": EPDMS,
        "versions": origin.versions() | {"torch": torch.__version__},
    }


def write_json(path: Path | str, values: Any) -> None:
    """Writes plain values, dataclasses and arrays as indented JSON; the file appears whole or not at all."""
    with replaced(Path(path)) as beside:
        beside.write_text(json.dumps(_plain(values), indent=1, allow_nan=False) + "\n")


def config_of(kind: type, values: Any) -> Any:
    """A frozen config dataclass rebuilt from its JSON form: nested dataclasses and tuples get their types back.

    Raises:
        ValueError: the values name a field that the class does not have, lack one that it needs, or hold one of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__} is {short(values)}, no mapping")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no fields [{', '.join(short(name) for name in unknown[:5])}]: the checkpoint was written by another version"
        )
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    needed = [name for name, field in fields.items() if field.default is missing and field.default_factory is missing]
    if set(needed) - set(values):
        raise ValueError(
            f"{kind.__name__} lacks {', '.join(sorted(set(needed) - set(values)))}: the checkpoint was written by another version"
        )
    return kind(**{name: _typed(f"{kind.__name__}.{name}", hints[name], value) for name, value in values.items()})


def _typed(where: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return config_of(hint, value)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return value if value is None or len(options) != 1 else _typed(where, options[0], value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if inner and inner[-1] is Ellipsis else list(inner) or [Any] * len(value)
        if len(kinds) != len(value):
            raise ValueError(f"{where} holds {len(value)} values, not {len(kinds)}")
        return tuple(_typed(where, kind, item) for kind, item in zip(kinds, value, strict=True))
    plain = {int: int, float: int | float, str: str, bool: bool}.get(hint)
    if typing.get_origin(hint) is tuple or (
        plain is not None and (not isinstance(value, plain) or isinstance(value, bool) != (hint is bool))
    ):
        raise ValueError(f"{where} is {short(value)}, no {getattr(hint, '__name__', hint)}")
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value


def _contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Own, packed copies: safetensors refuses tensors that share memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def settle(folder: Path | str) -> None:
    """Puts a folder in its place whose writer was killed between the two renames by which it takes that of an older one."""
    place = Path(folder)
    new, old = _beside(place)
    if old.exists() and not place.exists():
        # The older one moved only when the new one was whole.
        with suppress(FileNotFoundError):
            (new if new.exists() else old).rename(place)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    settle(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    yield new
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    with suppress(FileNotFoundError):  # a reader may have settled it
        os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_tensors(path: Path, state: Mapping[str, torch.Tensor]) -> int:
    """Writes tensors; gives the file's sum."""
    content = safetensors.torch.save(_contiguous(state))
    with named(path):
        path.write_bytes(content)
    return zlib.crc32(content)


def _write_summed(path: Path, values: Mapping[str, Any], sums: Mapping[str, int]) -> None:
    """Writes JSON with the sums of the files beside it, and its own."""
    summed = _plain(values | {"sums": sums})
    write_json(path, summed | {"sum": _sum(summed)})


def _sum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps({key: value for key, value in values.items() if key != "sum"}, sort_keys=True).encode())


def _checked_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path} does not exist: {path.parent} holds no such checkpoint")
    values = json_mapping(path)
    # Versions before these sums left none.
    if "sum" in values and values["sum"] != _sum(values):
        raise ValueError(f"{path} is damaged: it is not what was written")
    return values


def _checked_tensors(folder: Path, name: str, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(f"{path} does not exist: {path.parent} is incomplete or of another kind")
    sums = values.get("sums", {})
    try:
        content = path.read_bytes()
        if isinstance(sums, dict) and zlib.crc32(content) != sums.get(name, zlib.crc32(content)):
            raise ValueError("it is damaged: not what was written")
        return safetensors.torch.load(content)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: no readable weights ({error})") from error
