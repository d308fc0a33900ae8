"""The embedded world made from nothing: towns, traffic, logs, selected scenes and pictures, as a NAVSIM data set on disk."""

import functools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from irlvla.data.navsim import Maps, SceneFilter, log_moments
from irlvla.definitions import EPDMS
from irlvla.score.prepared import prepared
from irlvla.selection import (
    FUTURE,
    ROWS,
    SITUATIONS,
    baseline_scores,
    drawn,
    likelihoods,
    printed_table,
    situations,
    spaced,
    table_rows,
    worth_keeping,
)
from irlvla.types import HISTORY, SUB_SCORE_NAMES, PreparedScene, Scene, SubScores
from irlvla.workers import leave_with
from irlvla.world.camera import JPEG_QUALITY, Stage, camera_pose, mounting, picture, stage
from irlvla.world.dressing import dressed_town
from irlvla.world.export import Drive, Run, drives, ego_pose, footage, log_frames, write_log
from irlvla.world.mapfile import CITIES, write_city, write_index
from irlvla.world.motion import FRAME_STEPS, crowd, ego_motion, standing_things
from irlvla.world.scenery import load_scenery, save_footage, save_scenery
from irlvla.world.streets import SHAPES
from irlvla.world.town import Town, make_town
from irlvla.world.traffic import TIME_STEP, simulate

SPLITS = ("train", "val", "test")
LEAST_SCENES = 3
"""A log with fewer scenes is not worth its size."""
TRIES = 2
"""Candidates scored for each scene that a log may give."""
ATTEMPTS = 4
"""Simulated runs of a task until it has its logs."""
SECONDS_A_LOG = 3.5
LANE_A_CAR = 95.0
"""Length of lane for each motor vehicle, m."""
DEFAULT_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """How large a world is. The split of logs follows the numbers of scenes."""

    seed: int = 0
    cameras: tuple[str, ...] = DEFAULT_CAMERAS
    known_towns: int = 12
    unseen_towns: int = 4
    train_scenes: int = 3780
    train_logs: int = 630
    val_scenes: int = 360
    val_logs: int = 60
    test_scenes: int = 1650
    test_logs: int = 300
    log_frames: int = 50
    shortest_log: int = 24
    most_scenes_a_log: int = 8
    processes: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One simulated run: its town, and how many logs and scenes of which splits it has to give."""

    town: int
    name: str
    quotas: tuple[tuple[str, int, int], ...]
    """Split, logs, scenes."""


def scaled(config: WorldConfig, logs: int) -> WorldConfig:
    """The same world cut down to `logs` logs in all: a quarter of them test, at least one each of train, val and test."""
    if logs < 3:
        raise ValueError(f"a world needs at least 3 logs (train, val, test), not {logs}")
    share = logs / (config.train_logs + config.val_logs + config.test_logs)
    test, val = max(1, round(share * config.test_logs)), max(1, round(share * config.val_logs))
    train = logs - test - val
    return replace(
        config,
        known_towns=min(config.known_towns, max(1, logs // 24)),
        unseen_towns=min(config.unseen_towns, 1 if logs < 60 else 2, test),
        train_logs=train,
        train_scenes=train * config.train_scenes // config.train_logs,
        val_logs=val,
        val_scenes=val * config.val_scenes // config.val_logs,
        test_logs=test,
        test_scenes=test * config.test_scenes // config.test_logs,
    )


def _shares(total: int, parts: int) -> list[int]:
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]


def tasks(config: WorldConfig) -> list[Task]:
    """All runs of a world. Logs of train never share a run with val or test; unseen towns give test logs only."""
    known, unseen = config.known_towns, config.unseen_towns
    train = list(zip(_shares(config.train_logs, known), _shares(config.train_scenes, known), strict=True))
    val = list(zip(_shares(config.val_logs, known), _shares(config.val_scenes, known), strict=True))
    half, half_scenes = config.test_logs // 2, config.test_scenes * (config.test_logs // 2) // config.test_logs
    test = list(zip(_shares(half, known), _shares(half_scenes, known), strict=True))
    new = list(zip(_shares(config.test_logs - half, unseen), _shares(config.test_scenes - half_scenes, unseen), strict=True))
    found = [Task(town=town, name="train", quotas=(("train", *train[town]),)) for town in range(known)]
    found += [Task(town=town, name="other", quotas=(("val", *val[town]), ("test", *test[town]))) for town in range(known)]
    found += [Task(town=known + town, name="unseen", quotas=(("test", *new[town]),)) for town in range(unseen)]
    return [task for task in found if any(logs for _, logs, _ in task.quotas)]


def with_test_logs(config: WorldConfig, logs: int) -> WorldConfig:
    """The same world with `logs` test logs in all, and more scenes and unseen towns in proportion."""
    if logs < config.test_logs:
        raise ValueError(f"a world of this size has {config.test_logs} test logs, {logs} are fewer: ask for a smaller world instead")
    scenes, towns = config.test_scenes * logs // config.test_logs, -(-config.unseen_towns * logs // config.test_logs)
    return replace(config, test_logs=logs, test_scenes=scenes, unseen_towns=towns)


def further_tasks(config: WorldConfig, larger: WorldConfig) -> list[Task]:
    """Runs for further test logs, half in known towns and half in further unseen ones; all that there is without them stays as it is."""
    known, unseen = config.known_towns, larger.unseen_towns - config.unseen_towns
    logs, scenes = larger.test_logs - config.test_logs, larger.test_scenes - config.test_scenes
    half, half_scenes = logs // 2, scenes // 2
    test = list(zip(_shares(half, known), _shares(half_scenes, known), strict=True))
    new = list(zip(_shares(logs - half, unseen), _shares(scenes - half_scenes, unseen), strict=True))
    found = [Task(town=town, name="further", quotas=(("test", *test[town]),)) for town in range(known)]
    found += [Task(town=known + config.unseen_towns + town, name="unseen", quotas=(("test", *new[town]),)) for town in range(unseen)]
    return [task for task in found if any(logs for _, logs, _ in task.quotas)]


def _make_town(job: tuple[Path, Path, int, int]) -> tuple[Town, tuple[tuple[int, int], ...]]:
    folder, work, seed, number = job
    cities = sorted(CITIES)
    city = cities[number % len(cities)]
    place = number // len(cities)
    shape = SHAPES[(number * 5 + number // 3) % len(SHAPES)]
    origin = np.array(CITIES[city][2]) + np.array((3000.0 * (place % 4), 3000.0 * (place // 4)))
    name = f"town{number:02d}"
    town = make_town(work / name, name, city, shape, seed * 1000 + number, origin, 1_000_000 * (place + 1))
    standing, systems = dressed_town(town, seed * 1000 + number)
    save_scenery(folder / "openscene" / "sidecar" / f"{name}.npz", standing)
    return town, systems


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One log of the finished world, with what its scenes and one moment before the selection are like (test only)."""

    split: str
    log_name: str
    town: str
    tokens: tuple[str, ...]
    tried: int
    before: tuple[SubScores, ...]
    after: tuple[SubScores, ...]
    situations: tuple[dict[str, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task with all that its process needs."""

    folder: Path
    work: Path
    config: WorldConfig
    task: Task
    number: int
    town: Town
    systems: tuple[tuple[int, int], ...]


@functools.cache
def _maps(folder: Path) -> Maps:
    """Map files read so far: once a process, or once for all that are forked later."""
    return Maps(folder)


def _simulated(job: Job, attempt: int) -> Run:
    """A task's simulated run; another attempt is other traffic."""
    town, task = job.town, job.task
    seed = (job.config.seed * 1000 + job.number) * 7 + attempt
    name = task.name if attempt == 0 else f"{task.name}{attempt}"
    logs = sum(count for _, count, _ in task.quotas)
    seconds = float(np.clip(SECONDS_A_LOG * logs, 45.0, 200.0))
    cars = int(np.clip(sum(len(lane.line) for lane in town.lanes) / LANE_A_CAR, 25, 75))
    tracks = simulate(town, job.work / f"{town.name}-{name}", seed, seconds, cars, cars, 2)
    crowded = crowd(tracks, standing_things(town, seed), int(seconds / TIME_STEP) // FRAME_STEPS)
    return Run(town=town, name=name, seed=seed, number=job.number * ATTEMPTS + attempt, tracks=tuple(tracks), crowd=crowded)


def _run(job: Job) -> list[Kept]:
    config, town = job.config, job.town
    rng = np.random.default_rng([config.seed, job.number, 1])
    drawing = stage(load_scenery(job.folder / "openscene" / "sidecar" / f"{town.name}.npz")) if config.cameras else None
    kept: list[Kept] = []
    runs = (
        (run, drive) for attempt in range(ATTEMPTS) for run in (_simulated(job, attempt),) for drive in _shuffled_drives(run, config, rng)
    )
    for split, want_logs, want_scenes in job.task.quotas:
        got_logs = got_scenes = 0
        while got_logs < want_logs:
            pair = next(runs, None)
            if pair is None:
                raise RuntimeError(f"town {town.name}, run {job.task.name}: {got_logs} logs for {split}, {want_logs} are needed")
            most = -(-(want_scenes - got_scenes) // (want_logs - got_logs))
            log = _log(job, *pair, split, rng, int(np.clip(most, 1, config.most_scenes_a_log)), drawing)
            if log is not None:
                kept.append(log)
                got_logs, got_scenes = got_logs + 1, got_scenes + len(log.tokens)
    return kept


def _shuffled_drives(run: Run, config: WorldConfig, rng: np.random.Generator) -> list[Drive]:
    found = drives(run, config.log_frames, config.shortest_log)
    return [found[index] for index in rng.permutation(len(found))]


def _log(job: Job, run: Run, drive: Drive, split: str, rng: np.random.Generator, most: int, drawing: Stage | None) -> Kept | None:
    """Write a drive's log and pictures if at least `LEAST_SCENES` (or `most`, if fewer) scenes of it are worth it."""
    track = run.tracks[drive.track]
    ego = ego_motion(track)
    rows = np.arange(drive.first, drive.last + 1) * FRAME_STEPS - track.first
    poses = np.stack((ego.x[rows], ego.y[rows], ego.heading[rows]), -1)
    candidates = drawn(rng, likelihoods(poses, ego.speed[rows], ego.acceleration[rows]))
    sample = int(rng.integers(HISTORY, len(rows) - FUTURE))
    if len(candidates) < min(LEAST_SCENES, most):
        return None
    openscene, part = job.folder / "openscene", "test" if split == "test" else "trainval"
    path = openscene / "navsim_logs" / part / f"{drive.log_name}.pkl"
    frames = log_frames(run, drive)
    write_log(path, frames)
    tokens = [str(frame["token"]) for frame in frames]
    wanted = {*candidates, sample} if split == "test" else set(candidates)
    chosen = SceneFilter(tokens=tuple(tokens[frame] for frame in sorted(wanted)))
    moments = {scene.token: (scene, previous) for scene, previous in log_moments(path, _maps(job.folder / "maps"), chosen, openscene)}
    ready: dict[str, PreparedScene] = {}

    def worth(frame: int) -> bool:
        scene, previous = moments[tokens[frame]]
        ready[scene.token] = prepared(scene)
        return worth_keeping(scene, ready[scene.token], previous)

    picked = spaced(candidates[: TRIES * most], most, worth)
    scenes = [tokens[frame] for frame in picked]
    if len(scenes) < min(LEAST_SCENES, most):
        path.unlink()
        return None
    tried = len(ready)
    before, after, met = (), (), ()
    if split == "test":
        before = (_baselines(moments[tokens[sample]], prepared(moments[tokens[sample]][0])),)
        after = tuple(_baselines(moments[token], ready[token]) for token in scenes)
        met = tuple(situations(ready[token]) for token in scenes)
    _draw(openscene, part, run, drive, picked, job.systems, drawing, job.config.cameras)
    return Kept(
        split=split,
        log_name=drive.log_name,
        town=run.town.name,
        tokens=tuple(scenes),
        tried=tried,
        before=before,
        after=after,
        situations=met,
    )


def _baselines(moment: tuple[Scene, Scene | None], ready: PreparedScene) -> SubScores:
    return baseline_scores(ROWS, moment[0], ready, moment[1], human_filter=True)


def _draw(
    openscene: Path,
    part: str,
    run: Run,
    drive: Drive,
    chosen: list[int],
    systems: tuple[tuple[int, int], ...],
    drawing: Stage | None,
    cameras: tuple[str, ...],
) -> None:
    """Write a log's footage, and the pictures of its scenes and of the frames before them."""
    frames = sorted({drive.first + frame + shift for frame in chosen for shift in (-1, 0)})
    film = footage(run, drive, frames, systems)
    save_footage(openscene / "sidecar" / f"{drive.log_name}.npz", film)
    if drawing is None:
        return
    ego = ego_motion(run.tracks[drive.track])
    rigs = [mounting(name) for name in cameras]
    for rig in rigs:
        (openscene / "sensor_blobs" / part / drive.log_name / rig.name).mkdir(parents=True, exist_ok=True)
    for frame, token, moment in zip(frames, film.tokens, film.moments, strict=True):
        pose = ego_pose(run, drive, frame, ego)
        for rig in rigs:
            image = picture(drawing, moment, camera_pose(pose, rig), rig.intrinsics, rig.width, rig.height, film.look)
            path = openscene / "sensor_blobs" / part / drive.log_name / rig.name / f"{token}.jpg"
            Image.fromarray(image).save(path, quality=JPEG_QUALITY)


def write_split(path: Path, logs: list[Kept]) -> None:
    """Write NAVSIM's scene filter of a split. Tokens are quoted: 412e01... unquoted is a number to OmegaConf."""
    lines = ["_target_: navsim.common.dataclasses.SceneFilter", "_convert_: 'all'", "num_history_frames: 4", "num_future_frames: 10"]
    lines += ["frame_interval: 1", "has_route: true", "max_scenes: null", "log_names:"]
    lines += [f"- '{log.log_name}'" for log in logs]
    lines += ["tokens:"] + [f"- '{token}'" for log in logs for token in log.tokens]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_world(
    folder: Path, seed: int = 0, logs: int | None = None, cameras: tuple[str, ...] = DEFAULT_CAMERAS, test_logs: int | None = None
) -> dict[str, object]:
    """Make the embedded data set.

    Args:
        folder: Gets openscene, maps, splits and world.json; what was there of these is removed.
        seed: Same seed, same bytes.
        logs: Number of logs, or None for the default size.
        cameras: Which of CAMERA_NAMES are drawn; none of them if empty.
        test_logs: Number of test logs where that shall be more than the size brings; train and val stay as they are.

    Returns:
        What world.json holds.

    Raises:
        ValueError: Fewer than 3 logs, fewer test logs than the size brings, or a camera's name is not known.
        RuntimeError: SUMO failed, or a run gave fewer scenes than it had to.
    """
    begin = time.perf_counter()
    config = WorldConfig(seed=seed, cameras=tuple(cameras))
    config = config if logs is None else scaled(config, logs)
    larger = config if test_logs is None else with_test_logs(config, test_logs)
    for name in config.cameras:
        mounting(name)
    for part in ("openscene", "maps", "splits"):
        shutil.rmtree(folder / part, ignore_errors=True)
    (folder / "openscene" / "sidecar").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        towns = larger.known_towns + larger.unseen_towns
        fork = multiprocessing.get_context("fork")
        with fork.Pool(config.processes, leave_with, (os.getpid(),)) as pool:
            made = pool.map(_make_town, [(folder, work, seed, number) for number in range(towns)], chunksize=1)
            cities = [(folder / "maps", city, [town for town, _ in made if town.city == city]) for city in sorted(CITIES)]
            pool.starmap(write_city, cities, chunksize=1)
        write_index(folder / "maps")
        print(f"towns and maps: {time.perf_counter() - begin:.1f} s", flush=True)
        jobs = [
            Job(folder=folder, work=work, config=config, task=task, number=number, town=made[task.town][0], systems=made[task.town][1])
            for number, task in enumerate(tasks(config) + further_tasks(config, larger))
        ]
        with fork.Pool(config.processes, leave_with, (os.getpid(),)) as pool:
            kept = [log for logs in pool.map(_run, jobs, chunksize=1) for log in logs]
    unseen = {town.name for town, _ in made[config.known_towns :]}
    summary = _summary(larger, sorted(kept, key=lambda log: log.log_name), unseen)
    for split in SPLITS:
        write_split(folder / "splits" / f"{split}.yaml", sorted((log for log in kept if log.split == split), key=lambda log: log.log_name))
    (folder / "world.json").write_text(json.dumps(summary, indent=1) + "\n")
    for title in ("before", "after"):
        print(printed_table(f"{title} selection, {EPDMS}", summary["baselines"][title]))
    print(f"situations in test: {summary['situations']}; constant velocity below 1: {summary['constant_velocity_below_one']}")
    print(f"world: {summary['logs']} logs, {summary['scenes']} scenes in {time.perf_counter() - begin:.1f} s", flush=True)
    return summary


def _summary(config: WorldConfig, logs: list[Kept], unseen: set[str]) -> dict[str, Any]:
    """What world.json holds: settings, counts, baselines on test before and after selection, and what makes its scenes hard."""
    after = [scores for log in logs for scores in log.after]
    met = [row for log in logs for row in log.situations]
    row = ROWS.index("constant_velocity")
    return {
        "config": asdict(config),
        "logs": {split: sum(log.split == split for log in logs) for split in SPLITS},
        "scenes": {split: sum(len(log.tokens) for log in logs if log.split == split) for split in SPLITS},
        "tried": sum(log.tried for log in logs),
        "definition": EPDMS,
        "baselines": {"before": table_rows([scores for log in logs for scores in log.before]), "after": table_rows(after)},
        "situations": {name: round(float(np.mean([scene[name] for scene in met])), 3) for name in SITUATIONS},
        "constant_velocity_below_one": {
            name: round(float(np.mean([getattr(scores, name)[row] < 1 for scores in after])), 3) for name in SUB_SCORE_NAMES
        },
        "unseen_logs": [log.log_name for log in logs if log.split == "test" and log.town in unseen],
    }
