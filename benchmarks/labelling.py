"""Labelling a vocabulary of trajectories in every scene with exact sub-scores, as methods do that learn to score a fixed set.

python benchmarks/labelling.py [--logs DIR --maps DIR --split FILE.yaml] [--scenes 1000] [--trajectories 8192] [--workers 2] [--processes]

The vocabulary is human futures of the split, made faster, slower and bent aside at random. Labels are written as they come
(build/labelling/labels.npy: scenes x trajectories x 8 sub-scores; EC needs a plan before and is not there). The rate is
projected to navtrain. Without --logs the ten golden scenes are taken again and again.
"""

import argparse
import itertools
import multiprocessing
import queue
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from tables import memory, row, use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
from numpy.lib.format import open_memmap  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

from irlvla.data.navsim import FUTURE, Maps, SceneFilter, log_paths, log_scenes, scene_filter  # noqa: E402
from irlvla.score.epdms import sub_scores  # noqa: E402
from irlvla.score.prepared import human_poses, prepared  # noqa: E402
from irlvla.types import SUB_SCORE_NAMES  # noqa: E402

NAVTRAIN = 103_288
DEVKIT_RATE = 150.0
"""Trajectories a second of the devkit on one core, 256 proposals in one call; measured on another machine, see docs/speed.md."""
PARTS = ("read", "prepare", "score", "write")
NAMES = SUB_SCORE_NAMES[:-1]
LEVELS = {"float32": None, "float16": None, "uint8": 200}
"""Type of a label -> steps from 0 to 1 where it is a whole number: 0, 0.5 and 1 are exact."""


def scenes_of(paths: list[Path], maps: Maps, chosen: SceneFilter, logs: Path) -> Iterator:
    """Scenes log by log."""
    for path in paths:
        yield from log_scenes(path, maps, chosen, logs)


def vocabulary(futures: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """So many trajectories: human futures with another speed, bent aside."""
    rng = np.random.default_rng(seed)
    found = futures[rng.integers(len(futures), size=count)].copy()
    found[:, :, :2] *= rng.uniform(0.5, 1.5, (count, 1, 1))
    time = np.linspace(1.0 / found.shape[1], 1.0, found.shape[1])
    bend = rng.normal(0.0, 0.15, (count, 1)) * time
    cos, sin = np.cos(bend), np.sin(bend)
    x, y = found[:, :, 0].copy(), found[:, :, 1].copy()
    found[:, :, 0], found[:, :, 1] = cos * x - sin * y, sin * x + cos * y
    found[:, :, 2] += 2.0 * bend
    return found


def labels(scene, plans: np.ndarray, batch: int, kind: str) -> np.ndarray:
    """Sub-scores (trajectories, 8) as they are stored."""
    found = np.empty((len(plans), len(NAMES)), dtype=kind)
    for start in range(0, len(plans), batch):
        scores = sub_scores(scene, plans[start : start + batch])
        for column, name in enumerate(NAMES):
            values = getattr(scores, name)
            found[start : start + batch, column] = values if LEVELS[kind] is None else np.round(values * LEVELS[kind])
    return found


def work(jobs: Iterator, lock, plans: np.ndarray, file: Path, options: argparse.Namespace, spent: dict[str, float], show) -> None:
    """Takes scenes one by one until there are no more, prepares and labels each, and writes its row."""
    rows = np.load(file, mmap_mode="r+")
    begin = perf_counter()
    while True:
        with lock:
            job = next(jobs, None)
        spent["read"] += perf_counter() - begin
        if job is None:
            return
        place, scene = job
        begin = perf_counter()
        ready = prepared(scene)
        spent["prepare"] += perf_counter() - begin
        begin = perf_counter()
        found = labels(ready, plans, options.batch, options.dtype)
        spent["score"] += perf_counter() - begin
        begin = perf_counter()
        rows[place] = found
        rows.flush()
        spent["write"] += perf_counter() - begin
        show()
        begin = perf_counter()


def numbered_scenes(paths: list[Path], maps: Maps, chosen: SceneFilter, logs: Path, number: int, workers: int, count: int) -> Iterator:
    """Row and scene for one of several workers, each with logs of its own; the scenes come again when they are used up."""
    own = paths[number::workers] or paths
    endless = itertools.chain.from_iterable(scenes_of(own, maps, chosen, logs) for _ in itertools.count())
    return zip(range(number, count, workers), endless)  # noqa: B905  (one of them never ends)


def of_process(jobs: Iterator, options: argparse.Namespace, plans: np.ndarray, file: Path, results) -> None:
    """The work of one of several processes."""
    spent = dict.fromkeys(PARTS, 0.0)
    work(jobs, threading.Lock(), plans, file, options, spent, lambda: results.put(None))
    results.put((spent, memory(multiprocessing.current_process().pid)[0]))


def gathered(results, workers: list, show) -> list[tuple[dict[str, float], float]]:
    """What each process spent on what, and its memory, when all are done."""
    found = []
    while len(found) < len(workers):
        try:
            answer = results.get(timeout=1.0)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise SystemExit("a process died: see above") from None
            continue
        if answer is None:
            show()
        else:
            found.append(answer)
    return found


def main() -> None:
    """Labels, and prints how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="an OPENSCENE_DATA_ROOT")
    parser.add_argument("--maps", type=Path, help="a NUPLAN_MAPS_ROOT")
    parser.add_argument("--split", type=Path, help="a scene filter file")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--trajectories", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--processes", action="store_true", help="workers are processes, not threads")
    parser.add_argument("--batch", type=int, default=1024, help="trajectories in one call")
    parser.add_argument("--dtype", choices=tuple(LEVELS), default="float16")
    parser.add_argument("--out", type=Path, default=Path("build/labelling.json"))
    options = parser.parse_args()
    if options.logs is None:
        golden = Path("tests/golden")
        tokens = [line.split(",")[0] for line in (golden / "scenes.csv").read_text().splitlines()[1:]]
        options.logs, options.maps = golden / "openscene", golden / "maps"
        chosen = SceneFilter(num_future_frames=FUTURE, has_route=False, tokens=tuple(tokens))
    elif options.maps is None or options.split is None:
        parser.error("--logs needs --maps and --split")
    else:
        chosen = scene_filter(options.split)
    known, maps = log_paths(options.logs), Maps(options.maps)
    paths = [known[name] for name in sorted(chosen.log_names or known)]
    futures = np.stack([human_poses(scene) for scene in scenes_of(paths[:200], maps, chosen, options.logs)])
    plans = vocabulary(futures, options.trajectories)
    first = next(scenes_of(paths, maps, chosen, options.logs))
    sub_scores(prepared(first), plans[:4])  # compiles before anyone is measured or forked
    folder = options.out.parent / "labelling"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shape = (options.scenes, options.trajectories, len(NAMES))
    open_memmap(folder / "labels.npy", mode="w+", dtype=options.dtype, shape=shape).flush()
    np.save(folder / "vocabulary.npy", plans)
    groups = options.workers if options.processes else 1
    jobs = [numbered_scenes(paths, maps, chosen, options.logs, number, groups, options.scenes) for number in range(groups)]
    spent = [dict.fromkeys(PARTS, 0.0) for _ in range(options.workers)]
    begin = perf_counter()
    workers, results = [], multiprocessing.get_context("fork").Queue()
    for one in jobs if options.processes else ():  # forked before the progress bar's thread starts
        arguments = (one, options, plans, folder / "labels.npy", results)
        workers.append(multiprocessing.get_context("fork").Process(target=of_process, args=arguments, daemon=True))
        workers[-1].start()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("labelling scenes", total=options.scenes)
        if options.processes:
            answers = gathered(results, workers, lambda: bar.advance(task))
            spent, peak = [one for one, _ in answers], sum(size for _, size in answers)
        else:
            lock = threading.Lock()
            arguments = (jobs[0], lock, plans, folder / "labels.npy", options)
            with ThreadPoolExecutor(options.workers) as pool:
                tasks = [pool.submit(work, *arguments, one, lambda: bar.advance(task)) for one in spent]
                for one in tasks:
                    one.result()
            peak = memory(multiprocessing.current_process().pid)[0]
    wall = perf_counter() - begin
    rows: list[dict] = []
    total = options.scenes * options.trajectories
    size = np.dtype(options.dtype).itemsize * total * len(NAMES)
    row(rows, f"label {options.trajectories} trajectories in {options.scenes} scenes", wall, "s")
    row(rows, "rate", total / wall, "trajectories/s")
    row(rows, f"  over the devkit's {DEVKIT_RATE:.0f}/s (one core of another machine)", total / wall / DEVKIT_RATE, "times")
    row(rows, "a scene", 1e3 * wall / options.scenes, "ms")
    for part in PARTS:
        row(rows, f"  {part}, of a worker's time", 100.0 * sum(one[part] for one in spent) / (options.workers * wall), "%")
    row(rows, "labels", size / 1e9, "GB")
    row(rows, "memory at the end (pages of the labels file included)", peak, "MB")
    row(rows, f"navtrain ({NAVTRAIN} scenes), projected", NAVTRAIN / options.scenes * wall / 3600.0, "h")
    row(rows, "labels of navtrain, projected", NAVTRAIN / options.scenes * size / 1e9, "GB")
    about = {name: str(getattr(options, name)) for name in ("logs", "split", "workers", "processes", "batch", "dtype")}
    write(options.out, rows, scenes=options.scenes, trajectories=options.trajectories, **about)


if __name__ == "__main__":
    main()
