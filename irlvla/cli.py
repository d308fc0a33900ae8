"""`irlvla <verb>`: every verb imports what it needs when it runs, so that `--help` and the numeric verbs need no torch."""

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import tyro

from irlvla.definitions import Traffic
from irlvla.files import held, named
from irlvla.run_data import data_of, environment, root
from irlvla.score_command import score

EXTRAS = dict.fromkeys(("torch", "safetensors", "tensorboard", "matplotlib"), "train")
EXTRAS |= {"ray": "ray"} | dict.fromkeys(("sumo", "pyogrio"), "world") | dict.fromkeys(("scipy", "pyarrow"), "train,world")
"""Module -> the extra that brings it."""

Place = Annotated[Path, tyro.conf.Positional]


def world(
    folder: Place,
    seed: int = 0,
    logs: int | None = None,
    cameras: str = "F0,L0,R0",
    test_logs: int | None = None,
    follow_ups: int = 0,
) -> None:
    """Make the embedded data set: FOLDER/openscene, FOLDER/maps, FOLDER/splits/{train,val,test}.yaml.

    Args:
        folder: where it shall lie; what was there of it is replaced.
        seed: same seed, same bytes.
        logs: number of logs, a quarter of them test; the default size without it.
        cameras: F0,L0,R0 or other names of the eight, all, or none.
        test_logs: number of test logs where that shall be more than the size brings; train and val stay as they are.
        follow_ups: pairs of synthetic scenes behind one scene of each test log, for FOLDER/splits/two_stage.yaml (docs/two_stage.md).
    """
    from irlvla.make_world import make_world

    with held(folder), named(folder):
        make_world(folder, seed=seed, logs=logs, cameras=camera_names(cameras), test_logs=test_logs, follow_ups=follow_ups)


def strip(out: Place, split: Path, logs: Path | None = None, share: float = 0.5, seed: int = 0) -> None:
    """Copy a data set's logs such that a share of a split's logs hold cameras only: no boxes, traffic lights, routes, map places.

    Pictures and the logs that stay annotated are linked. OUT/camera_only.json names the logs of either kind.

    Args:
        out: the new OPENSCENE_DATA_ROOT.
        split: a scene filter file (or a folder below navsim_logs) whose logs are divided.
        logs: OPENSCENE_DATA_ROOT (default: the environment variable of that name).
        share: of the split's logs that lose their annotations.
        seed: by which they are chosen; that of the run to be trained, for half of them to be the half that PPO drives on.
    """
    from irlvla.camera_only import LISTING, write_camera_only

    found = write_camera_only(root(logs, "OPENSCENE_DATA_ROOT", "--logs"), split, out, share, seed)
    for name in found["camera_only"]:
        print(f"cameras only: {name}")
    print(f"{len(found['camera_only'])} of {len(found['camera_only']) + len(found['annotated'])} logs hold cameras only: {out / LISTING}")


def pandaset(sequence: Place, out: Place) -> None:
    """Write a PandaSet sequence as OpenScene logs that hold cameras only: OUT/navsim_logs/pandaset, OUT/sensor_blobs/pandaset.

    Args:
        sequence: PandaSet's folder of the sequence.
        out: an OPENSCENE_DATA_ROOT, new or with other logs.
    """
    from irlvla.pandaset import write_pandaset

    for name in write_pandaset(sequence, out):
        print(f"cameras only: {name}")


def train(
    stage: Annotated[str, tyro.conf.Positional],
    run: Path,
    split: Path | None = None,
    val: Path | None = None,
    logs: Path | None = None,
    maps: Path | None = None,
    recipe: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    ray: str | None = None,
) -> None:
    """Train one stage (or one control) of a run; data, recipe and seed are kept in the run's folder for later stages.

    With `torchrun --nproc-per-node N -m -- irlvla.cli train ...` N processes train imitation together (docs/scale.md).

    Args:
        stage: imitation, reward (needs imitation), ppo (needs reward), a control or a variant (docs/method.md; a wrong name lists all).
        run: the run's folder.
        split: training scenes, one of NAVSIM's scene filter files.
        val: scenes to choose checkpoints by (default: val.yaml beside the training split).
        logs: OPENSCENE_DATA_ROOT (default: the environment variable of that name).
        maps: NUPLAN_MAPS_ROOT (default: the environment variable of that name).
        recipe: a key of RECIPES: default, vla, tiny or navtrain (default: the run's, or else default).
        seed: of everything random (default: the run's, or else 0).
        resume: continue an interrupted run of this stage.
        dry_run: two steps on a few scenes of the split, in RUN/dry, through all that imitation does: are data, memory and processes fit?
        ray: address of a Ray cluster that labels a reward stage's candidates, such as auto, or local (docs/scale.md).
    """
    import torch

    from irlvla.dry_run import rehearsed
    from irlvla.prepare import prepare
    from irlvla.recipes import check_labels, check_stage, check_together, fit_stage, keep_recipe, recipe_of
    from irlvla.train.distributed import first_alone, joined, processes, rank

    torch.set_num_threads(1)
    check_stage(stage)
    folder = run / "dry" if dry_run else run
    place = folder / ("imitation" if stage == "vision" else stage)
    with joined(), held(place) if rank() == 0 else nullcontext():
        check_together(stage, processes(), dry_run)
        check_labels(stage, ray)
        run = folder
        with first_alone():
            data = data_of(run, logs, maps, split, val, recipe, seed)
            chosen = recipe_of(data["recipe"], int(data["seed"]))
            if dry_run:
                chosen, data = rehearsed(chosen, processes(), data, run)
            places = [(Path(data[part]), run / "stores" / Path(data[part]).stem) for part in ("split", "val")]
            stores = [prepare(Path(data["logs"]), Path(data["maps"]), *place, chosen.sensors) for place in places]
            if not resume and rank() == 0:
                shutil.rmtree(place, ignore_errors=True)
            keep_recipe(run, chosen)
        for again in (resume, True)[: 1 + dry_run]:
            checkpoint = fit_stage(stage, chosen, run, *stores, resume=again, cluster=ray)
        first = rank() == 0
        if dry_run and first:
            print(f"dry run: {stage} of {chosen.name}, processes: {processes()}, saved and resumed: {checkpoint}")
    _exit_on_failures(*stores if first else ())


def evaluate(
    run: Path,
    split: Path | None = None,
    policy: tuple[str, ...] = (),
    seed: int | None = None,
    reward: bool = False,
    reward_model: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    two_stage: bool = False,
    traffic: Traffic = "idm",
) -> None:
    """Evaluate a run's policies and the baselines: results.json, report.html, evaluation/<split>/<policy>.csv.

    With --reward its reward models instead: reward_quality/<split>.json and reliability plots (docs/reward.md). With --two-stage on a
    split of two stages (docs/two_stage.md): evaluation/<split>/<policy>.csv and results.json beside them.

    Args:
        run: the run's folder.
        split: a scene filter file (default: the run's val split).
        policy: rows to evaluate (default: all that the run allows).
        seed: what results.json is to say (default: the run's).
        reward: compare reward models on samples of the policies and on a vocabulary.
        reward_model: with --reward, another reward model to compare, as package.module:function; may be repeated.
        two_stage: plan and score both stages of the split.
        traffic: with --two-stage, how other road users move: idm or log_replay.
    """
    import torch

    from irlvla.assess import assess, print_table
    from irlvla.prepare import prepare
    from irlvla.recipes import kept_recipe

    if reward_model and not reward:
        raise ValueError("--reward-model goes with --reward")
    if two_stage and (split is None or reward):
        raise ValueError("--two-stage goes with --split, and not with --reward")
    torch.set_num_threads(1)
    kept_seed, sensors = kept_recipe(run)
    kept_seed = kept_seed if seed is None else seed
    data = data_of(run)
    if two_stage:
        from irlvla.two_stage_plans import assess_two_stages, rows_text

        both = assess_two_stages(run, Path(data["logs"]), Path(data["maps"]), split, kept_seed, sensors, policy or None, traffic)
        print(f"{rows_text(both)}\n{run / 'evaluation' / split.stem / 'results.json'}")
        return _exit_on(both["failed"])
    chosen = Path(data["val"]) if split is None else split
    store = prepare(Path(data["logs"]), Path(data["maps"]), chosen, run / "stores" / chosen.stem, sensors)
    if reward:
        from irlvla.reward_benchmark import benchmark, print_quality

        print_quality(benchmark(run, run / "stores" / Path(data["split"]).stem, store, chosen.stem, kept_seed, reward_model))
        return _exit_on_failures(store)
    results = assess(run, store, chosen, kept_seed, policy or None)
    print_table(results)
    print(f"{run / 'results.json'}\n{run / 'report.html'}")
    _exit_on_failures(store)


def compare(first: Place, second: Place) -> None:
    """Paired difference of two per-scene CSVs of `irlvla evaluate` (first minus second), with interval and worst scenes.

    Args:
        first: a CSV.
        second: another one, of the same scenes.
    """
    from irlvla.compare import comparison

    found = comparison(first, second)
    print(
        f"{first} - {second}: {found['scenes']} scenes of {found['logs']} logs, definition {found['definition']}, 0-100, 95 % intervals resample logs"
    )
    for pair in found["pairs"]:
        print(f"  {pair['metric']:6s} {pair['difference']:+7.2f}  [{pair['ci95'][0]:+7.2f}, {pair['ci95'][1]:+7.2f}]")
    print("worst scenes (EPDMS first, second):" if found["worst"] else "no scene is worse")
    for row in found["worst"]:
        print(f"  {row['token']}  {row['first']:6.1f} {row['second']:6.1f}  {row['log_name']}")


def submit(run: Path, split: Path, out: Path, policy: str = "ppo", team: str = "none") -> None:
    """Write a policy's plans as NAVSIM's submission pickle: of one stage, or of both where the split is one of two stages.

    Args:
        run: the run's folder.
        split: a scene filter file, or the file with `reactive_all_mapping` (docs/two_stage.md).
        out: the pickle.
        policy: a learned row, such as imitation or ppo.
        team: team name.
    """
    import numpy as np
    import torch

    from irlvla.data.mapping import has_two_stages
    from irlvla.learned import learned_plans
    from irlvla.prepare import prepare
    from irlvla.recipes import kept_recipe
    from irlvla.submit import write_submission

    torch.set_num_threads(1)
    data, sensors = data_of(run), kept_recipe(run)[1]
    if has_two_stages(split):
        from irlvla.two_stage_plans import two_stage_plans, two_stage_store

        store = two_stage_store(Path(data["logs"]), Path(data["maps"]), split, run / "stores" / f"{split.stem}-stages", sensors)
        both = two_stage_plans(run, store, split, (policy,))[policy]
        write_submission(out, both.stage_one, {"team_name": team}, both.stage_two)
        print(f"{out}: {len(both.stage_one)} plans of stage one, {len(both.stage_two)} of stage two")
        return _exit_on_failures(store)
    store = prepare(Path(data["logs"]), Path(data["maps"]), split, run / "stores" / split.stem, sensors)
    plans = learned_plans(run, store, np.arange(len(store)), (policy,))[policy].poses
    write_submission(out, dict(zip(store.tokens, plans, strict=True)), {"team_name": team})
    print(f"{out}: {len(store)} plans")
    _exit_on_failures(store)


def export(run: Path, policy: str = "imitation", out: Path | None = None) -> None:
    """Write a policy as one graph that needs none of this code (torch.export): pictures, ego history and command to plans.

    Args:
        run: the run's folder; the first scene of its val store says where the cameras are and how large pictures are.
        policy: a policy of the run.
        out: folder (default: export, beside the policy's checkpoint).
    """
    from irlvla.export import export_run

    print(export_run(run, policy, out))


def doctor(
    logs: Path | None = None,
    maps: Path | None = None,
    split: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = (),
    run: Path = Path("runs"),
    cameras: str = "F0,L0,R0",
    picture_frames: int = 2,
    quick: bool = False,
    processes: int | None = None,
    every: Annotated[bool, tyro.conf.arg(name="all")] = False,
    out: Path | None = None,
) -> None:
    """Is this machine fit, and is the data all there: numerics, packages, threads, memory, disk, logs, maps, pictures, splits.

    Args:
        logs: OPENSCENE_DATA_ROOT (default: the environment variable of that name, if set).
        maps: NUPLAN_MAPS_ROOT (default: the environment variable of that name, if set).
        split: scene filter files (or names of folders below navsim_logs) to check, alone and against each other.
        run: where runs shall lie, to look at that disk.
        cameras: cameras whose pictures must be there: F0,L0,R0 or other names of the eight, all, or none.
        picture_frames: of how many frames of a scene: the current one and those before it (NAVSIM's agents may use 4).
        quick: do not open logs and maps.
        processes: logs opened at once (default: one for each core).
        every: print all missing files, not the first 20 of each kind.
        out: JSON with every finding and all missing files.
    """
    from irlvla.doctor import examination, printed, write_findings
    from irlvla.inventory import Look
    from irlvla.machine import cores

    found = examination(
        Look(
            logs=logs or environment("OPENSCENE_DATA_ROOT"),
            maps=maps or environment("NUPLAN_MAPS_ROOT"),
            splits=tuple(name for names in split for name in names),
            cameras=camera_names(cameras),
            picture_frames=picture_frames,
            quick=quick,
            processes=cores() if processes is None else processes,
        ),
        run,
    )
    print(printed(found, None if every else 20))
    if out is not None:
        write_findings(out, found)
    if any(one.level == "BAD" for one in found):
        raise SystemExit(1)


def demo(seed: int = 0, run: Path = Path("runs/demo"), recipe: str = "default") -> None:
    """World, three stages, evaluation and report with one command; interrupted and started again, it continues.

    Args:
        seed: of the world and of every stage.
        run: the run's folder.
        recipe: a key of RECIPES: default or tiny.
    """
    from irlvla.demo import demo as whole
    from irlvla.recipes import recipe_of

    whole(run, recipe_of(recipe, seed))


VERBS = {
    "world": world,
    "strip": strip,
    "pandaset": pandaset,
    "score": score,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "submit": submit,
    "export": export,
    "doctor": doctor,
    "demo": demo,
}


def main() -> None:
    """Runs the verb on the command line; a mistake of the caller becomes one line on stderr and exit code 1."""
    try:
        tyro.extras.subcommand_cli_from_dict(VERBS, prog="irlvla", description="Driving policies judged by an exact NAVSIM v2 EPDMS.")
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if error.name is None:
            raise SystemExit(f"irlvla: {error}") from error
        if extra is None:
            raise
        raise SystemExit(f"irlvla: {error.name} is not installed: pip install 'irlvla[{extra}]'") from error
    except (ValueError, OSError) as error:
        raise SystemExit(f"irlvla: {error}") from error


def camera_names(text: str) -> tuple[str, ...]:
    """Full camera names of a list such as F0,L0,R0; `all` and `none` are understood.

    Example:
        >>> camera_names("F0,L0"), camera_names("none")
        (('CAM_F0', 'CAM_L0'), ())
    """
    from irlvla.types import CAMERA_NAMES

    if text == "none":
        return ()
    if text == "all":
        return CAMERA_NAMES
    names = tuple(f"CAM_{part.strip().upper().removeprefix('CAM_')}" for part in text.split(","))
    unknown = [name for name in names if name not in CAMERA_NAMES]
    if unknown:
        raise ValueError(f"unknown camera {unknown[0]}; known: {', '.join(CAMERA_NAMES)}")
    return names


def _exit_on_failures(*stores: object) -> None:
    from irlvla.prepare import print_failures

    for store in stores:
        print_failures(store)
    if any(store.failed for store in stores):
        raise SystemExit(1)


def _exit_on(failed: dict[str, str]) -> None:
    for token, reason in sorted(failed.items()):
        print(f"failed: {token}: {reason}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
