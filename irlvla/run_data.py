"""Where the data of a run lies: what was given on the command line, kept in the run's folder for later stages."""

import json
import os
from pathlib import Path

from irlvla.files import json_mapping, replaced


def environment(name: str) -> Path | None:
    """A folder that an environment variable names, None if it is not set."""
    return Path(os.environ[name]) if os.environ.get(name) else None


def root(given: Path | None, name: str, flag: str) -> Path:
    """A data folder that was given, or that an environment variable names.

    Raises:
        ValueError: it is neither.
    """
    found = given or environment(name)
    if found is None:
        raise ValueError(f"pass {flag}, or set the environment variable {name}")
    return found


def data_of(
    run: Path,
    logs: Path | None = None,
    maps: Path | None = None,
    split: Path | None = None,
    val: Path | None = None,
    recipe: str | None = None,
    seed: int | None = None,
) -> dict[str, str]:
    """A run's data, recipe and seed: what was given, else what an earlier stage kept; kept for later stages.

    Raises:
        ValueError: the run does not know one of them yet.
    """
    path = run / "data.json"
    kept = json_mapping(path) if path.exists() else {}
    values = {"recipe": "default", "seed": "0"} | kept
    values |= {name: str(value) for name, value in (("recipe", recipe), ("seed", seed)) if value is not None}
    if logs is not None or "logs" not in kept:
        values["logs"] = _text(root(logs, "OPENSCENE_DATA_ROOT", "--logs"))
    if maps is not None or "maps" not in kept:
        values["maps"] = _text(root(maps, "NUPLAN_MAPS_ROOT", "--maps"))
    if split is not None:
        values["split"] = _text(split)
        values["val"] = _text(val or split.with_name("val.yaml"))
    elif val is not None:
        values["val"] = _text(val)
    if "split" not in values:
        raise ValueError(f"{run} does not know its training split yet: pass --split")
    if values != kept:
        with replaced(path) as beside:
            beside.write_text(json.dumps(values, indent=1) + "\n")
    return values


def _text(path: Path) -> str:
    return str(path.resolve())
