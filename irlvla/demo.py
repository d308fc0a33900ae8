"""The whole path behind one command: world, store, three stages, evaluation; every part is done once and then kept."""

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from irlvla.assess import assess, print_table, seconds_of
from irlvla.data.store import Store
from irlvla.files import held, json_mapping
from irlvla.make_world import make_world
from irlvla.prepare import prepare, print_failures
from irlvla.recipes import Recipe, cache_tokens, fit_stage, keep_recipe
from irlvla.run import write_json
from irlvla.workers import leave_with

SPLITS = ("train", "val", "test")
LEARNING = {
    "imitation": (("vision",), (("imitation",), ("ego_mlp", "no_camera"))),
    "reward": (("reward",), ()),
    "ppo": ((), (("ppo",), ("imitation_continued", "best_of_g"))),
}
"""The timed stages: what is trained first, alone on all cores, and then lanes that train side by side, one thread each.

The method's part runs in this process, the controls in one of their own. Two torch threads beside another busy core are slower
than one; alone they are nearly twice as fast. Which threads a part gets never depends on the clock, so that numbers repeat.
"""
CORES = 2


def demo(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Runs a recipe on the embedded world, continuing whatever an interrupted run left in the folder.

    Args:
        folder: of the run; gets world, stores, one folder a trained model, results.json, report.html.
        recipe: what to run.

    Returns:
        What results.json holds.

    Raises:
        ValueError: a part failed, or another process is at work on the run.
    """
    with held(folder):
        return _demo(folder, recipe)


def _demo(folder: Path, recipe: Recipe) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    keep_recipe(folder, recipe)
    world = folder.resolve() / "world"
    logs, maps, splits = world / "openscene", world / "maps", {name: world / "splits" / f"{name}.yaml" for name in SPLITS}
    write_json(
        folder / "data.json",
        {"logs": logs, "maps": maps, "recipe": recipe.name, "split": splits["train"], "val": splits["val"], "seed": str(recipe.seed)},
    )
    cameras = recipe.sensors.cameras

    with _stage(folder, "world", [recipe.seed, recipe.logs, cameras]) as state:
        if state != "done":
            make_world(world, seed=recipe.seed, logs=recipe.logs, cameras=cameras)
    stores: dict[str, Store] = {}
    with _stage(folder, "prepare", [recipe.seed, recipe.logs, asdict(recipe.sensors)]):
        for split, path in splits.items():
            stores[split] = prepare(logs, maps, path, folder / "stores" / split, recipe.sensors)
            print_failures(stores[split])
    depends_on: list[Any] = [stores["train"].key, stores["val"].key]
    for name, (alone, lanes) in LEARNING.items():
        parts = [*alone, *(part for lane in lanes for part in lane)]
        depends_on = [*depends_on, *(asdict(getattr(recipe, part)) for part in parts if part != "vision")]
        with _stage(folder, name, depends_on) as state:
            if state == "fresh":
                for part in parts:
                    shutil.rmtree(folder / part, ignore_errors=True)
            if state != "done":
                if name == "ppo":
                    cache_tokens(folder, stores["train"], stores["val"])
                torch.set_num_threads(CORES)
                _fit(folder, recipe, alone, stores["train"], stores["val"])
                torch.set_num_threads(1)
                if lanes:
                    _side_by_side(folder, recipe, stores, lanes)
    torch.set_num_threads(CORES)
    with _stage(folder, "evaluate", [*depends_on, time.time()]):
        results = assess(folder, stores["test"], splits["test"], recipe.seed)
    results["wall_seconds"] = seconds_of(_stages(folder))
    write_json(folder / "results.json", results)
    write_json(folder / "evaluation" / "test" / "results.json", results)
    print_table(results)
    print(f"{folder / 'results.json'}\n{folder / 'report.html'}")
    failed = sum(len(store.failed) for store in stores.values())
    if failed:
        raise ValueError(f"{failed} scenes could not be prepared; they are named above")
    return results


def _side_by_side(folder: Path, recipe: Recipe, stores: dict[str, Store], lanes: tuple[tuple[str, ...], ...]) -> None:
    """Trains the first lane's parts here and each other lane's in a process of its own, what is finished left out.

    Raises:
        ValueError: another process stopped with an error, which its log tells.
    """
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_fit_apart, args=(folder, recipe, lane, os.getpid()), daemon=True) for lane in lanes[1:]]
    for other in others:
        other.start()
    _fit(folder, recipe, lanes[0], stores["train"], stores["val"])
    for other, lane in zip(others, lanes[1:], strict=True):
        other.join()
        if other.exitcode:
            raise ValueError(f"training {', '.join(lane)} stopped with exit code {other.exitcode}: see {folder / lane[0]}.log")


def _fit(folder: Path, recipe: Recipe, parts: tuple[str, ...], train: Store, val: Store) -> None:
    for part in parts:
        finished = folder / part / "finished"
        if not finished.exists():
            begun = folder / ("imitation" if part == "vision" else part)
            with held(begun):
                fit_stage(part, recipe, folder, train, val, resume=begun.exists())
            finished.parent.mkdir(exist_ok=True)
            finished.touch()


def _fit_apart(folder: Path, recipe: Recipe, parts: tuple[str, ...], parent: int) -> None:
    """A lane in a process of its own: output goes to a log, and it does not outlive its parent."""
    leave_with(parent)
    torch.set_num_threads(1)
    with (folder / f"{parts[0]}.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        _fit(folder, recipe, parts, Store(folder / "stores" / "train"), Store(folder / "stores" / "val"))


@contextmanager
def _stage(folder: Path, name: str, depends_on: list[Any]) -> Iterator[str]:
    """Times a stage and marks it when done; gives "done", "resume" (begun with the same inputs) or "fresh".

    Seconds of interrupted attempts count.
    """
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:16]
    before = _stages(folder).get(name, {})
    same = before.get("key") == key
    state = "done" if same and before["done"] else "resume" if same else "fresh"
    spent = before["seconds"] if same else 0.0
    begin = time.monotonic()
    _mark(folder, name, key, spent, done=False if state != "done" else True)
    finished = False
    try:
        yield state
        finished = True
    finally:
        seconds = spent if state == "done" else spent + time.monotonic() - begin
        _mark(folder, name, key, seconds, done=finished)
    print(f"{name}: {'kept' if state == 'done' else f'{seconds:.0f} s'}", flush=True)


def _stages(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "stages.json"
    return json_mapping(path) if path.exists() else {}


def _mark(folder: Path, name: str, key: str, seconds: float, done: bool) -> None:
    write_json(folder / "stages.json", _stages(folder) | {name: {"key": key, "seconds": seconds, "done": done}})
