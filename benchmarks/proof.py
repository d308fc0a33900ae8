"""The proof: every row of the table for several seeds, each from scratch, in one command that goes on wherever it was stopped.

python benchmarks/proof.py                              # all that is missing below runs/results, then docs/results.md and README's table
python benchmarks/proof.py --until imitation            # worlds, stores and stage 1 of all seeds
python benchmarks/proof.py --only core --seeds 31
python benchmarks/proof.py --recipe vla --only core --runs runs/architecture --docs docs/vla   # in the runs of benchmarks/architecture.py
python benchmarks/proof.py --write-only --demo runs/demo  # the seconds of a `make demo` that had the machine to itself go into the bars
python benchmarks/proof.py --write-only                 # only docs/results.md, docs/results.json and README's table, from docs/results/
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
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # this checkout, whichever is installed

from proof_pages import write_pages  # noqa: E402
from proof_record import CAMERA_ONLY, record, record_demo  # noqa: E402

from irlvla import origin  # noqa: E402
from irlvla.files import json_mapping  # noqa: E402
from irlvla.recipes import Recipe, judge_of, recipe_of, stage_config  # noqa: E402
from irlvla.run import write_json  # noqa: E402
from irlvla.variants import PPO_VARIANTS, REWARD_VARIANTS  # noqa: E402

CORES = 2
"""So many stages at a time. World and preparing use two processes each, which beside another stage only takes longer."""
POLL = 0.5
"""Seconds between two looks at what runs."""
BASELINE_ROWS = ("human", "pdm_closed", "constant_velocity", "ctra", "stand_still", "ego_mlp", "no_camera")
METHOD_ROWS = ("imitation", "imitation_continued", "best_of_g", "selector", "ppo", "ppo_selector")
REWARD_ROWS = ("ppo_exact", "ppo_nearest", "ppo_no_camera_reward")
FURTHER_ROWS = ("ppo_by_predicted", "selector_exact", "images_zeroed")
CORE_ROWS = (*BASELINE_ROWS, *METHOD_ROWS, *REWARD_ROWS, *FURTHER_ROWS)
"""Rows of the main table, for every seed."""
CAMERA_ONLY_ROWS = ("imitation", "ppo_annotated", "ppo_all_logs", "ppo", "selector")
"""Rows of the run in which half of the training logs hold cameras only, for every seed."""
ONCE = ("ppo_annotated_model",)
"""Its rows for the seeds of the ablations alone."""
ABLATIONS = tuple(name for name in PPO_VARIANTS if name not in (*REWARD_ROWS, *CAMERA_ONLY_ROWS, *ONCE))
LARGE = ("ppo_confidences", "ppo_trajectories", "ppo_anchor", "ppo_little_cloning", "ppo_kl", "ppo_exact_32nd")
"""Ablations whose effect on the first seed was a point or more: every seed gets them."""
TRAINED_AFTER_REWARD = ("ppo", "imitation_continued", "best_of_g", *REWARD_ROWS)
UNTIL = {"imitation": ("world", "strip", "prepare", "vision", "imitation", "no_camera", "ego_mlp", "tokens")}


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


def main(
    seeds: tuple[int, ...] = (31, 32, 33),
    runs: Path = ROOT / "runs" / "results",
    recipe: str = "default",
    test_logs: int | None = 600,
    ablation_seeds: tuple[int, ...] | None = None,
    only: Literal["core", "camera_only", "ablations", "evaluate"] | None = None,
    until: Literal["imitation"] | None = None,
    write_only: bool = False,
    demo: Path | None = None,
    docs: Path = ROOT / "docs" / "results",
    readme: Path | None = ROOT / "README.md",
) -> None:
    """Carries out what is missing, two stages at a time, and writes the tables of all that was evaluated so far.

    Args:
        seeds: one run each: world, imitation, reward world models and PPO from scratch.
        runs: one folder a seed below it.
        recipe: a key of RECIPES.
        test_logs: of each world, half of them in unseen towns; None for the world's default.
        ablation_seeds: those of the seeds that get the ablations (default: the first).
        only: a part of the work, with what it needs; evaluate: what was trained so far, as it is.
        until: stop after stage 1.
        write_only: only write the tables of what `docs` holds.
        demo: a finished run of `make demo` that had the machine to itself, whose seconds are recorded.
        docs: gets rows and scores; results.md and results.json are written beside it.
        readme: whose table is replaced; of another recipe than the default none.
    """
    if demo is not None:
        record_demo(demo, docs)
    command = "make results"
    if recipe != "default":
        part = "" if only is None else f" --only {only}"
        readme, command = None, f"python benchmarks/proof.py --recipe {recipe}{part} --runs runs/{runs.name} --docs docs/{docs.name}"
    if write_only:
        write_pages(docs, readme, command)
        return
    runs, recipes = runs.resolve(), {seed: recipe_of(recipe, seed) for seed in seeds}
    chosen = seeds[:1] if ablation_seeds is None else ablation_seeds
    stages = plan({runs / str(seed): recipes[seed] for seed in seeds}, test_logs, [runs / str(seed) for seed in chosen], only)
    if until is not None:
        stages = [stage for stage in stages if stage.name in UNTIL[until]]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(f"another proof works in {runs}") from error
        options = ["--recipe", recipe, *([] if test_logs is None else ["--test-logs", str(test_logs)])]
        failed = carry_out(stages, {runs / str(seed): ["--seed", str(seed), *options] for seed in seeds})
    for seed in seeds:
        record(runs / str(seed), seed, docs)
    if any(docs.glob("*.npz")):
        write_pages(docs, readme, command)
        print(f"wrote {docs}, {docs.with_suffix('.md')}, {docs.with_suffix('.json')}{'' if readme is None else f' and {readme}'}")
    if failed:
        raise SystemExit("not done: " + ", ".join(label(stage) for stage in failed))


def plan(runs: Mapping[Path, Recipe], test_logs: int | None, ablated: Sequence[Path], only: str | None = None) -> list[Stage]:
    """All stages of all seeds' runs, each after what it needs: of every seed the core, then camera-only logs, then ablations.

    Args:
        runs: a recipe for each seed's folder.
        test_logs: of the worlds.
        ablated: the folders that get the ablations.
        only: "core", "camera_only" or "ablations" for such stages and what they need; "evaluate" for evaluations as things stand.
    """
    core = [stage for run, recipe in runs.items() for stage in core_stages(run, recipe, test_logs)]
    bare = [stage for run, recipe in runs.items() for stage in camera_only_stages(run, recipe, run in ablated)]
    ablations = [stage for run, recipe in runs.items() for stage in (ablation_stages if run in ablated else large_stages)(run, recipe)]
    every = core + bare + ablations
    if only == "evaluate":
        places = [run for run in dict.fromkeys(stage.run for stage in every) if kept_mark(run, "imitation").get("finished")]
        return [Stage(run=run, name="evaluate", settings={"asked": time.time()}) for run in places]
    if only is None:
        return every
    wanted = {stage.key for stage in {"core": core, "camera_only": bare, "ablations": ablations}[only]}
    for stage in reversed(every):
        wanted |= set(stage.needs) if stage.key in wanted else set()
    return [stage for stage in every if stage.key in wanted]


def trained(run: Path, recipe: Recipe, name: str, *needs: str) -> Stage:
    """A stage that trains something in a run, after what it needs there."""
    return Stage(run=run, name=name, needs=tuple((run, need) for need in needs), settings=asdict(stage_config(name, recipe)))


def evaluated(run: Path, name: str, rows: Sequence[str], *needs: str) -> Stage:
    """A stage that evaluates rows."""
    return Stage(run=run, name=name, needs=tuple((run, need) for need in needs), settings={"rows": list(rows)})


def core_stages(run: Path, recipe: Recipe, test_logs: int | None) -> list[Stage]:
    """The main table of one seed."""
    sensors = {"sensors": asdict(recipe.sensors)}
    return [
        Stage(run=run, name="world", settings={"seed": recipe.seed, "logs": recipe.logs, "test_logs": test_logs} | sensors),
        Stage(run=run, name="prepare", needs=((run, "world"),), settings=sensors),
        trained(run, recipe, "vision", "prepare"),
        trained(run, recipe, "imitation", "vision"),
        trained(run, recipe, "no_camera", "prepare"),
        trained(run, recipe, "ego_mlp", "prepare"),
        Stage(run=run, name="tokens", needs=((run, "imitation"),)),
        trained(run, recipe, "reward", "tokens"),
        trained(run, recipe, "reward_no_camera", "reward"),  # whose labels it learns from
        *(trained(run, recipe, name, judge_of(name)) for name in TRAINED_AFTER_REWARD),
        evaluated(run, "evaluate:core", CORE_ROWS, "no_camera", "ego_mlp", *TRAINED_AFTER_REWARD),
        Stage(run=run, name="quality:core", needs=((run, "ppo"), (run, "reward_no_camera"))),
    ]


def camera_only_stages(main_run: Path, recipe: Recipe, is_ablated: bool) -> list[Stage]:
    """The run of one seed in which half of the training logs hold cameras only."""
    run = main_run / CAMERA_ONLY
    further = [name for name in CAMERA_ONLY_ROWS if name.startswith("ppo")]
    stages = [
        Stage(run=run, name="strip", needs=((main_run, "world"),), settings={"seed": recipe.seed}),
        Stage(run=run, name="prepare", needs=((run, "strip"), (main_run, "prepare")), settings={"sensors": asdict(recipe.sensors)}),
        trained(run, recipe, "vision", "prepare"),
        trained(run, recipe, "imitation", "vision"),
        Stage(run=run, name="tokens", needs=((run, "imitation"),)),
        trained(run, recipe, "reward", "tokens"),
        *(trained(run, recipe, name, judge_of(name)) for name in further),
        evaluated(run, "evaluate:camera_only", CAMERA_ONLY_ROWS, *further),
    ]
    if is_ablated:
        stages += [trained(run, recipe, name, judge_of(name)) for name in ONCE]
        stages.append(evaluated(run, "evaluate:once", ONCE, *ONCE, "evaluate:camera_only"))
    return stages


def ablation_stages(run: Path, recipe: Recipe) -> list[Stage]:
    """What is measured on few seeds: other reward world models and other ways of PPO."""
    judges = [name for name in REWARD_VARIANTS if name != "reward_no_camera"]
    return [
        *(trained(run, recipe, name, "reward") for name in judges),
        *(trained(run, recipe, name, judge_of(name)) for name in ABLATIONS),
        evaluated(run, "evaluate:ablations", ABLATIONS, *ABLATIONS, "evaluate:core"),
        Stage(run=run, name="quality:ablations", needs=tuple((run, name) for name in (*judges, "quality:core"))),
    ]


def large_stages(run: Path, recipe: Recipe) -> list[Stage]:
    """What is measured on every seed because it made a difference on the first."""
    return [
        *(trained(run, recipe, name, judge_of(name)) for name in LARGE),
        evaluated(run, "evaluate:large", LARGE, *LARGE, "evaluate:core"),
    ]


def mark_of(run: Path, name: str) -> Path:
    """Where it is noted that a stage was begun or finished, and with what."""
    return run / "marks" / f"{name.replace(':', '_')}.json"


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
    ready = [
        stage for stage in waiting if not undone.intersection(stage.needs) and all(kept_mark(*need).get("finished") for need in stage.needs)
    ]
    return ready[: max(0, cores - len(running))]


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
                running[stage] = begun(stage, state == "begun", options[seed_folder(stage.run)]), time.monotonic()
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
    arguments = ["--run", str(stage.run), "--stage", stage.name, *options]
    rows = (stage.settings or {}).get("rows", ()) if stage.name.startswith(("evaluate", "perceive")) else ()
    arguments += ["--rows", *rows] if rows else []
    write_json(mark_of(*stage.key), about | {"command": " ".join(["benchmarks/proof_stage.py", *arguments])})
    command = [sys.executable, str(ROOT / "benchmarks" / "proof_stage.py"), *arguments, "--parent", str(os.getpid())]
    command += ["--resume"] if resume else []
    log_of(stage).parent.mkdir(parents=True, exist_ok=True)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with log_of(stage).open("a" if resume else "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=os.environ | one)


def log_of(stage: Stage) -> Path:
    """What a stage printed."""
    return stage.run / "logs" / f"{stage.name.replace(':', '_')}.log"


def seed_folder(run: Path) -> Path:
    """The folder of the seed that a run belongs to."""
    return run.parent if run.name == CAMERA_ONLY else run


def label(stage: Stage) -> str:
    """A stage as it is named to people."""
    return f"{stage.run.relative_to(seed_folder(stage.run).parent)} {stage.name}"


def say(stage: Stage, text: str) -> None:
    """One line of what happens."""
    print(f"{time.strftime('%T')} {label(stage)}: {text}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
