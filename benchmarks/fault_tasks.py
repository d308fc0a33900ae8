"""The commands that benchmarks/faults.py disturbs, and where."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Task:
    """A command, the calls at which it is killed one after the other, where the last attempt waits for a second process, and what it leaves."""

    title: str
    arguments: Callable[[Path, Path], list[Any]]
    kills: tuple[tuple[str, int], ...]
    pause: tuple[str, int]
    leaves: tuple[str, ...]
    again: tuple[str, ...] = ()


def train(stage):
    """The command line of a stage; the folder of the world, and that in which the run lies."""

    def arguments(world, place):
        data = ["--logs", world / "openscene", "--maps", world / "maps", "--split", world / "splits" / "train.yaml"]
        return ["train", stage, "--run", place / "run", *data, "--recipe", "tiny"]

    return arguments


def scored(world, place):
    data = ["--logs", world / "openscene", "--maps", world / "maps", "--split", world / "splits" / "train.yaml"]
    return ["score", *data, "--trajectories", world.parent / "plans.npz", "--out", place / "table.csv", "--processes", 2]


TASKS = {
    "world": Task(
        title="world",
        arguments=lambda world, place: ["world", place / "world", "--logs", 6, "--seed", 3],
        kills=(("irlvla.make_world:save_scenery", 1), ("irlvla.make_world:save_footage", 2)),
        pause=("irlvla.make_world:_summary", 1),
        leaves=("world",),
    ),
    "score": Task(
        title="scoring of a split",
        arguments=scored,
        kills=(("irlvla.score_table:write_part", 2), ("irlvla.score_table:write_table", 1)),
        pause=("irlvla.score_table:write_table", 1),
        leaves=("table.csv",),
    ),
    "store": Task(
        title="store",
        arguments=train("ego_mlp"),
        kills=(("irlvla.data.store:new_array", 5), ("irlvla.data.store:_write_json", 3), ("irlvla.data.store:finish", 1)),
        pause=("irlvla.data.store:finish", 1),
        leaves=("run/stores/train", "run/stores/val", "run/ego_mlp/checkpoint"),
        again=("--resume",),
    ),
    "imitation": Task(
        title="imitation",
        arguments=train("imitation"),
        kills=(("irlvla.train.imitation:_update", 6), ("irlvla.run:_write_summed", 1), ("irlvla.scene_cache:_array", 3)),
        pause=("irlvla.train.imitation:_update", 1),
        leaves=("run/imitation", "run/stores/tokens"),
        again=("--resume",),
    ),
    "reward": Task(
        title="labelling, reward world model",
        arguments=train("reward"),
        kills=(("irlvla.train.labels:write_shard", 2), ("irlvla.train.reward:members_loss", 5), ("irlvla.train.reward:calibrate", 1)),
        pause=("irlvla.train.reward:calibrate", 1),
        leaves=("run/reward",),
        again=("--resume",),
    ),
    "ppo": Task(
        title="PPO",
        arguments=train("ppo"),
        kills=(("irlvla.train.ppo:iteration", 2), ("irlvla.run:_write_summed", 1)),
        pause=("irlvla.train.ppo:iteration", 1),
        leaves=("run/ppo",),
        again=("--resume",),
    ),
    "evaluation": Task(
        title="evaluation",
        arguments=lambda world, place: ["evaluate", "--run", place / "run"],
        kills=(("irlvla.assess:write_table", 3),),
        pause=("", 0),
        leaves=("run/evaluation", "run/results.json"),
    ),
}
TOKENS = "run/stores/tokens"
FULL = {
    "world": (("maps", 700, ()), ("logs and pictures", 3200, ())),
    "score": (("parts of the table", 8, ()),),
    "store": (("layout", 4000, ()), ("scenes", 8700, ())),
    "imitation": (("first training state", 3000, ("run/imitation", TOKENS)), ("second training state", 7000, ("run/imitation", TOKENS))),
    "reward": (
        ("scene tokens", 600, ("run/reward", TOKENS)),
        ("labels", 40, ("run/reward",)),
        ("training state", 3000, ("run/reward",)),
    ),
    "evaluation": (("tables", 40, ("run/evaluation", "run/results.json", "run/report.html")),),
}
"""In what a disk runs out during a task, how much room it has (KiB), and what is taken out of the finished run beforehand."""
