"""A submission -> the table of two-stage scores that NAVSIM's benchmark script writes: over processes, resumable, bounded in memory."""

import csv
import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla import files, origin
from irlvla.data.mapping import TwoStageSplit, two_stage_split
from irlvla.data.maps import Maps
from irlvla.data.navsim import log_paths, scenes_or_reasons
from irlvla.data.synthetic import synthetic_paths, synthetic_scene
from irlvla.definitions import TRAFFIC, TWO_STAGE, TWO_STAGE_MEANING, Traffic, check_traffic
from irlvla.prepare import SOURCES, all_cities, stamps
from irlvla.score.drivers import with_reactive_traffic
from irlvla.score.epdms import sub_scores
from irlvla.score.prepared import prepared
from irlvla.score.states import reference_poses
from irlvla.score.two_stage import COLUMNS, ScoredPlan, TwoStageScores, two_stage_scores
from irlvla.score_parts import folder_of, part_done, parts_folder, replaced
from irlvla.submit import Plan, Submission, read_submission
from irlvla.types import COLUMN_NAMES, POSES, STEPS, SUB_SCORE_NAMES, PreparedScene, Scene
from irlvla.vehicle import simulated
from irlvla.workers import work_off

CODE = (*SOURCES, "definitions.py", "score_parts.py", "submit.py", "two_stage.py")
"""Code whose change makes finished parts of a table stale."""
SCENES_A_PART = 32
"""Synthetic scenes that are scored as one part."""
ROWS = ("extended_pdm_score_stage_one", "extended_pdm_score_stage_two", "extended_pdm_score_combined")
"""Names of the last three rows."""
HEADER = (
    "", "token", "valid", *(f"{COLUMN_NAMES[name]}_stage_{stage}" for stage in ("one", "two") for name in SUB_SCORE_NAMES), "score",
)  # fmt: skip
_NUMBERS = {"time_us": (), "start": (2,), "end": (2,), "values": (8,), "states": (STEPS, 11)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What is scored in one go: the logged scenes of one log, or some synthetic scenes."""

    number: int
    log: Path | None = None
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """All that a part is scored from."""

    submission: Submission
    split: TwoStageSplit
    synthetic: Mapping[str, Path]
    logs: Path
    maps: Maps
    traffic: Traffic


def score_two_stage(
    submission: str | Path,
    split: str | Path,
    logs: str | Path,
    maps: str | Path,
    out: str | Path,
    processes: int | None = None,
    traffic: Traffic = "idm",
    cities: Maps | None = None,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Scores a submission in two stages, and writes the table in the devkit's layout and, beside it, its summary as JSON.

    While it works, finished parts lie in the folder `<out>.parts`; killed and called again, it goes on from there. At any time a
    process holds the scenes of one log, or one synthetic scene, beside the maps.

    Args:
        submission: The pickle, see `irlvla.submit.read_submission`.
        split: The yaml file with the mapping between the stages, see `irlvla.data.mapping.two_stage_split`.
        logs: An OPENSCENE_DATA_ROOT, with navsim_logs and <any folder>/synthetic_scene_pickles.
        maps: A NUPLAN_MAPS_ROOT.
        out: The CSV to write: one row a scene and three rows of means; scores in [0, 1], empty where there is none.
        processes: How many work at once; as many as there are cores, or CPUs in the cluster, if None.
        traffic: How other road users move, a key of `irlvla.definitions.TRAFFIC`; the benchmark's are reactive in both stages.
        cities: Map files read before, to be shared by several calls.
        cluster: Address of a Ray cluster that scores, or "local", see `irlvla.cluster`.

    Returns:
        What the summary file holds. `failed` says what could not be scored (scene token or log -> reason): such rows are in the
        table as not valid. `faults` says why means are not valid.

    Raises:
        ValueError: The traffic is unknown; the submission, the split, the maps, the logs as a whole or the cluster cannot be used; or
            another process is writing the same table.
    """
    start = time.perf_counter()
    logs, maps, out = Path(logs), Path(maps), Path(out)
    if out.suffix == ".json":
        raise ValueError(f"{out}: the table is a CSV, its summary is the JSON file beside it")
    check_traffic(traffic)
    if not maps.is_dir():
        raise ValueError(f"maps: {maps} is no folder")
    given, chosen = read_submission(submission), two_stage_split(split)
    paths = split_log_paths(logs, chosen)
    synthetic = synthetic_paths(logs)
    inputs = _Inputs(
        submission=given,
        split=chosen,
        synthetic=synthetic,
        logs=logs,
        maps=cities if cities is not None else all_cities(maps) if len(paths) > 1 else Maps(maps),
        traffic=traffic,
    )
    parts = _parts(paths, chosen)
    if cluster is None and processes is None:
        processes = origin.cores()
    files = [*paths, *(synthetic[token] for token in chosen.synthetic_tokens if token in synthetic)]
    with parts_folder(out, _key(submission, split, [traffic, stamps(maps, files)])) as folder:
        missing = [part for part in parts if not part_done(folder, part.number)]
        if (processes is None or processes > 1) and len(missing) > 1:
            _warm(missing, inputs)
        work = partial(_score, inputs=inputs, folder=folder)
        lost = work_off(missing, work, processes, "score", already=len(parts) - len(missing), cluster=cluster)
        lost = {place: how for place, how in lost.items() if not part_done(folder, missing[place].number)}
        plans, failures = _read(folder, parts)
        for place, how in lost.items():
            names = missing[place].tokens or (str(missing[place].log),)
            failures |= dict.fromkeys(names, f"the process that scored it {how}")
        failures |= _absent(chosen, plans, failures)
        found = two_stage_scores(chosen.pairs, plans)
        about = _summary(found, failures, given, chosen) | {
            "traffic": traffic, "submission": str(submission), "split": str(split), "data": str(logs), "maps": str(maps), "processes": processes,
            "cluster": cluster, "seconds": time.perf_counter() - start,
        }  # fmt: skip
        with replaced(out, folder) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            file.write(table(chosen, found))
        with replaced(out.with_suffix(".json"), folder) as beside:
            beside.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n")
    if not lost:
        shutil.rmtree(folder_of(out))
    return about


def scored_plan(scene: PreparedScene, plan: Plan, traffic: Traffic) -> ScoredPlan:
    """A plan of one scene, scored with the human filter of logged scenes.

    Raises:
        ValueError: The scene has not the traffic that is asked for.
    """
    poses = at_known_rate(plan)[None]
    scores = sub_scores(scene, poses, traffic=traffic)
    states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, poses))
    x, y, heading = scene.ego_state[:3]
    ahead, aside = plan.poses[-1, :2]
    cos, sin = np.cos(heading), np.sin(heading)
    return ScoredPlan(
        token=scene.token,
        time_us=scene.time_us,
        start=np.array([x, y]),
        end=np.array([x + cos * ahead - sin * aside, y + sin * ahead + cos * aside]),
        values=np.array([float(getattr(scores, name)[0]) for name in SUB_SCORE_NAMES[:-1]]),
        states=states[0],
    )


def at_known_rate(plan: Plan) -> Float[np.ndarray, "poses 3"]:
    """The plan's first 4 s as 8 poses at 2 Hz or 40 at 10 Hz: as it is, or else linear in between at 10 Hz, held where it ends early."""
    for count in (POSES, STEPS - 1):
        if len(plan.poses) == count and abs(plan.interval - 4.0 / count) < 1e-9:
            return plan.poses
    knots = np.concatenate([np.zeros((1, 3)), plan.poses])
    knots[:, 2] = np.unwrap(knots[:, 2])
    times, known = 0.1 * np.arange(1, STEPS), plan.interval * np.arange(len(knots))
    return np.column_stack([np.interp(times, known, column) for column in knots.T])


def table(split: TwoStageSplit, found: TwoStageScores) -> str:
    """The devkit's CSV: scenes of stage one, of stage two, then `ROWS`; a scene that was not scored has a row that is not valid."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    count = len(SUB_SCORE_NAMES)
    nothing = [""] * count
    number = 0
    for stage, tokens in enumerate((split.chosen.tokens or (), split.synthetic_tokens)):
        for token in dict.fromkeys(tokens):
            row = _cells(found.rows.get(token, np.full(len(COLUMNS), np.nan)))
            writer.writerow([number, token, token in found.rows, *nothing * stage, *row[:count], *nothing * (1 - stage), row[-1]])
            number += 1
    one, two = _cells(found.stage_one), _cells(found.stage_two)
    for name, row in zip(
        ROWS, ([*one[:count], *nothing, one[-1]], [*nothing, *two], [*one[:count], *two[:count], *_cells(np.array([found.combined]))])
    ):
        writer.writerow([number, name, not found.faults, *row])
        number += 1
    return text.getvalue()


def _cells(values: np.ndarray) -> list[Any]:
    return ["" if np.isnan(value) else value for value in values.tolist()]


def split_log_paths(logs: Path, split: TwoStageSplit) -> list[Path]:
    """Pickles of the split's logs that are there; a scene of one that is not will be missed by its token.

    Raises:
        ValueError: None of them is there.
    """
    folder = split.data_split if split.data_split is not None and (logs / "navsim_logs" / split.data_split).is_dir() else None
    known = log_paths(logs, folder)
    paths = [path for name, path in known.items() if split.chosen.log_names is None or name in split.chosen.log_names]
    if not paths:
        raise ValueError(f"none of the {len(split.chosen.log_names or ())} logs of the split is below {logs / 'navsim_logs'}")
    return paths


def _parts(paths: Sequence[Path], split: TwoStageSplit) -> list[_Part]:
    firsts = range(0, len(split.synthetic_tokens), SCENES_A_PART)
    chunks = [split.synthetic_tokens[first : first + SCENES_A_PART] for first in firsts]
    parts = [_Part(number=number, log=path) for number, path in enumerate(paths)]
    return parts + [_Part(number=len(paths) + number, tokens=chunk) for number, chunk in enumerate(chunks)]


def _key(submission: str | Path, split: str | Path, stamp: Any) -> str:
    """Hash of everything that finished parts depend on."""
    digest = hashlib.sha256(json.dumps([TWO_STAGE, stamp, origin.code_hash(CODE)]).encode())
    digest.update(Path(submission).read_bytes())
    digest.update(repr(two_stage_split(split)).encode())
    return digest.hexdigest()[:16]


def _scenes(part: _Part, inputs: _Inputs) -> Iterator[tuple[str, Scene | str]]:
    """Scenes of a part, or why they cannot be read; a log that cannot be read goes by its path."""
    if part.log is None:
        for token in part.tokens:
            if token not in inputs.synthetic:
                yield token, f"no synthetic scene of this name is below {inputs.logs}"
                continue
            try:
                scene = synthetic_scene(inputs.synthetic[token], inputs.maps)
                yield token, scene if scene.token == token else f"{inputs.synthetic[token]} holds another scene, {scene.token}"
            except ValueError as error:
                yield token, str(error)
        return
    try:
        moments = scenes_or_reasons(part.log, inputs.maps, replace(inputs.split.chosen, max_scenes=None), inputs.logs)
    except ValueError as error:
        yield str(part.log), str(error)
        return
    for token, moment in moments:
        yield token, moment if isinstance(moment, str) else moment[0]


def _ready(scene: Scene, traffic: Traffic) -> PreparedScene:
    ready = prepared(scene)
    return ready if traffic == "log_replay" else with_reactive_traffic(scene, ready)


def _score(part: _Part, inputs: _Inputs, folder: Path) -> None:
    """Scores the scenes of a part one after the other, leaves what comes of it in the folder, and marks the part as done."""
    stage = inputs.submission.stage_two if part.log is None else inputs.submission.stage_one
    done: list[ScoredPlan] = []
    failures: dict[str, str] = {}
    for token, scene in _scenes(part, inputs):
        try:
            if isinstance(scene, str):
                raise ValueError(scene)
            if inputs.split.chosen.log_names is not None and scene.log_name not in inputs.split.chosen.log_names:
                raise ValueError(f"it is of log {scene.log_name}, which is not in the split")
            if token not in stage:
                raise ValueError(inputs.submission.refused.get(token, "the submission has no plan for it"))
            done.append(scored_plan(_ready(scene, inputs.traffic), stage[token], inputs.traffic))
        except ValueError as error:
            failures[token] = str(error)
    arrays = {name: np.array([getattr(one, name) for one in done]).reshape(len(done), *shape) for name, shape in _NUMBERS.items()}
    np.savez(folder / f"{part.number:05d}.npz", allow_pickle=False, **arrays)
    with files.replaced(folder / f"{part.number:05d}.json") as beside:
        beside.write_text(json.dumps({"tokens": [one.token for one in done], "failures": failures}))


def _warm(parts: Sequence[_Part], inputs: _Inputs) -> None:
    """Loads or compiles all kernels by one scene, so that worker processes inherit them."""
    plan = Plan(poses=np.zeros((POSES, 3)), interval=0.5)
    for part in parts:
        for _, scene in _scenes(part, inputs):
            try:
                if not isinstance(scene, str):
                    scored_plan(_ready(scene, inputs.traffic), plan, inputs.traffic)
                    return
            except ValueError:
                continue  # the worker that comes to this scene reports it


def _read(folder: Path, parts: Sequence[_Part]) -> tuple[dict[str, ScoredPlan], dict[str, str]]:
    """What all finished parts hold; a scene that two logs hold counts once."""
    plans: dict[str, ScoredPlan] = {}
    failures: dict[str, str] = {}
    for part in parts:
        if not part_done(folder, part.number):
            continue
        about = json.loads((folder / f"{part.number:05d}.json").read_text())
        failures |= about["failures"]
        with np.load(folder / f"{part.number:05d}.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NUMBERS}
        for place, token in enumerate(about["tokens"]):
            numbers = {name: values[place] for name, values in arrays.items()} | {"time_us": int(arrays["time_us"][place])}
            plans.setdefault(token, ScoredPlan(token=token, **numbers))
    return plans, {token: reason for token, reason in failures.items() if token not in plans}


def _absent(split: TwoStageSplit, plans: Mapping[str, ScoredPlan], failures: Mapping[str, str]) -> dict[str, str]:
    """Tokens of filter and mapping that were neither scored nor failed."""
    mapped = [token for pair in split.pairs for couple in ((pair.now, pair.previous), *pair.follow_ups) for token in couple]
    tokens = dict.fromkeys((*(split.chosen.tokens or ()), *split.synthetic_tokens, *mapped))
    reason = f"in no readable log of the split with 3 frames before, {split.chosen.num_future_frames} after it and a route"
    synthetic = set(split.synthetic_tokens)
    return {
        token: reason if token not in synthetic else "it was not scored" for token in tokens if token not in plans and token not in failures
    }


def _summary(found: TwoStageScores, failures: Mapping[str, str], given: Submission, split: TwoStageSplit) -> dict[str, Any]:
    def means(values: np.ndarray) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else 100.0 * value for name, value in zip(COLUMNS, values.tolist())}

    wanted = {*(split.chosen.tokens or ()), *split.synthetic_tokens}
    unused = sorted(({*given.stage_one, *given.stage_two}) - wanted)
    return {
        "definition": TWO_STAGE,
        "meaning": TWO_STAGE_MEANING,
        "valid": not found.faults,
        "combined": None if np.isnan(found.combined) else 100.0 * found.combined,
        "stage_one": means(found.stage_one),
        "stage_two": means(found.stage_two),
        "scenes": len(found.rows),
        "entries": len(split.pairs),
        "entries_in_combined": found.counted,
        "failed": dict(failures),
        "faults": list(found.faults),
        "plans_not_asked_for": len(unused),
        "commit": origin.commit(),
        "version": origin.package_version(),
        "command": origin.command(),
        "machine": origin.machine(),
    }


def summary_text(found: Mapping[str, Any]) -> str:
    """The summary as it is printed."""

    def line(name: str, values: Mapping[str, float | None]) -> str:
        return f"{name:10s}" + " ".join(f"{'-' if value is None else format(value, '.1f'):>6s}" for value in values.values())

    lines = [
        f"{found['scenes']} scenes in {found['seconds']:.1f} s",
        f"{found['definition']}: {found['meaning']}",
        f"traffic {found['traffic']}: {TRAFFIC[found['traffic']]}",
        f"{'':10s}" + " ".join(f"{name.upper():>6s}" for name in COLUMNS),
        line("stage one", found["stage_one"]),
        line("stage two", found["stage_two"]),
        f"combined  {'-' if found['combined'] is None else format(found['combined'], '.2f')}",
    ]
    if not found["valid"]:
        lines.append(
            f"NOT VALID: {len(found['failed'])} scenes or logs were not scored, {len(found['faults'])} pairs are not whole. Weights are uniform, "
            f"{found['entries'] - found['entries_in_combined']} of {found['entries']} entries of the mapping are left out of the combined score."
        )
    return "\n".join(lines)
