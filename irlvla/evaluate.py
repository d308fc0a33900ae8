"""Plans of every row on the same scenes, scored exactly: results.json, a table a policy, paired differences."""

import csv
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from irlvla.baselines import BASELINES
from irlvla.data.features import poses_in_ego
from irlvla.data.store import Indices, Store
from irlvla.definitions import EPDMS
from irlvla.files import json_mapping, replaced, short
from irlvla.intervals import mean_interval
from irlvla.score.distance import displacement_errors
from irlvla.score.epdms import epdms, sub_scores
from irlvla.types import COLUMN_NAMES, SUB_SCORE_NAMES, SubScores

ROW_NAMES = (
    "human",
    "pdm_closed",
    "constant_velocity",
    "ctra",
    "stand_still",
    "ego_mlp",
    "no_camera",
    "imitation",
    "imitation_continued",
    "best_of_g",
    "selector",
    "ppo",
    "ppo_selector",
)
"""Rows of the table in its order; what each is says docs/method.md. Below them come variants of `ppo`, where they were trained."""
PAIRS = (
    ("ppo", "imitation_continued"),
    ("ppo", "imitation"),
    ("ppo", "best_of_g"),
    ("ppo", "selector"),
    ("ppo_selector", "ppo"),
    ("ppo_selector", "selector"),
    ("selector", "imitation"),
    ("best_of_g", "imitation"),
    ("imitation_continued", "imitation"),
    ("imitation", "no_camera"),
    ("imitation", "ego_mlp"),
)
METRIC_NAMES = ("epdms", *SUB_SCORE_NAMES)
DISTANCE_NAMES = ("ade", "fde")
THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """One plan a scene, and the plan of the same policy 0.5 s earlier (None: the row has none, EC is left out)."""

    poses: Float[np.ndarray, "scenes poses 3"]
    previous: Float[np.ndarray, "scenes poses 3"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTable:
    """One policy's numbers for each scene: scores in [0, 1], distances in m. EC is NaN where it is not defined."""

    policy: str
    tokens: tuple[str, ...]
    log_names: tuple[str, ...]
    values: Mapping[str, Float[np.ndarray, "scenes"]]
    definition: str = EPDMS

    def __post_init__(self) -> None:
        missing = sorted({*METRIC_NAMES, *DISTANCE_NAMES} - set(self.values))
        if missing:
            raise ValueError(f"table of {self.policy}: columns {missing} are missing")


def privileged_plans(store: Store, indices: Indices) -> dict[str, Plans]:
    """The rows that know what no policy may: the logged driver, and PDM-Closed with its map and boxes (10 Hz, no plan before)."""
    scenes = [store.prepared(int(index)) for index in indices]
    reference = np.stack([poses_in_ego(scene.ego_state[:3], scene.reference_poses[1:41]) for scene in scenes])
    return {
        "human": Plans(poses=store.human(indices), previous=_or_zeros(store, indices, store.human)),
        "pdm_closed": Plans(poses=reference, previous=None),
    }


def baseline_plans(store: Store, indices: Indices) -> dict[str, Plans]:
    """The rows that see only the ego's state."""

    def history(some: Indices, previous: bool = False) -> np.ndarray:
        return store.histories(some, previous=previous)

    now, before = history(indices), _or_zeros(store, indices, history)
    return {
        name: Plans(poses=np.stack([plan(states) for states in now]), previous=np.stack([plan(states) for states in before]))
        for name, plan in BASELINES.items()
    }


def scene_tables(store: Store, indices: Indices, plans: Mapping[str, Plans]) -> dict[str, SceneTable]:
    """Scores every row's plans on the same scenes, with the human filter.

    Args:
        store: prepared scenes.
        indices: which of them.
        plans: plans by row name, in the order of `indices`.

    Returns:
        A table a row.
    """
    human = store.human(indices)
    groups: dict[tuple[int, bool], list[str]] = {}
    for name, plan in plans.items():
        groups.setdefault((plan.poses.shape[1], plan.previous is None), []).append(name)

    def scored(row: int) -> dict[str, tuple[SubScores, int]]:
        scene = store.prepared(int(indices[row]))
        answers = {}
        for (_, alone), names in groups.items():
            poses = np.stack([plans[name].poses[row] for name in names])
            previous = None if alone else np.stack([plans[name].previous[row] for name in names])
            scores = sub_scores(scene, poses, previous)
            answers |= {name: (scores, position) for position, name in enumerate(names)}
        return answers

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(scored, range(len(indices))))
    tokens = tuple(store.tokens[int(index)] for index in indices)
    log_names = tuple(store.log_names[int(index)] for index in indices)
    tables = {}
    for name, plan in plans.items():
        values = {key: np.array([getattr(answer[name][0], key)[answer[name][1]] for answer in answers]) for key in SUB_SCORE_NAMES}
        defined = np.array([answer[name][0].ec_defined[answer[name][1]] for answer in answers]) > 0
        values["epdms"] = np.array([epdms(answer[name][0])[answer[name][1]] for answer in answers])
        values["ec"] = np.where(defined, values["ec"], np.nan)
        errors = [displacement_errors(plan.poses[scene][None], human[scene]) for scene in range(len(human))]
        values |= {"ade": np.array([ade[0] for ade, _ in errors]), "fde": np.array([fde[0] for _, fde in errors])}
        tables[name] = SceneTable(policy=name, tokens=tokens, log_names=log_names, values=values)
    return tables


def row(table: SceneTable, seed: int, chosen: Bool[np.ndarray, "scenes"] | None = None) -> dict[str, Any]:
    """One row of `results.json`: scores in 0-100 with the interval of EPDMS, distances in m; None where nothing is defined."""
    chosen = np.ones(len(table.tokens), dtype=bool) if chosen is None else chosen
    logs = [name for name, keep in zip(table.log_names, chosen, strict=True) if keep]
    scores = table.values["epdms"][chosen]
    answer: dict[str, Any] = {"policy": table.policy, "seed": seed, "epdms": 100 * float(scores.mean())}
    answer["ci95"] = [100 * end for end in mean_interval(scores, logs)]
    for name in (*SUB_SCORE_NAMES, *DISTANCE_NAMES):
        values = table.values[name][chosen]
        values = values[~np.isnan(values)]
        scale = 1 if name in DISTANCE_NAMES else 100
        answer[name] = scale * float(values.mean()) if len(values) else None
    return answer


def pair(table: SceneTable, against: SceneTable, metric: str, chosen: Bool[np.ndarray, "scenes"] | None = None) -> dict[str, Any] | None:
    """One paired difference of `results.json` in 0-100 with an interval that resamples logs; None where it is nowhere defined.

    Raises:
        ValueError: the two tables are not of the same scenes.
    """
    if table.tokens != against.tokens:
        raise ValueError(f"{table.policy} and {against.policy} were evaluated on different scenes")
    difference = table.values[metric] - against.values[metric]
    keep = ~np.isnan(difference) if chosen is None else chosen & ~np.isnan(difference)
    if not keep.any():
        return None
    logs = [name for name, kept in zip(table.log_names, keep, strict=True) if kept]
    low, high = mean_interval(difference[keep], logs)
    return {
        "policy": table.policy,
        "against": against.policy,
        "metric": metric,
        "difference": 100 * float(difference[keep].mean()),
        "ci95": [100 * low, 100 * high],
        "logs": len(set(logs)),
    }


def rows_and_pairs(tables: Mapping[str, SceneTable], seed: int, chosen: Bool[np.ndarray, "scenes"] | None = None) -> dict[str, Any]:
    """All rows there are, in the table's order, and all pairs whose two rows are there."""
    others = sorted(set(tables) - set(ROW_NAMES))
    ordered = [name for name in ROW_NAMES if name in tables] + others
    variants = [name for name in others if name.startswith("ppo_")]
    compared = [*PAIRS, *(("ppo", name) for name in variants), *((name, "imitation") for name in variants)]
    pairs = [
        pair(tables[policy], tables[against], metric, chosen)
        for policy, against in compared
        if policy in tables and against in tables
        for metric in METRIC_NAMES
    ]
    return {"rows": [row(tables[name], seed, chosen) for name in ordered], "pairs": [found for found in pairs if found is not None]}


def late_onset(store: Store, indices: Indices) -> Bool[np.ndarray, "scenes"]:
    """Scenes whose braking or turning starts after t0, so that ego status does not give the answer away.

    At t0 the car neither brakes (more than 0.5 m/s2) nor turns (more than 0.05 rad/s), and within 4 s it loses more than 2 m/s
    or turns by more than 0.25 rad.
    """
    history, human = store.histories(indices), store.human(indices)
    calm = (history[:, -1, 5] > -0.5) & (np.abs(history[:, -1, 2] - history[:, -2, 2]) < 0.025)
    start = np.zeros((len(human), 1, 3))
    speeds = np.linalg.norm(np.diff(np.concatenate([start, human], axis=1)[..., :2], axis=1), axis=2) / 0.5
    slower = history[:, -1, 3] - speeds.min(axis=1) > 2.0
    turned = np.abs(human[..., 2]).max(axis=1) > 0.25
    return calm & (slower | turned)


def unseen_logs(split: Path) -> set[str] | None:
    """Logs of towns that no policy was trained on, as the world beside a split says; None where nothing says so."""
    path = split.parent.parent / "world.json"
    return set(json_mapping(path).get("unseen_logs", ())) if path.exists() else None


def subsets(store: Store, indices: Indices, split: Path) -> dict[str, Bool[np.ndarray, "scenes"]]:
    """Parts of a split that are reported on their own; parts without scenes are left out."""
    found = {"late_onset": late_onset(store, indices)}
    unseen = unseen_logs(split)
    if unseen is not None:
        inside = np.array([store.log_names[int(index)] in unseen for index in indices])
        found |= {"seen_towns": ~inside, "unseen_towns": inside}
    return {name: mask for name, mask in found.items() if mask.any()}


def write_table(path: Path, table: SceneTable) -> None:
    """Writes a policy's per-scene CSV with NAVSIM's long column names; `score` is EPDMS, EC is empty where it is not defined."""
    columns = {COLUMN_NAMES[name]: table.values[name] for name in SUB_SCORE_NAMES}
    columns |= {"score": table.values["epdms"], **{name: table.values[name] for name in DISTANCE_NAMES}}
    with replaced(path) as beside, beside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["token", "log_name", *columns, "definition"])
        for index, (token, log_name) in enumerate(zip(table.tokens, table.log_names, strict=True)):
            numbers = ("" if math.isnan(values[index]) else repr(float(values[index])) for values in columns.values())
            writer.writerow([token, log_name, *numbers, table.definition])


def read_table(path: Path) -> SceneTable:
    """A per-scene CSV as `write_table` wrote it.

    Raises:
        ValueError: the file is no CSV, lacks a column, has no row, two of a scene, a value that is no number, or mixes definitions of
            the score.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            lines = list(reader)
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: no readable CSV ({error})") from error
    long_names = COLUMN_NAMES | {"epdms": "score", "ade": "ade", "fde": "fde"}
    columns = {"token", "log_name", "definition", *long_names.values()}
    missing = sorted(columns - set(names))
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing")
    for row, line in enumerate(lines, 2):
        absent = [column for column in columns if line[column] is None]
        if absent:
            raise ValueError(f"{path}: row {row} ends before {sorted(absent)[0]}")
    values = {name: np.array([_cell(path, line, column) for line in lines]) for name, column in long_names.items()}
    definitions = sorted({line["definition"] for line in lines})
    if len(definitions) != 1:
        raise ValueError(f"{path}: its rows are of {len(definitions)} definitions of the score, not of one: {', '.join(definitions)[:500]}")
    rows: dict[str, int] = {}
    for row, line in enumerate(lines, 2):
        if line["token"] in rows:
            raise ValueError(f"{path}: the rows {rows[line['token']]} and {row} are of one scene, {short(line['token'])}")
        rows[line["token"]] = row
    return SceneTable(
        policy=path.stem,
        tokens=tuple(line["token"] for line in lines),
        log_names=tuple(line["log_name"] for line in lines),
        values=values,
        definition=definitions[0],
    )


def _cell(path: Path, line: Mapping[str, str], column: str) -> float:
    """A number of a CSV, NaN where there is none."""
    try:
        value = float(line[column] or "nan")
    except ValueError:
        value = np.inf
    if np.isinf(value):
        raise ValueError(f"{path}: scene {short(line['token'])} has the {column} {short(line[column])}, no number")
    return value


def _or_zeros(store: Store, indices: Indices, source: Any) -> np.ndarray:
    """What `source` says of the previous moments, zeros for scenes without one (their EC is not defined anyway)."""
    indices = np.asarray(indices)
    present = store.has_previous[indices]
    some = source(indices[present], previous=True)
    values = np.zeros((len(indices), *some.shape[1:]))
    values[present] = some
    return values
