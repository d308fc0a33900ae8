"""The proof: every row of the table for several seeds, each from scratch, in one command that goes on wherever it was stopped.

python benchmarks/proof.py                              # all that is missing below runs/results, then docs/results.md and README's table
python benchmarks/proof.py --until imitation            # worlds, stores and stage 1 of all seeds
python benchmarks/proof.py --only core --seeds 31
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whichever is installed

from irlvla import origin  # noqa: E402
from irlvla.files import json_mapping  # noqa: E402
from irlvla.recipes import Recipe, recipe_of, stage_config  # noqa: E402
from irlvla.run import write_json  # noqa: E402

CORES = 2
POLL = 0.5
"""Seconds between two looks at what runs."""
STAGE_1 = ("world", "prepare", "vision", "imitation", "no_camera", "ego_mlp")
CORE = ("ppo", "ppo_exact", "ppo_nearest", "ppo_no_camera_reward", "imitation_continued", "best_of_g")
"""What is trained of the main table beside stage 1 and the reward world models."""
TWO_CORES = ("world", "prepare", "vision")
"""Stages that take both: two processes, or two threads of torch, which alone are nearly twice as fast as one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """One piece of work: its run's folder and its name; `needs` are folder and name of what must be done before."""

    run: Path
    name: str
    needs: tuple[tuple[Path, str], ...] = ()
    settings: Any = None
    """All that its result depends on beside what it needs, as plain JSON."""

    @property
    def key(self) -> tuple[Path, str]:
        """Folder and name."""
        return self.run, self.name

    @property
    def cores(self) -> int:
        """How many it takes."""
        return CORES if self.name in TWO_CORES else 1


def main(
    seeds: tuple[int, ...] = (31, 32, 33),
    runs: Path = ROOT / "runs" / "results",
    recipe: str = "default",
    test_logs: int | None = 600,
    only: Literal["core", "evaluate"] | None = None,
    until: Literal["imitation"] | None = None,
) -> None:
    """Carries out what is missing, two stages at a time.

    Args:
        seeds: one run each: world, imitation, reward world models and PPO from scratch.
        runs: one folder a seed below it.
        recipe: a key of RECIPES.
        test_logs: of each world, half of them in unseen towns; None for the world's default.
        only: a part of the work, with what it needs.
        until: stop after stage 1.
    """
    stages = [stage for seed in seeds for stage in plan(runs / str(seed), recipe_of(recipe, seed), test_logs)]
    if until is not None:
        stages = [stage for stage in stages if stage.name in STAGE_1]
    if only == "evaluate":
        stages = [Stage(run=stage.run, name="evaluate", settings=time.time()) for stage in stages if stage.name == "evaluate"]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(f"another proof works in {runs}") from error
        options = ["--recipe", recipe, *([] if test_logs is None else ["--test-logs", str(test_logs)])]
        failed = carry_out(stages, {runs / str(seed): ["--seed", str(seed), *options] for seed in seeds})
    if failed:
        raise SystemExit("not done: " + ", ".join(label(stage.run, stage.name, runs) for stage in failed))


def plan(run: Path, recipe: Recipe, test_logs: int | None) -> list[Stage]:
    """All stages of a seed's run, each after what it needs."""
    sensors = {"sensors": asdict(recipe.sensors)}
    found = [
        Stage(run=run, name="world", settings={"seed": recipe.seed, "logs": recipe.logs, "test_logs": test_logs} | sensors),
        Stage(run=run, name="prepare", needs=((run, "world"),), settings=sensors),
    ]

    def add(name: str, *needs: str) -> None:
        settings = None if name == "tokens" else asdict(stage_config(name, recipe))
        found.append(Stage(run=run, name=name, needs=tuple((run, need) for need in needs), settings=settings))

    add("vision", "prepare")
    add("imitation", "vision")
    add("no_camera", "prepare")
    add("ego_mlp", "prepare")
    add("tokens", "imitation")
    add("reward", "tokens")
    add("reward_no_camera", "reward")  # whose labels it learns from
    for name in CORE:
        add(name, "reward_no_camera" if name == "ppo_no_camera_reward" else "reward")
    rows = ("no_camera", "ego_mlp", *CORE)
    found.append(Stage(run=run, name="evaluate", needs=tuple((run, name) for name in rows), settings={"rows": list(rows)}))
    return found


def mark_of(run: Path, name: str) -> Path:
    """Where it is noted that a stage was begun or finished, and with what."""
    return run / "marks" / f"{name}.json"


def kept_mark(run: Path, name: str) -> dict[str, Any]:
    """A stage's mark, empty where it was never begun."""
    path = mark_of(run, name)
    return json_mapping(path) if path.exists() else {}


def inputs_of(stage: Stage) -> dict[str, Any]:
    """The times at which what a stage needs was finished: made anew, it makes the stage stale."""
    return {f"{os.path.relpath(run, stage.run)}/{name}": kept_mark(run, name).get("finished") for run, name in stage.needs}


def state_of(stage: Stage) -> str:
    """ "done", "begun" with the same settings and inputs, "stale" (made with others) or "new"."""
    mark = kept_mark(*stage.key)
    if not mark:
        return "new"
    if not agree(mark["settings"], json.loads(json.dumps(stage.settings))) or mark["needs"] != inputs_of(stage):
        return "stale"
    return "done" if mark["finished"] else "begun"


def agree(left: Any, right: Any) -> bool:
    """Whether settings are the same wherever both say something: a field that is new does by default what was done before."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return all(agree(left[name], right[name]) for name in left.keys() & right.keys())
    return left == right


def startable(waiting: Sequence[Stage], running: Sequence[Stage], cores: int = CORES) -> list[Stage]:
    """Which of the waiting stages, in their order, can start beside those that run: what they need is done, and cores are free."""
    undone = {stage.key for stage in (*waiting, *running)}
    free, found = cores - sum(stage.cores for stage in running), []
    for stage in waiting:
        if stage.cores <= free and not undone.intersection(stage.needs) and all(kept_mark(*need).get("finished") for need in stage.needs):
            found.append(stage)
            free -= stage.cores
    return found


def carry_out(stages: Sequence[Stage], options: Mapping[Path, Sequence[str]]) -> list[Stage]:
    """Carries out all stages that are not done, side by side where cores are free; one that fails stops only what needs it.

    Args:
        stages: each after what it needs.
        options: of the process of a stage, by its run's folder.

    Returns:
        Those that failed, or could not begin for another's failure.
    """
    waiting, running, failed = list(stages), {}, []
    while waiting or running:
        for stage in startable(waiting, list(running)):
            waiting.remove(stage)
            state = state_of(stage)
            if state != "done":
                running[stage] = begun(stage, state == "begun", options[stage.run]), time.monotonic()
                say(stage, {"begun": "goes on", "stale": "begins anew", "new": "begins"}[state])
                continue
            say(stage, "kept")
            break  # what needs it may start before what comes later
        else:
            if not running:
                return [*failed, *waiting]
            time.sleep(POLL)
        for stage, (process, start) in list(running.items()):
            if process.poll() is None:
                continue
            del running[stage]
            seconds = time.monotonic() - start
            if process.returncode:
                failed.append(stage)
                say(stage, f"failed with exit code {process.returncode}: see {log_of(stage)}")
                continue
            mark = kept_mark(*stage.key)
            write_json(
                mark_of(*stage.key), mark | {"finished": time.strftime("%FT%TZ", time.gmtime()), "seconds": mark["seconds"] + seconds}
            )
            say(stage, f"{seconds:.0f} s")
    return failed


def begun(stage: Stage, resume: bool, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts a stage's process; its output goes to a log."""
    seconds = kept_mark(*stage.key)["seconds"] if resume else 0.0
    about = {
        "commit": origin.commit(),
        "changed_since_commit": origin.changed_since_commit(),
        "begun": time.strftime("%FT%TZ", time.gmtime()),
    }
    about |= {"interrupted": resume, "seconds": seconds, "settings": stage.settings, "needs": inputs_of(stage), "finished": None}
    write_json(mark_of(*stage.key), about)
    threads = CORES if stage.name == "vision" else 1
    command = [sys.executable, str(ROOT / "benchmarks" / "proof_stage.py"), "--run", str(stage.run), "--stage", stage.name, *options]
    command += ["--threads", str(threads), "--parent", str(os.getpid()), *(["--resume"] if resume else [])]
    log_of(stage).parent.mkdir(parents=True, exist_ok=True)
    one = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with log_of(stage).open("a" if resume else "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=os.environ | one)


def log_of(stage: Stage) -> Path:
    """What a stage printed."""
    return stage.run / "logs" / f"{stage.name}.log"


def label(run: Path, name: str, runs: Path) -> str:
    """A stage as it is named to people."""
    return f"{os.path.relpath(run, runs)} {name}"


def say(stage: Stage, text: str) -> None:
    """One line of what happens."""
    print(f"{time.strftime('%T')} {stage.run.name} {stage.name}: {text}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
