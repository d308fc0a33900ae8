"""One stage of a proof (benchmarks/proof.py), in a process of its own that does not outlive the one that started it.

python benchmarks/proof_stage.py --run runs/results/31 --stage ppo --seed 31 --resume
"""

import shutil
import sys
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whichever is installed

from irlvla.data.store import Store  # noqa: E402
from irlvla.learned import trained  # noqa: E402
from irlvla.make_world import SPLITS, make_world  # noqa: E402
from irlvla.prepare import prepare, print_failures  # noqa: E402
from irlvla.recipes import Recipe, cache_tokens, fit_stage, keep_recipe, recipe_of  # noqa: E402
from irlvla.run import write_json  # noqa: E402
from irlvla.workers import leave_with  # noqa: E402

OWN = {"vision": ("imitation",), "imitation": (), "world": (), "prepare": (), "tokens": (), "evaluate": ()}
"""Folders of a stage that begins afresh, where that is not the one of its name: what lies there is removed."""


def main(
    run: Path,
    stage: str,
    seed: int,
    recipe: str = "default",
    test_logs: int | None = None,
    threads: int = 1,
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
        threads: of torch.
        resume: go on with what an interrupted process left.
        parent: the process without which this one ends.
    """
    if parent is not None:
        leave_with(parent)
    torch.set_num_threads(threads)
    if not resume:
        for name in OWN.get(stage, (stage,)):
            shutil.rmtree(run / name, ignore_errors=True)
    carry_out(run, stage, recipe_of(recipe, seed), test_logs, resume)


def carry_out(run: Path, stage: str, recipe: Recipe, test_logs: int | None, resume: bool) -> None:
    """Does what a stage is."""
    world = run.resolve() / "world"
    if stage == "world":
        make_world(world, recipe.seed, recipe.logs, recipe.sensors.cameras, test_logs)
    elif stage == "prepare":
        prepare_all(run, world, recipe)
    elif stage == "tokens":
        cache_tokens(run, *(Store(run / "stores" / split) for split in ("train", "val")))
    elif stage == "evaluate":
        evaluate(run)
    else:
        fit_stage(stage, recipe, run, *(Store(run / "stores" / split) for split in ("train", "val")), resume=resume or stage == "imitation")


def prepare_all(run: Path, world: Path, recipe: Recipe) -> None:
    """Prepares the three splits of a world.

    Raises:
        SystemExit: scenes could not be prepared.
    """
    logs, maps, splits = world / "openscene", world / "maps", {name: world / "splits" / f"{name}.yaml" for name in SPLITS}
    keep_recipe(run, recipe)
    data = {"logs": logs, "maps": maps, "recipe": recipe.name, "split": splits["train"], "val": splits["val"], "seed": str(recipe.seed)}
    write_json(run / "data.json", data)
    stores = [prepare(logs, maps, path, run / "stores" / split, recipe.sensors) for split, path in splits.items()]
    for store in stores:
        print_failures(store)
    if any(store.failed for store in stores):
        raise SystemExit(1)


def evaluate(run: Path) -> None:
    """Evaluates what was trained."""
    from irlvla.assess import assess

    assess(run, Store(run / "stores" / "test"), run.resolve() / "world" / "splits" / "test.yaml", 0, trained(run))


if __name__ == "__main__":
    tyro.cli(main)
