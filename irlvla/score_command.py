"""`irlvla score`: plans from a file, amid logs, a store or metric caches, or a submission in two stages."""

import sys
from pathlib import Path
from typing import Any

from irlvla.definitions import Traffic
from irlvla.run_data import environment, root


def score(
    out: Path,
    trajectories: Path | None = None,
    split: str | None = None,
    logs: Path | None = None,
    maps: Path | None = None,
    store: Path | None = None,
    metric_cache: Path | None = None,
    two_stage: Path | None = None,
    filter: Path | None = None,
    definition: str = "epdms",
    traffic: Traffic | None = None,
    processes: int | None = None,
    ray: str | None = None,
) -> None:
    """Score trajectories exactly as the NAVSIM v2 devkit does: a CSV, and a summary as JSON beside it.

    Killed and started again, it goes on where it was. Exits with 1 if anything could not be scored.

    Args:
        out: the CSV.
        trajectories: .npz with `<token>_poses` (N, 8, 3), and optionally `_poses_10hz`, `_prev_poses`, `_prev_poses_10hz`.
        split: folder below navsim_logs, or a scene filter file (default: test, or whatever the store holds).
        logs: OPENSCENE_DATA_ROOT (default: the environment variable of that name).
        maps: NUPLAN_MAPS_ROOT (default: the environment variable of that name).
        store: folder of prepared scenes: made by the first call, later ones need neither logs nor maps.
        metric_cache: folder of the devkit's metric caches, instead of logs and maps.
        two_stage: submission.pkl to score in two stages instead of trajectories; needs --filter (docs/two_stage.md).
        filter: with --two-stage, the yaml file with the mapping between the stages (reactive_all_mapping).
        definition: of the score: epdms, or epdms_unfiltered without the human filter.
        traffic: how other road users move: log_replay as logged (default), or idm, vehicles that react to the plan (default with
            --two-stage; metric caches need --maps for it, stores have none).
        processes: how many work at once (default: as many as there are cores, or CPUs in the cluster).
        ray: address of a Ray cluster that scores, such as auto, or local (docs/scale.md).
    """
    logs, maps = logs or environment("OPENSCENE_DATA_ROOT"), maps or environment("NUPLAN_MAPS_ROOT")
    if two_stage is not None:
        given = {"--trajectories": trajectories, "--split": split, "--store": store, "--metric-cache": metric_cache}
        too_much = [name for name, value in given.items() if value is not None] + ["--definition"] * (definition != "epdms")
        _two_stage(two_stage, filter, logs, maps, out, processes, traffic or "idm", ray, too_much)
        return
    if trajectories is None or filter is not None:
        raise ValueError("pass --trajectories FILE.npz, or --two-stage SUBMISSION.pkl with --filter SCENE_FILTER.yaml")
    _one_stage(trajectories, split, logs, maps, out, processes, definition, store, metric_cache, traffic or "log_replay", ray)


def _one_stage(
    trajectories: Path,
    split: str | None,
    logs: Path | None,
    maps: Path | None,
    out: Path,
    processes: int | None,
    definition: str,
    store: Path | None,
    metric_cache: Path | None,
    traffic: Traffic,
    ray: str | None,
) -> None:
    from irlvla.score_parts import folder_of
    from irlvla.score_summary import summary_text
    from irlvla.score_table import score_split

    if store is None and metric_cache is None:
        logs, maps = root(logs, "OPENSCENE_DATA_ROOT", "--logs"), root(maps, "NUPLAN_MAPS_ROOT", "--maps")
    try:
        found = score_split(logs, maps, split, trajectories, out, processes, definition, store, metric_cache, traffic, ray)
    except KeyboardInterrupt:
        raise _interrupted(store, folder_of(out)) from None
    _print(summary_text(found), out, found)


def _two_stage(
    submission: Path,
    split: Path | None,
    logs: Path | None,
    maps: Path | None,
    out: Path,
    processes: int | None,
    traffic: Traffic,
    ray: str | None,
    too_much: list[str],
) -> None:
    from irlvla.score_parts import folder_of
    from irlvla.two_stage import score_two_stage, summary_text

    if split is None or too_much:
        wrong = " and ".join(too_much)
        raise ValueError(f"--two-stage does not go with {wrong}" if wrong else "--two-stage needs --filter SCENE_FILTER.yaml")
    logs, maps = root(logs, "OPENSCENE_DATA_ROOT", "--logs"), root(maps, "NUPLAN_MAPS_ROOT", "--maps")
    try:
        found = score_two_stage(submission, split, logs, maps, out, processes, traffic, cluster=ray)
    except KeyboardInterrupt:
        raise _interrupted(folder_of(out)) from None
    _print(summary_text(found), out, found)


def _interrupted(*places: Path | None) -> SystemExit:
    kept = " and ".join(str(place) for place in places if place is not None and place.exists())
    print(f"irlvla: interrupted; {kept or 'nothing'} keeps what was finished, the same command goes on from there", file=sys.stderr)
    return SystemExit(130)


def _print(text: str, out: Path, found: dict[str, Any]) -> None:
    """The summary, and what failed; where something did, the exit code says so too."""
    print(f"{text}\n{out}\n{out.with_suffix('.json')}")
    for token, reason in found["failed"].items():
        print(f"failed: {token}: {reason}")
    if found["failed"] or not found.get("valid", True):
        raise SystemExit(1)
