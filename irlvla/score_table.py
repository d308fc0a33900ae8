"""A file of trajectories -> the table of their scores, scene by scene over two processes."""

import csv
import multiprocessing
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.progress import track

from irlvla.data.navsim import FUTURE, Maps, SceneFilter, log_paths, log_scenes, scene_filter, scenes_of_tokens
from irlvla.score.epdms import epdms, sub_scores
from irlvla.score.prepared import prepared
from irlvla.types import POSES, STEPS, SUB_SCORE_NAMES, PreparedScene

COLUMNS = ("token", "trajectory", "NC", "DAC", "DDC", "TLC", "EP", "TTC", "LK", "HC", "EC", "EPDMS")
KINDS = (("", POSES, 0), ("_10hz", STEPS - 1, 1000))
"""Suffix of an array's name, its poses, number of its first trajectory in the table."""


def prepared_scenes(logs: Path, maps: Path, split: str, tokens: Sequence[str] | None = None) -> list[PreparedScene]:
    """The scenes of the tokens (without tokens: of the whole split), ready to score; see `irlvla.load_scenes`."""
    return [prepared(scene) for scene in scenes_of_tokens(logs, maps, split, tokens)]


_BAD_ARCHIVE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


@contextmanager
def _archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"trajectories {path} do not exist or cannot be opened ({error})") from error
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except _BAD_ARCHIVE as error:
            raise ValueError(f"trajectories {path}: no readable npz file ({error})") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"trajectories {path}: no readable npz file (it holds one bare array)")
        with archive:
            yield archive


@lru_cache(maxsize=1)
def _maps(root: Path) -> Maps:
    return Maps(root)


def tokens_of(path: Path) -> list[str]:
    """Tokens that have plans in a trajectories file, in the file's order.

    Raises:
        ValueError: The file cannot be read or holds no array called <token>_poses or <token>_poses_10hz.
    """
    tokens = {}
    with _archive(path) as archive:
        names = archive.files
    for name in names:
        for suffix, _, _ in KINDS:
            if name.endswith(f"_poses{suffix}") and not name.endswith(f"_prev_poses{suffix}"):
                tokens[name.removesuffix(f"_poses{suffix}")] = None
    if not tokens:
        raise ValueError(f"trajectories {path}: no array is called <token>_poses or <token>_poses_10hz")
    return list(tokens)


def _plans(archive: np.lib.npyio.NpzFile, name: str, count: int) -> np.ndarray | None:
    if name not in archive.files:
        return None
    try:
        values = archive[name]
    except _BAD_ARCHIVE as error:
        raise ValueError(f"array {name} cannot be read ({error})") from error
    if values.ndim != 3 or values.shape[1:] != (count, 3) or values.dtype.kind not in "fiu":
        raise ValueError(f"array {name} has shape {values.shape} of {values.dtype}, not (N, {count}, 3) of numbers")
    if not np.isfinite(values).all():
        raise ValueError(f"array {name} holds values that are not finite")
    return values.astype(np.float64)


def _rows(scene: PreparedScene, archive: np.lib.npyio.NpzFile) -> Iterator[list]:
    for suffix, count, first in KINDS:
        poses = _plans(archive, f"{scene.token}_poses{suffix}", count)
        previous = _plans(archive, f"{scene.token}_prev_poses{suffix}", count)
        if poses is None:
            continue
        if previous is not None and len(previous) != len(poses):
            raise ValueError(f"{len(poses)} plans in {scene.token}_poses{suffix} but {len(previous)} in {scene.token}_prev_poses{suffix}")
        scores = sub_scores(scene, poses, previous)
        total = epdms(scores)
        for row in range(len(poses)):
            values = [float(getattr(scores, name)[row]) for name in SUB_SCORE_NAMES]
            if not scores.ec_defined[row]:
                values[-1] = ""
            yield [scene.token, first + row, *values, float(total[row])]


def _scored_log(log: Path, logs: Path, maps: Path, chosen: SceneFilter, trajectories: Path) -> tuple[list[list], dict[str, str]]:
    """Rows of the log's scenes, and what went wrong: token (or the log's path) -> reason."""
    rows, failures = [], {}
    try:
        scenes = log_scenes(log, _maps(maps), chosen, logs)
    except ValueError as error:
        return [], {str(log): str(error)}
    with _archive(trajectories) as archive:
        for scene in scenes:
            try:
                rows += list(_rows(prepared(scene), archive))
            except ValueError as error:
                failures[scene.token] = str(error)
    return rows, failures


def score_split(
    logs: str | Path, maps: str | Path, split: str, trajectories: str | Path, out: str | Path, processes: int = 2
) -> tuple[int, dict[str, str]]:
    """Score all plans of a file with log-replay traffic and the human filter, and write the table.

    Args:
        logs: An OPENSCENE_DATA_ROOT.
        maps: A NUPLAN_MAPS_ROOT.
        split: A folder below navsim_logs, or the path of a scene filter file.
        trajectories: npz with <token>_poses (N, 8, 3), <token>_poses_10hz (M, 40, 3) and optionally the plans made one frame
            earlier, <token>_prev_poses and <token>_prev_poses_10hz; rear axle, ego frame, t = 0 excluded.
        out: The CSV to write, with `COLUMNS`; rows in the order of the file.
        processes: Logs that are scored at once.

    Returns:
        Rows written, and what failed: scene token -> reason. Scenes that failed have no rows.

    Raises:
        ValueError: The trajectories, the split or the maps as a whole cannot be used.
    """
    logs, maps, trajectories, out = Path(logs), Path(maps), Path(trajectories), Path(out)
    tokens = tokens_of(trajectories)
    if not maps.is_dir():
        raise ValueError(f"maps: {maps} is no folder")
    is_file = split.endswith((".yaml", ".yml"))
    known = log_paths(logs)
    if is_file:
        names = scene_filter(split).log_names
        paths = [path for name, path in known.items() if names is None or name in names]
    else:
        paths = [path for path in known.values() if path.parent.name == split]
    if not paths:
        raise ValueError(f"split {split!r} has no log below {logs / 'navsim_logs'}")
    chosen = SceneFilter(num_future_frames=FUTURE, has_route=False, tokens=tuple(tokens))
    jobs = [(path, logs, maps, chosen, trajectories) for path in paths]
    rows, failures = [], {}
    if processes < 2 or len(jobs) < 2:
        outcomes = (_scored_log(*job) for job in jobs)
        for some, failed in track(outcomes, "scoring logs", total=len(jobs), transient=True):
            rows, failures = rows + some, failures | failed
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
            futures = [pool.submit(_scored_log, *job) for job in jobs]
            for future in track(as_completed(futures), "scoring logs", total=len(jobs), transient=True):
                some, failed = future.result()
                rows, failures = rows + some, failures | failed
    place = {token: i for i, token in enumerate(tokens)}
    rows.sort(key=lambda row: (place[row[0]], row[1]))
    scored = {row[0] for row in rows}
    for token in tokens:
        if token not in scored and token not in failures:
            failures[token] = f"in no readable log of {split} with 3 frames before and {FUTURE} after it"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return len(rows), failures
