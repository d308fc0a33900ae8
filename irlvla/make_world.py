"""The embedded world made from nothing: towns, traffic, logs, selected scenes and pictures, as a NAVSIM data set on disk."""

import functools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from irlvla.data.navsim import Maps, SceneFilter, log_moments
from irlvla.definitions import EPDMS
from irlvla.files import json_mapping, replaced
from irlvla.follow_ups import DRAWN_FRAMES, FRAMES_NEEDED, SPLIT, write_follow_ups
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
from irlvla.world_size import DEFAULT_CAMERAS, Task, WorldConfig, further_tasks, scaled, tasks, with_test_logs

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
    followed: str | None
    """Token of the scene that synthetic ones shall follow, if any shall."""


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
    is_followed = split == "test" and job.config.follow_ups > 0
    followed = next((frame for frame in picked if is_followed and HISTORY <= frame < len(rows) - FRAMES_NEEDED), None)
    further = [] if followed is None else [followed + later for later in DRAWN_FRAMES]
    _draw(openscene, part, run, drive, picked, further, job.systems, drawing, job.config.cameras)
    return Kept(
        split=split,
        log_name=drive.log_name,
        town=run.town.name,
        tokens=tuple(scenes),
        tried=tried,
        before=before,
        after=after,
        situations=met,
        followed=None if followed is None else tokens[followed],
    )


def _baselines(moment: tuple[Scene, Scene | None], ready: PreparedScene) -> SubScores:
    return baseline_scores(ROWS, moment[0], ready, moment[1], human_filter=True)


def _draw(
    openscene: Path,
    part: str,
    run: Run,
    drive: Drive,
    chosen: list[int],
    further: list[int],
    systems: tuple[tuple[int, int], ...],
    drawing: Stage | None,
    cameras: tuple[str, ...],
) -> None:
    """Write a log's footage, of some further frames too, and the pictures of its scenes and of the frames before them."""
    drawn_frames = {drive.first + frame + shift for frame in chosen for shift in (-1, 0)}
    frames = sorted(drawn_frames | {drive.first + frame for frame in further})
    film = footage(run, drive, frames, systems)
    save_footage(openscene / "sidecar" / f"{drive.log_name}.npz", film)
    if drawing is None:
        return
    ego = ego_motion(run.tracks[drive.track])
    rigs = [mounting(name) for name in cameras]
    for rig in rigs:
        (openscene / "sensor_blobs" / part / drive.log_name / rig.name).mkdir(parents=True, exist_ok=True)
    for frame, token, moment in zip(frames, film.tokens, film.moments, strict=True):
        if frame not in drawn_frames:
            continue
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
    with replaced(path) as beside:
        beside.write_text("\n".join(lines) + "\n")


def make_world(
    folder: Path,
    seed: int = 0,
    logs: int | None = None,
    cameras: tuple[str, ...] = DEFAULT_CAMERAS,
    test_logs: int | None = None,
    follow_ups: int = 0,
) -> dict[str, Any]:
    """Make the embedded data set.

    Stopped while it writes follow-ups and called again with the same arguments, it goes on there.

    Args:
        folder: Gets openscene, maps, splits and world.json; what was there of these is removed.
        seed: Same seed, same bytes.
        logs: Number of logs, or None for the default size.
        cameras: Which of CAMERA_NAMES are drawn; none of them if empty.
        test_logs: Number of test logs where that shall be more than the size brings; train and val stay as they are.
        follow_ups: Pairs of synthetic scenes, at most, that follow one scene of each test log, see `irlvla.follow_ups`.

    Returns:
        What world.json holds.

    Raises:
        ValueError: Fewer than 3 logs, fewer test logs than the size brings, fewer follow-ups than none, or a camera's name is not known.
        RuntimeError: SUMO failed, or a run gave fewer scenes than it had to.
    """
    if follow_ups < 0:
        raise ValueError(f"{follow_ups} follow-ups: none at least")
    config = WorldConfig(seed=seed, cameras=tuple(cameras), follow_ups=follow_ups)
    config = config if logs is None else scaled(config, logs)
    larger = config if test_logs is None else with_test_logs(config, test_logs)
    for name in config.cameras:
        mounting(name)
    summary = (_begun(folder, larger) if follow_ups else None) or _made(folder, config, larger)
    if follow_ups:
        begin = time.perf_counter()
        pairs = write_follow_ups(folder, summary["followed"], follow_ups, config.cameras, seed, config.processes)
        count = sum(len(pair.follow_ups) for pair in pairs)
        print(f"follow-ups: {count} pairs behind {len(pairs)} scenes in {time.perf_counter() - begin:.1f} s", flush=True)
    return summary


def _begun(folder: Path, config: WorldConfig) -> dict[str, Any] | None:
    """What world.json holds of a world that lacks nothing but its follow-ups; None if there is none of this configuration."""
    path = folder / "world.json"
    if not path.exists() or (folder / "splits" / f"{SPLIT}.yaml").exists():
        return None
    summary = json_mapping(path)
    same = summary.get("config") == json.loads(json.dumps(asdict(config)))
    return summary if same and isinstance(summary.get("followed"), dict) else None


def _made(folder: Path, config: WorldConfig, larger: WorldConfig) -> dict[str, Any]:
    """Make all of a world but its follow-ups; `larger` has further test logs."""
    begin, seed = time.perf_counter(), config.seed
    (folder / "world.json").unlink(missing_ok=True)
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
    if config.follow_ups:
        summary["followed"] = {log.log_name: log.followed for log in kept if log.followed is not None}
    for split in SPLITS:
        write_split(folder / "splits" / f"{split}.yaml", sorted((log for log in kept if log.split == split), key=lambda log: log.log_name))
    with replaced(folder / "world.json") as beside:
        beside.write_text(json.dumps(summary, indent=1) + "\n")
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
