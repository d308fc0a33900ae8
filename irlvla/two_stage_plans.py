"""A run's policies in both stages of the two-stage benchmark: what they see, what they plan, and how that scores."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla import origin
from irlvla.baselines import BASELINES
from irlvla.data import features as feature
from irlvla.data import navsim, store
from irlvla.data.features import SensorConfig
from irlvla.data.mapping import TwoStageSplit, two_stage_split
from irlvla.data.store import Moment, Prepared, Store
from irlvla.data.synthetic import synthetic_paths, synthetic_scene
from irlvla.definitions import TWO_STAGE, TWO_STAGE_MEANING, Traffic, check_traffic
from irlvla.evaluate import ROW_NAMES
from irlvla.files import held, json_mapping
from irlvla.learned import learned_plans, trained
from irlvla.prepare import SOURCES, all_cities, is_stale, stamps
from irlvla.run import provenance, write_json
from irlvla.submit import write_submission
from irlvla.two_stage import CODE, score_two_stage, split_log_paths
from irlvla.types import POSES, SYNTHETIC_TOKEN_LENGTH, Scene
from irlvla.workers import work_off

HUMAN = "human"
"""A row with plans for stage one only: nobody drove in synthetic scenes."""
SCENES_A_SHARD = 64
"""Synthetic scenes that are prepared as one shard."""

PlansByToken = Mapping[str, Float[np.ndarray, "8 3"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BothStages:
    """One plan a scene, by token: of the logged scenes of a split, and of the synthetic ones that follow them."""

    stage_one: PlansByToken
    stage_two: PlansByToken


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """What is prepared in one go: the scenes of one log, or some synthetic ones."""

    number: int
    log: Path | None = None
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every worker needs; inherited through fork."""

    folder: Path
    logs: Path
    maps: navsim.Maps
    split: TwoStageSplit
    synthetic: Mapping[str, Path]
    sensors: SensorConfig
    rows: Mapping[str, int]


def two_stage_store(
    logs: Path, maps: Path, split: Path, folder: Path, sensors: SensorConfig, cities: navsim.Maps | None = None, processes: int = 2
) -> Store:
    """What policies see of both stages' scenes: as it is if nothing changed, continued if it was interrupted, built anew if it is stale.

    Each scene stands alone, without the moment before it, and without annotations: the store is for planning, not for scoring or
    training. Synthetic scenes have no human's plan (NaN).

    Args:
        logs: an OPENSCENE_DATA_ROOT, with synthetic scenes.
        maps: a NUPLAN_MAPS_ROOT.
        split: see `irlvla.data.mapping.two_stage_split`.
        folder: where the store lies or shall lie.
        sensors: cameras and picture size.
        cities: map files read before.
        processes: shards are prepared by so many at once.

    Returns:
        The opened store; `failed` names scenes that cannot be read, and why.

    Raises:
        ValueError: an input is missing or of the wrong kind, a process died, or no scene at all can be read.
    """
    chosen = two_stage_split(split)
    chosen = replace(chosen, chosen=replace(chosen.chosen, max_scenes=None))
    synthetic = synthetic_paths(logs)
    paths = split_log_paths(logs, chosen)
    tokens = list(dict.fromkeys((*(chosen.chosen.tokens or ()), *chosen.synthetic_tokens)))
    firsts = range(0, len(chosen.synthetic_tokens), SCENES_A_SHARD)
    parts = [{"log": path} for path in paths] + [{"tokens": chosen.synthetic_tokens[first : first + SCENES_A_SHARD]} for first in firsts]
    shards = [_Shard(number=number, **part) for number, part in enumerate(parts)]
    files = [*paths, *(synthetic[token] for token in chosen.synthetic_tokens if token in synthetic)]
    about = [store.FORMAT, asdict(sensors), tokens, origin.code_hash((*SOURCES, "two_stage_plans.py")), stamps(maps, files)]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    settings = {"logs": str(logs), "maps": str(maps), "split": str(split), "sensors": asdict(sensors)}
    if is_stale(store.read_header(folder), key):
        with held(folder):
            header = store.read_header(folder)
            work = _Work(
                folder=folder,
                logs=logs,
                maps=all_cities(maps) if cities is None else cities,
                split=chosen,
                synthetic=synthetic,
                sensors=sensors,
                rows={token: row for row, token in enumerate(tokens)},
            )
            if header is None or header["key"] != key or header["format"] != store.FORMAT:
                store.create(folder, key, settings, tokens, len(shards), sensors)
            missing = [shard for shard in shards if not store.done(folder, shard.number)]

            def write(shard: _Shard) -> None:
                store.write_shard(folder, shard.number, _rows(work, shard))

            lost = work_off(missing, write, processes, "read both stages (shards)", already=len(shards) - len(missing))
            if lost:
                place, how = min(lost.items())
                raise ValueError(f"{folder}: the process that read shard {missing[place].number} {how}; what was finished is kept")
            store.finish(folder)
    opened = Store(folder)
    if not len(opened):
        raise ValueError(
            f"{split}: none of {len(opened.failed)} scenes can be read; the first failed with: {next(iter(opened.failed.values()))}"
        )
    return opened


def _rows(work: _Work, shard: _Shard) -> Iterator[tuple[int | str, Prepared | str]]:
    """Rows of a shard with their scenes, or why they cannot be read; a log that cannot be read goes by its name."""
    if shard.log is not None:
        try:
            moments = navsim.scenes_or_reasons(shard.log, work.maps, work.split.chosen, work.logs)
        except ValueError as error:
            yield f"log {shard.log.stem}", str(error)
            return
        for token, moment in moments:
            yield work.rows[token], moment if isinstance(moment, str) else _seen(moment[0], work.sensors)
        return
    for token in shard.tokens:
        if token not in work.synthetic:
            yield work.rows[token], f"no synthetic scene of this name is below {work.logs}"
            continue
        try:
            yield work.rows[token], _seen(synthetic_scene(work.synthetic[token], work.maps, cameras=True), work.sensors)
        except ValueError as error:
            yield work.rows[token], str(error)


def _seen(scene: Scene, sensors: SensorConfig) -> Prepared | str:
    """What a policy sees of a scene, or why that cannot be told."""
    is_synthetic = len(scene.token) == SYNTHETIC_TOKEN_LENGTH
    try:
        human = np.full((POSES, 3), np.nan) if is_synthetic else feature.human_poses(scene)
        now = Moment(features=feature.features(scene, sensors), human=human, targets=None, elements=None, facts=None)
    except ValueError as error:
        return str(error)
    return Prepared(log_name=scene.log_name, prepared=None, now=now, previous=None, picture="")


def two_stage_plans(folder: Path, opened: Store, split: Path, names: Sequence[str]) -> dict[str, BothStages]:
    """Plans of some rows for all scenes of both stages, each scene planned on its own.

    Args:
        folder: the run.
        opened: see `two_stage_store`.
        split: the split of two stages.
        names: HUMAN, baselines, or learned rows of the run.

    Raises:
        ValueError: a row is not known, or not trained in this run.
    """
    rows = np.arange(len(opened))
    second = set(two_stage_split(split).synthetic_tokens)
    plans: dict[str, Float[np.ndarray, "scenes 8 3"]] = {}
    if HUMAN in names:
        plans[HUMAN] = opened.human(rows)
    histories = opened.histories(rows)
    plans |= {name: np.stack([plan(history) for history in histories]) for name, plan in BASELINES.items() if name in names}
    learned = learned_plans(folder, opened, rows, [name for name in names if name not in plans])
    plans |= {name: plan.poses for name, plan in learned.items()}
    found = {}
    for name in names:
        by_token = {token: poses for token, poses in zip(opened.tokens, plans[name], strict=True) if np.isfinite(poses).all()}
        found[name] = BothStages(
            stage_one={token: poses for token, poses in by_token.items() if token not in second},
            stage_two={token: poses for token, poses in by_token.items() if token in second},
        )
    return found


def assess_two_stages(
    folder: Path,
    logs: Path,
    maps: Path,
    split: Path,
    seed: int,
    sensors: SensorConfig,
    names: Sequence[str] | None = None,
    traffic: Traffic = "idm",
    processes: int | None = None,
) -> dict[str, Any]:
    """Evaluates a run on a split of two stages: a table a row in the devkit's layout, and results.json beside them.

    They lie in evaluation/<split> of the run's folder, with the submissions that were scored. Killed and called again, it goes on
    where it was; rows of which nothing changed are kept.

    Args:
        folder: the run.
        logs: an OPENSCENE_DATA_ROOT, with synthetic scenes.
        maps: a NUPLAN_MAPS_ROOT.
        split: see `irlvla.data.mapping.two_stage_split`.
        seed: of the run.
        sensors: those of the run.
        names: rows to evaluate; None evaluates all that the run allows.
        traffic: how other road users move, a key of `irlvla.definitions.TRAFFIC`.
        processes: how many score at once; as many as there are cores if None.

    Returns:
        What results.json holds: for each row the means of both stages and the combined score, 0-100, None where there is none.
        `failed` names scenes that could not be read or scored (those that a row has no plans for by its nature left out).

    Raises:
        ValueError: as `two_stage_store`, `two_stage_plans` and `irlvla.two_stage.score_two_stage`.
    """
    check_traffic(traffic)
    names = (HUMAN, *BASELINES, *trained(folder)) if names is None else tuple(dict.fromkeys(names))
    names = sorted(names, key=lambda name: ROW_NAMES.index(name) if name in ROW_NAMES else len(ROW_NAMES))
    processes = origin.cores() if processes is None else processes
    cities = all_cities(maps)
    opened = two_stage_store(logs, maps, split, folder / "stores" / f"{split.stem}-stages", sensors, cities, processes)
    plans = two_stage_plans(folder, opened, split, names)
    second = two_stage_split(split).synthetic_tokens
    place = folder / "evaluation" / split.stem
    place.mkdir(parents=True, exist_ok=True)
    kept = {row["key"]: row for row in _rows_of(place / "results.json")}
    about = provenance(opened.key, seed)
    results: dict[str, Any] = {
        "definition": TWO_STAGE,
        "meaning": TWO_STAGE_MEANING,
        "split": split.stem,
        "traffic": traffic,
        "entries": len(two_stage_split(split).pairs),
        "scenes": len(opened),
        "logs": len(set(opened.log_names)),
        "commit": about["commit"],
        "command": about["command"],
        "seeds": [seed],
        "rows": [],
        "failed": dict(opened.failed),
        "provenance": about,
    }
    for name in names:
        submission, table = place / f"{name}.pkl", place / f"{name}.csv"
        if not plans[name].stage_one:
            raise ValueError(f"{split}: {name} has no plan for any logged scene; {len(opened.failed)} scenes could not be read")
        write_submission(submission, plans[name].stage_one, {"team_name": name}, plans[name].stage_two)
        key = _key(submission, opened, traffic)
        if key not in kept or not table.exists():
            found = score_two_stage(submission, split, logs, maps, table, processes, traffic, cities)
            kept[key] = {"key": key, "policy": name, "seed": seed, **_numbers(found, second if name == HUMAN else ())}
        results["rows"].append(kept[key])
        results["failed"] |= kept[key]["failed"]
        write_json(place / "results.json", results)
    return results


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of an earlier evaluation; none where there was none, or where it is damaged."""
    try:
        rows = json_mapping(path).get("rows")
    except ValueError:
        return []
    names = ("key", "policy", "failed", "combined", "stage_one", "stage_two")
    return [row for row in rows if isinstance(row, dict) and all(name in row for name in names)] if isinstance(rows, list) else []


def _key(submission: Path, opened: Store, traffic: Traffic) -> str:
    """Hash of all that a row's scores depend on."""
    digest = hashlib.sha256(submission.read_bytes())
    digest.update(json.dumps([opened.key, traffic, origin.code_hash(CODE)]).encode())
    return digest.hexdigest()[:16]


def _numbers(found: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """What a row says of `score_two_stage`'s summary; of one that has no plans for stage two, whose tokens are left out, just stage one."""
    return {
        "stage_one": found["stage_one"],
        "stage_two": None if left_out else found["stage_two"],
        "combined": None if left_out else found["combined"],
        "valid": found["valid"],
        "entries_in_combined": found["entries_in_combined"],
        "failed": {token: reason for token, reason in found["failed"].items() if token not in set(left_out)},
    }


def rows_text(results: Mapping[str, Any]) -> str:
    """The rows as they are printed."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    lines = [
        f"{results['split']}: {results['entries']} entries, {results['scenes']} scenes of {results['logs']} logs, "
        f"definition {results['definition']}, traffic {results['traffic']}",
        f"{'policy':24s} {'stage one':>10s} {'stage two':>10s} {'combined':>10s}",
    ]
    for row in results["rows"]:
        stages = [None if row[stage] is None else row[stage]["score"] for stage in ("stage_one", "stage_two")]
        mark = "" if row["valid"] or row["policy"] == HUMAN else "  NOT VALID"
        lines.append(f"{row['policy']:24s} " + " ".join(f"{shown(value):>10s}" for value in (*stages, row["combined"])) + mark)
    return "\n".join(lines)
