"""What is committed of a proof, below docs/results: rows with their origin, scores of every scene, quality of the reward world models.

Tables are made from it alone, so that anybody can make them again, or ask another question, without the runs.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.evaluate import METRIC_NAMES, SceneTable, read_table
from irlvla.files import json_mapping

CAMERA_ONLY = "camera_only"
"""The folder, below a seed's, of the run in which half of the training logs hold cameras only."""
STEPPED = ("nc", "dac", "ddc", "tlc", "ttc", "lk", "hc", "ec")
"""Sub-scores that take 0, 0.5 and 1."""
SMOOTH = ("epdms", "ep")
SCALE = 1_000
"""Steps from 0 to 1 in which EPDMS and EP are kept: a point of 100 is 10 of them, which over thousands of scenes is exact enough."""
MISSING = 255
QUALITY = ("auc_", "ece_", "spearman", "enrichment_", "regret_", "share_")
STAGE_NOTES = ("commit", "changed_since_commit", "begun", "finished", "seconds", "interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one seed's test scenes, in [0, 1] (EC is NaN where it is not defined); rows of camera-only runs are `camera_only/ppo`."""

    tokens: np.ndarray
    log: np.ndarray
    """Each scene's log, a number."""
    values: Mapping[str, Mapping[str, np.ndarray]]
    """By row and metric."""
    parts: Mapping[str, np.ndarray]
    """Masks of parts of the split, such as unseen_towns."""


def record(run: Path, seed: int, docs: Path) -> None:
    """Writes what is committed of a seed's run: everything that was evaluated so far."""
    tables: dict[str, SceneTable] = {}
    for place, prefix in ((run, ""), (run / CAMERA_ONLY, f"{CAMERA_ONLY}/")):
        for path in sorted((place / "evaluation" / "test").glob("*.json")):
            if not path.with_suffix(".csv").exists():
                continue
            tables[prefix + path.stem] = read_table(path.with_suffix(".csv"))
            row = json_mapping(path)
            row["command"] = portable(row["command"], seed)
            row["stages"] = {name: stage | {"command": portable(stage["command"], seed)} for name, stage in row["stages"].items()}
            write_compact(docs / "rows" / f"{seed}-{(prefix + path.stem).replace('/', '.')}.json", row)
    if not tables:
        return
    with np.load(run / "evaluation" / "subsets.npz") as parts:
        np.savez_compressed(docs / f"{seed}.npz", **packed(tables), **{f"part_{name}": mask for name, mask in parts.items()})
    marks = {
        f"{prefix}{path.stem}": {name: mark.get(name) for name in STAGE_NOTES}
        for place, prefix in ((run, ""), (run / CAMERA_ONLY, f"{CAMERA_ONLY}/"))
        for path in sorted((place / "marks").glob("*.json"))
        for mark in (json_mapping(path),)
    }
    write_compact(docs / f"{seed}-stages.json", {name: mark for name, mark in marks.items() if mark["finished"]})
    path = run / "reward_quality" / "test.json"
    if path.exists():
        report = without_curves(json_mapping(path))
        write_compact(docs / f"{seed}-reward.json", report | {"command": portable(report["command"], seed)})


def record_demo(run: Path, docs: Path) -> None:
    """Writes the wall seconds of a finished `make demo`, which are comparable when it had the machine to itself."""
    found = json_mapping(run / "results.json")
    write_compact(docs / "demo.json", {name: found[name] for name in ("commit", "command", "seeds", "wall_seconds")})


def portable(command: str | None, seed: int) -> str | None:
    """A stage's command as anybody can give it: its run where `make results` puts it, no number of a parent process.

    Example:
        >>> portable("proof_stage.py --run /data/31/camera_only --stage ppo --parent 77", 31)
        'benchmarks/proof_stage.py --run runs/results/31/camera_only --stage ppo'
    """
    if command is None:
        return None
    bare = re.sub(r" --parent \d+", "", re.sub(r"^\S*proof_stage\.py", "benchmarks/proof_stage.py", command))
    return re.sub(rf"--run \S*?(/{CAMERA_ONLY})?(?= |$)", rf"--run runs/results/{seed}\1", bare)


def packed(tables: Mapping[str, SceneTable]) -> dict[str, np.ndarray]:
    """Scores of many rows on the same scenes in few bytes.

    Raises:
        ValueError: two rows are not of the same scenes.
    """
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if table.tokens != first.tokens:
            raise ValueError(f"{name} and {first.policy} were evaluated on different scenes")
    _, log = np.unique(np.asarray(first.log_names), return_inverse=True)
    stepped = np.stack([[table.values[name] for name in STEPPED] for table in tables.values()])
    smooth = np.stack([[table.values[name] for name in SMOOTH] for table in tables.values()])
    if not np.isin(2 * stepped[~np.isnan(stepped)], (0, 1, 2)).all():
        raise ValueError("a measured sub-score is neither 0 nor 0.5 nor 1")
    return {
        "rows": np.array(list(tables)),
        "tokens": np.array(first.tokens),
        "log": log.astype(np.uint16),
        "stepped": np.where(np.isnan(stepped), MISSING, 2 * np.nan_to_num(stepped)).astype(np.uint8),
        "smooth": np.round(smooth * SCALE).astype(np.uint16),
    }


def scores(path: Path) -> Scores:
    """What `record` kept of a seed's scenes."""
    with np.load(path, allow_pickle=False) as kept:
        stepped = np.where(kept["stepped"] == MISSING, np.nan, kept["stepped"] / 2.0)
        smooth = kept["smooth"].astype(np.float64) / SCALE
        values = {
            str(row): {
                name: smooth[place, SMOOTH.index(name)] if name in SMOOTH else stepped[place, STEPPED.index(name)] for name in METRIC_NAMES
            }
            for place, row in enumerate(kept["rows"])
        }
        parts = {name.removeprefix("part_"): kept[name] for name in kept.files if name.startswith("part_")}
        return Scores(tokens=kept["tokens"], log=kept["log"].astype(int), values=values, parts=parts)


def without_curves(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report on reward models without its reliability curves, and with the differences from the model without a camera alone."""
    kinds = {}
    for kind, found in report["kinds"].items():
        rows = [
            {"model": row["model"], "parameters": row["parameters"], "milliseconds_per_1000": row["milliseconds_per_1000"]}
            | {name: value for name, value in row.items() if name.startswith(QUALITY)}
            for row in found["rows"]
        ]
        pairs = [pair for pair in found["pairs"] if pair["against"] == "rwm_no_camera"]
        kinds[kind] = {name: found[name] for name in ("scenes", "logs", "candidates", "mean_epdms")} | {"rows": rows, "pairs": pairs}
    return {name: report[name] for name in ("definition", "split", "commit", "command", "seed")} | {"kinds": kinds}


def write_compact(path: Path, values: Any) -> None:
    """JSON in few bytes: numbers with six digits, a line for each of the outermost values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(_short(value), separators=(', ', ': '))}" for name, value in values.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: _short(item) for name, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list | tuple) else value
