"""The whole path behind one command: world, store, three stages, evaluation; every part is done once and then kept."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from irlvla.assess import assess, print_table, seconds_of
from irlvla.data.store import Store
from irlvla.learned import checkpoint_of
from irlvla.make_world import make_world
from irlvla.prepare import prepare
from irlvla.recipes import Recipe
from irlvla.run import write_json
from irlvla.train import continuation, controls, imitation, ppo, reward

SPLITS = ("train", "val", "test")


def demo(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Runs a recipe on the embedded world, continuing whatever an interrupted run left in the folder.

    Args:
        folder: of the run; gets world, stores, one folder a trained model, results.json, report.html.
        recipe: what to run.

    Returns:
        What results.json holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").unlink(missing_ok=True)
    write_json(folder / "recipe.json", asdict(recipe))
    world = folder / "world"
    logs, maps = world / "openscene", world / "maps"
    write_json(folder / "data.json", {"logs": str(logs), "maps": str(maps), "split": str(world / "splits" / "train.yaml")})
    cameras = recipe.sensors.cameras

    with _stage(folder, "world", [recipe.seed, recipe.logs, cameras]) as state:
        if state != "done":
            make_world(world, seed=recipe.seed, logs=recipe.logs, cameras=cameras)
    stores: dict[str, Store] = {}
    with _stage(folder, "prepare", [recipe.seed, recipe.logs, asdict(recipe.sensors)]):
        for split in SPLITS:
            stores[split] = prepare(logs, maps, world / "splits" / f"{split}.yaml", folder / "stores" / split, recipe.sensors)
    keys = [stores["train"].key, stores["val"].key]
    steps: list[tuple[str, list[Any], list[tuple[str, Callable[[bool], Any]]]]] = _learning(folder, recipe, stores, keys)
    for name, key, parts in steps:
        with _stage(folder, name, key) as state:
            for part, fit in parts:
                if state == "fresh":
                    shutil.rmtree(folder / part, ignore_errors=True)
                if state != "done" and not (state == "resume" and (checkpoint_of(folder, part).parent / "finished").exists()):
                    fit(state == "resume")
                    (checkpoint_of(folder, part).parent / "finished").touch()
    with _stage(folder, "evaluate", [*keys, stores["test"].key, time.time()]):
        results = assess(folder, stores["test"], world / "splits" / "test.yaml", recipe.seed)
    results["wall_seconds"] = seconds_of(_stages(folder))
    write_json(folder / "results.json", results)
    write_json(folder / "evaluation" / "test" / "results.json", results)
    print_table(results)
    print(f"{folder / 'results.json'}\n{folder / 'report.html'}")
    return results


def _learning(
    folder: Path, recipe: Recipe, stores: dict[str, Store], keys: list[str]
) -> list[tuple[str, list[Any], list[tuple[str, Callable[[bool], Any]]]]]:
    """The three stages with all rows that have to be trained: name, what the result depends on, parts to fit."""
    train, val = stores["train"], stores["val"]
    policy, judge = checkpoint_of(folder, "imitation"), checkpoint_of(folder, "reward")
    tokens = folder / "stores" / "tokens"
    first = [*keys, asdict(recipe.imitation), asdict(recipe.no_camera), asdict(recipe.ego_mlp)]
    second = [*first, asdict(recipe.reward)]
    third = [*second, asdict(recipe.ppo), asdict(recipe.imitation_continued), asdict(recipe.best_of_g)]

    def continued(name: str) -> Callable[[bool], Any]:
        config = getattr(recipe, name)
        return lambda resume: continuation.fit(config, policy, judge, train, val, folder / name, resume, tokens)

    torch.set_num_threads(1)
    return [
        (
            "imitation",
            first,
            [
                ("imitation", lambda resume: imitation.fit(recipe.imitation, train, val, folder / "imitation", resume)),
                ("no_camera", lambda resume: imitation.fit(recipe.no_camera, train, val, folder / "no_camera", resume)),
                ("ego_mlp", lambda resume: controls.fit_ego_mlp(recipe.ego_mlp, train, val, folder / "ego_mlp", resume)),
            ],
        ),
        ("reward", second, [("reward", lambda resume: reward.fit(recipe.reward, policy, train, val, folder / "reward", resume, tokens))]),
        (
            "ppo",
            third,
            [
                ("ppo", lambda resume: ppo.fit(recipe.ppo, policy, judge, train, val, folder / "ppo", resume, tokens)),
                ("imitation_continued", continued("imitation_continued")),
                ("best_of_g", continued("best_of_g")),
            ],
        ),
    ]


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
    return json.loads(path.read_text()) if path.exists() else {}


def _mark(folder: Path, name: str, key: str, seconds: float, done: bool) -> None:
    write_json(folder / "stages.json", _stages(folder) | {name: {"key": key, "seconds": seconds, "done": done}})
