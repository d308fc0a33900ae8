"""One stage of a proof (benchmarks/proof.py), in a process of its own that does not outlive the one that started it.

python benchmarks/proof_stage.py --run runs/results/31 --stage ppo --seed 31 --resume
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # this checkout, whichever is installed

from proof_record import CAMERA_ONLY  # noqa: E402

from irlvla.baselines import BASELINES  # noqa: E402
from irlvla.camera_only import write_camera_only  # noqa: E402
from irlvla.data.store import Store  # noqa: E402
from irlvla.definitions import EPDMS  # noqa: E402
from irlvla.evaluate import (  # noqa: E402
    DISTANCE_NAMES,
    METRIC_NAMES,
    SceneTable,
    baseline_plans,
    privileged_plans,
    scene_tables,
    subsets,
    write_table,
)
from irlvla.files import json_mapping  # noqa: E402
from irlvla.intervals import intervals_of_sums  # noqa: E402
from irlvla.learned import BY_PREDICTED, EXACT_SELECTOR, SELECTORS, ZEROED, learned_plans, trained  # noqa: E402
from irlvla.make_world import SPLITS, make_world  # noqa: E402
from irlvla.perceive import perception_quality  # noqa: E402
from irlvla.prepare import prepare, print_failures  # noqa: E402
from irlvla.recipes import Recipe, cache_tokens, fit_stage, keep_recipe, recipe_of  # noqa: E402
from irlvla.reward_benchmark import benchmark, print_quality  # noqa: E402
from irlvla.rollout import load_policy  # noqa: E402
from irlvla.run import provenance, write_json  # noqa: E402
from irlvla.workers import leave_with  # noqa: E402

PRIVILEGED = ("human", "pdm_closed")
OWN = {
    "vision": ("imitation",),
    **dict.fromkeys(("imitation", "world", "strip", "prepare", "tokens", "evaluate", "quality", "perceive"), ()),
}
"""Folders of a stage that begins afresh, where that is not the one of its name: what lies there is removed."""


def main(
    run: Path,
    stage: str,
    seed: int,
    recipe: str = "default",
    test_logs: int | None = None,
    rows: tuple[str, ...] = (),
    resume: bool = False,
    parent: int | None = None,
) -> None:
    """Carries out one stage.

    Args:
        run: the run's folder.
        stage: its name.
        seed: of everything.
        recipe: a key of RECIPES.
        test_logs: of the world, where that shall be more than its size brings.
        rows: to evaluate; none: all that can be.
        resume: go on with what an interrupted process left.
        parent: the process without which this one ends.
    """
    if parent is not None:
        leave_with(parent)
    torch.set_num_threads(1)
    stage = stage.split(":")[0]
    if not resume:
        for name in OWN.get(stage, (stage,)):
            shutil.rmtree(run / name, ignore_errors=True)
    chosen, world = recipe_of(recipe, seed), (run.parent if run.name == CAMERA_ONLY else run).resolve() / "world"
    if stage == "world":
        make_world(world, seed, chosen.logs, chosen.sensors.cameras, test_logs)
    elif stage == "strip":
        write_camera_only(world / "openscene", world / "splits" / "train.yaml", run / "openscene", seed=seed)
    elif stage == "prepare":
        prepare_all(run, world, chosen)
    elif stage == "tokens":
        cache_tokens(run, *(Store(run / "stores" / split) for split in ("train", "val")))
    elif stage == "evaluate":
        evaluate(run, world, seed, rows or evaluable(run))
    elif stage == "perceive":
        perceive(run, rows)
    elif stage == "quality":
        print_quality(benchmark(run, run / "stores" / "train", Store(run / "stores" / "test"), "test", seed))
    else:
        fit_stage(stage, chosen, run, *(Store(run / "stores" / split) for split in ("train", "val")), resume=resume or stage == "imitation")


def prepare_all(run: Path, world: Path, recipe: Recipe) -> None:
    """Prepares the splits of a world; where logs were stripped that of training alone, since the others are those of the seed's run.

    Raises:
        SystemExit: scenes could not be prepared.
    """
    stripped = run.name == CAMERA_ONLY
    logs, maps = (run.resolve() if stripped else world) / "openscene", world / "maps"
    splits = {name: world / "splits" / f"{name}.yaml" for name in SPLITS}
    keep_recipe(run, recipe)
    data = {"logs": logs, "maps": maps, "recipe": recipe.name, "split": splits["train"], "val": splits["val"], "seed": str(recipe.seed)}
    write_json(run / "data.json", data)
    shared = ("val", "test") if stripped else ()
    stores = [prepare(logs, maps, path, run / "stores" / split, recipe.sensors) for split, path in splits.items() if split not in shared]
    for split in shared:
        (run / "stores" / split).unlink(missing_ok=True)
        (run / "stores" / split).symlink_to(Path("..") / ".." / "stores" / split)
    for store in stores:
        print_failures(store)
    if any(store.failed for store in stores):
        raise SystemExit(1)


def perceive(run: Path, rows: Sequence[str]) -> None:
    """Writes `perception/<row>.json`: how well the policies of some rows tell what is there in the test split."""
    store = Store(run / "stores" / "test")
    for row in rows:
        report = perception_quality(load_policy(run / row / "checkpoint"), store, np.arange(len(store)))
        write_json(run / "perception" / f"{row}.json", {"policy": row, **report})
        print(f"{row}: { ({name: part.get('ap') for name, part in report.items() if isinstance(part, dict)}) }", flush=True)


def stages_of(row: str) -> tuple[str, ...]:
    """The stages that a row of the table comes from."""
    if row in PRIVILEGED or row in BASELINES:
        return ("prepare",)
    if row == EXACT_SELECTOR or row in SELECTORS:
        return SELECTORS.get(row, "imitation"), "reward"
    return ("imitation" if row == ZEROED else row.removesuffix(BY_PREDICTED),)


def made_of(run: Path, row: str) -> dict[str, str] | None:
    """When the stages of a row were finished; None where one is not."""
    times = {}
    for stage in stages_of(row):
        path = run / "marks" / f"{stage}.json"
        times[stage] = json_mapping(path)["finished"] if path.exists() else None
    return None if None in times.values() else times


def evaluable(run: Path) -> tuple[str, ...]:
    """All rows whose stages are finished."""
    names = (*PRIVILEGED, *BASELINES, *trained(run), EXACT_SELECTOR, f"ppo{BY_PREDICTED}", ZEROED)
    return tuple(name for name in names if made_of(run, name) is not None)


def evaluate(run: Path, world: Path, seed: int, rows: Sequence[str]) -> None:
    """Plans and scores rows on the test split, those left out that were evaluated since they were trained.

    Leaves `evaluation/test/<row>.csv` with a line a scene and `<row>.json` with means, intervals and where they come from.
    """
    folder, store, split = run / "evaluation" / "test", Store(run / "stores" / "test"), world / "splits" / "test.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    made = {row: made_of(run, row) for row in rows}
    missing = [row for row in rows if not (folder / f"{row}.json").exists() or json_mapping(folder / f"{row}.json")["made"] != made[row]]
    print(f"{len(store)} scenes, rows: {', '.join(missing) or 'all kept'}")
    indices = np.arange(len(store))
    plans = privileged_plans(store, indices) if set(missing) & set(PRIVILEGED) else {}
    plans |= baseline_plans(store, indices) if set(missing) & set(BASELINES) else {}
    learned = [row for row in missing if row not in PRIVILEGED and row not in BASELINES]
    plans |= learned_plans(run, store, indices, learned, run / "stores" / "tokens_test")
    tables = scene_tables(store, indices, {row: plans[row] for row in missing}) if missing else {}
    parts = {"all": np.ones(len(store), dtype=bool)} | subsets(store, indices, split)
    np.savez_compressed(folder.parent / "subsets.npz", **{name: mask for name, mask in parts.items() if name != "all"})
    for row, table in tables.items():
        write_table(folder / f"{row}.csv", table)
        about = {
            "policy": row,
            "run": "" if run.name != CAMERA_ONLY else f"{CAMERA_ONLY}/",
            "seed": seed,
            "definition": EPDMS,
            "split": "test",
            **origin_of(run, row, made[row] or {}),
        }
        write_json(folder / f"{row}.json", about | {"parts": {name: summary(table, mask) for name, mask in parts.items()}})


def origin_of(run: Path, row: str, made: dict[str, str]) -> dict[str, Any]:
    """Where a row comes from: commits, commands and seconds of its stages and of its evaluation, and the probes that chose its weights."""
    marks = {stage: json_mapping(run / "marks" / f"{stage}.json") for stage in made}
    stages = {
        stage: {
            name: mark.get(name) for name in ("commit", "changed_since_commit", "command", "begun", "finished", "seconds", "interrupted")
        }
        for stage, mark in marks.items()
    }
    about = provenance()
    found = {"commit": about["commit"], "changed_since_commit": about["changed_since_commit"], "command": about["command"]}
    found |= {"made": made, "stages": stages}
    places = [run / stage / "probes.json" for stage in made if (run / stage / "probes.json").exists()]
    return found | {"probes": json_mapping(places[0]) if places else None}


def summary(table: SceneTable, chosen: np.ndarray) -> dict[str, Any]:
    """Means of a part of the scenes with intervals that resample logs: scores 0-100, distances in m; None where nothing is defined."""
    names = (*METRIC_NAMES, *DISTANCE_NAMES)
    values = np.stack([table.values[name][chosen] for name in names], axis=1)
    _, log = np.unique(np.asarray(table.log_names)[chosen], return_inverse=True)
    there = ~np.isnan(values)
    sums, counts = (np.stack([np.bincount(log, weights=column) for column in part.T], axis=1) for part in (np.nan_to_num(values), there))
    defined = counts.sum(axis=0) > 0
    ends = np.full((len(names), 2), np.nan)
    ends[defined] = intervals_of_sums(sums[:, defined], counts[:, defined])
    found: dict[str, Any] = {"scenes": int(chosen.sum()), "logs": int(log.max()) + 1}
    for place, name in enumerate(names):
        scale = 1.0 if name in DISTANCE_NAMES else 100.0
        mean = scale * float(sums[:, place].sum() / counts[:, place].sum()) if defined[place] else None
        found[name] = {"mean": mean, "ci95": (scale * ends[place]).tolist() if defined[place] else None}
    return found


if __name__ == "__main__":
    tyro.cli(main)
