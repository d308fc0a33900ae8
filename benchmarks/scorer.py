"""How many trajectories a second are scored, how that grows with proposals and threads, and where the time goes.

python benchmarks/scorer.py [--set tests/golden] [--family dense_crossing] [--out build/scorer.json] [--seconds 1.0]

One thread, scenes prepared. Rates are those of the fastest repetition. The profile sets each part beside the bare arithmetic
that it cannot do without: multiply-adds and elementary functions, counted per trajectory and priced by loops of nothing else
in the same run.
"""

import argparse
import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from tables import row, use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
from numba import njit  # noqa: E402

from irlvla.data.navsim import scenes_of_tokens  # noqa: E402
from irlvla.score.collision import collision_scores  # noqa: E402
from irlvla.score.comfort import extended_comfort, history_comfort, sampled_past  # noqa: E402
from irlvla.score.epdms import PROPOSALS_AT_ONCE, sub_scores  # noqa: E402
from irlvla.score.prepared import prepared  # noqa: E402
from irlvla.score.road import ego_areas, road_scores  # noqa: E402
from irlvla.score.states import reference_poses  # noqa: E402
from irlvla.types import STEPS, PreparedScene  # noqa: E402
from irlvla.vehicle import simulated  # noqa: E402

COUNTS = (1, 20, 64, 256, 1024, 4096, 16384)
RATE_BAR, ONE_BAR, THREADS_BAR, LINEAR_BAR = 15_000.0, 3_000.0, 1.7, 1.25
"""Least rate of 256 proposals, of one, least gain of a second thread; most time of 16,384 proposals over 64 times that of 256."""
PROFILED = 256


def fastest(work: Callable[[], object], seconds: float) -> float:
    """Wall seconds of the fastest of the repetitions that fit into the time, of at least two."""
    best, count, end = float("inf"), 0, perf_counter() + seconds
    while count < 2 or perf_counter() < end:
        begin = perf_counter()
        work()
        best, count = min(best, perf_counter() - begin), count + 1
    return best


def varied(plans: np.ndarray, count: int) -> np.ndarray:
    """So many plans, no two alike: those given, made up to a tenth longer or shorter and bent a little."""
    rng = np.random.default_rng(0)
    found = np.resize(plans, (count, *plans.shape[1:])).astype(np.float64)
    found[:, :, :2] *= rng.uniform(0.9, 1.1, (count, 1, 1))
    found[:, :, 2] += rng.normal(0.0, 0.02, (count, 1))
    return found


@njit
def _multiply_adds(values, factors, times):
    for _ in range(times):
        for i in range(len(values)):
            values[i] = values[i] * factors[i] + 1e-3


@njit
def _cosines(values, results):
    for i in range(len(values)):
        results[i] = np.cos(values[i])


def prices(seconds: float) -> tuple[float, float]:
    """Seconds of one multiply-add (a loop over 512 numbers) and of one cosine."""
    values, factors, results = np.ones(512), np.full(512, 0.999), np.empty(4096)
    angles = np.linspace(-3.0, 3.0, 4096)
    _multiply_adds(values, factors, 1)
    _cosines(angles, results)
    return (
        fastest(lambda: _multiply_adds(values, factors, 100), seconds) / 51_200,
        fastest(lambda: _cosines(angles, results), seconds) / 4096,
    )


def arithmetic(scene: PreparedScene) -> dict[str, tuple[float, float]]:
    """Multiply-adds and elementary functions per trajectory that each part cannot do without.

    Reference: 8 poses turned, 41 interpolated. Simulation: the 40 x 40 speed fit, and per step the curvature's elimination (10),
    ten stages of the tracker (9 each) and the bicycle (20); cosine and sine of two headings and one tangent. Areas: four corners,
    centre and rear axle of 41 boxes, one look-up each (6); contacts: one distance per step and lookahead to each object that is
    ever there (4). Road: distance to one segment a step (12), to all segments once (12 and a root each). Comfort: seven filters
    of 8, 15, 8, 8, 15, 5 and 5 weights over past and future.
    """
    samples = STEPS + len(sampled_past(scene))
    objects = float(scene.object_valid.any(axis=0).sum())
    segments = len(scene.centerline) - 1
    return {
        "reference poses": (8 * 12 + 41 * 6, 8 * 3),
        "simulation": (1600 + 40 * (10 + 90 + 20), 40 * 5),
        "areas": (41 * (20 + 6 * 6), 41 * 2),
        "contacts (NC, TTC)": ((41 + 128) * 4 * objects, 32 * 3),
        "road (DAC, DDC, TLC, LK, EP)": (41 * (12 + 5) + 12 * segments, segments),
        "comfort (HC)": (64 * samples, 2 * samples),
    }


def parts(scene: PreparedScene, poses: np.ndarray) -> dict[str, Callable[[], object]]:
    """Each part of scoring some plans, ready to be repeated."""
    references = reference_poses(scene.ego_state, scene.time_us, poses)
    states = simulated(scene.ego_state, references)
    points, areas = ego_areas(scene, states)
    return {
        "reference poses": lambda: reference_poses(scene.ego_state, scene.time_us, poses),
        "simulation": lambda: simulated(scene.ego_state, references),
        "areas": lambda: ego_areas(scene, states),
        "contacts (NC, TTC)": lambda: collision_scores(scene, states, points, areas),
        "road (DAC, DDC, TLC, LK, EP)": lambda: road_scores(scene, points, areas),
        "comfort (HC)": lambda: history_comfort(scene, states),
    }


def profile(rows: list[dict], ready: list[PreparedScene], plans: list[np.ndarray], seconds: float) -> None:
    """Microseconds per trajectory of each part, and how many times the bare arithmetic that is."""
    multiply_add, function = prices(seconds)
    row(rows, "price of a multiply-add", 1e9 * multiply_add, "ns")
    row(rows, "price of an elementary function (cosine)", 1e9 * function, "ns")
    spent, needed = dict.fromkeys(arithmetic(ready[0]), 0.0), dict.fromkeys(arithmetic(ready[0]), 0.0)
    whole = ec = 0.0
    for scene, some in zip(ready, plans, strict=True):
        poses = varied(some, PROFILED)
        for name, work in parts(scene, poses).items():
            spent[name] += fastest(work, seconds / len(ready)) / (PROFILED * len(ready))
        for name, (adds, functions) in arithmetic(scene).items():
            needed[name] += (adds * multiply_add + functions * function) / len(ready)
        whole += fastest(lambda scene=scene, poses=poses: sub_scores(scene, poses), seconds / len(ready)) / (PROFILED * len(ready))
        states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, poses))
        ec += fastest(lambda states=states: extended_comfort(states, states, 0.5), seconds / len(ready)) / (PROFILED * len(ready))
    for name, value in spent.items():
        row(rows, f"  {name}", 1e6 * value, f"us  {100 * value / whole:4.0f} %, {value / needed[name]:5.1f} times the arithmetic")
    rest = whole - sum(spent.values())
    row(rows, "  the rest (EP's norm, human filter, calls)", 1e6 * rest, f"us  {100 * rest / whole:4.0f} %")
    total = sum(needed.values())
    row(rows, f"one of {PROFILED} trajectories", 1e6 * whole, f"us        {whole / total:5.1f} times the arithmetic")
    row(rows, "  EC, besides a second simulation", 1e6 * ec, "us")


def chosen(folder: Path, family: str) -> list[str]:
    """Tokens of a family of scenes of a golden set.

    Raises:
        ValueError: It has none.
    """
    with (folder / "scenes.csv").open() as file:
        lines = list(csv.DictReader(file))
    tokens = [line["token"] for line in lines if line["family"] == family]
    if not tokens:
        raise ValueError(f"{folder / 'scenes.csv'} has no scene of family {family}, but {sorted({line['family'] for line in lines})}")
    return tokens


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=Path("tests/golden"))
    parser.add_argument("--family", default="dense_crossing")
    parser.add_argument("--out", type=Path, default=Path("build/scorer.json"))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="no more proposals than that")
    options = parser.parse_args()
    archive = np.load(options.set / "trajectories.npz")
    tokens = chosen(options.set, options.family)
    begin = perf_counter()
    ready = [prepared(scene) for scene in scenes_of_tokens(options.set / "openscene", options.set / "maps", "test", tokens)]
    plans = [archive[f"{token}_poses"] for token in tokens]
    sub_scores(ready[0], varied(plans[0], 2), varied(plans[0], 2))
    rows: list[dict] = []
    row(rows, "read and prepare the scenes (compiles if the cache is empty)", perf_counter() - begin, "s")
    row(rows, f"{options.family} scenes", len(ready), "")
    for what, counts in (
        ("objects", [scene.object_valid.shape[1] for scene in ready]),
        ("map polygons", [len(scene.map_polygons) for scene in ready]),
    ):
        row(rows, f"{what}, on average", np.mean(counts), "")
    spent: dict[int, float] = {}
    for count in (count for count in COUNTS if count <= options.most):
        poses = [varied(some, count) for some in plans]
        for label, with_previous in (("", False), (" with EC", True)):
            times = [
                fastest(lambda scene=scene, some=some: sub_scores(scene, some, some if with_previous else None), options.seconds)  # noqa: B023
                for scene, some in zip(ready, poses, strict=True)
            ]
            bar = {"bar": {1: ONE_BAR, 256: RATE_BAR}[count], "is_least": True} if count in (1, 256) else {}
            row(rows, f"{count} proposals a scene{label}, all scenes", count * len(ready) / sum(times), "trajectories/s", **bar)
            if count == 256:
                row(rows, f"{count} proposals{label}, slowest scene", count / max(times), "trajectories/s", **bar)
            if not with_previous:
                spent[count] = sum(times)
    if {256, 16384} <= set(spent):
        row(rows, "time of 16,384 proposals over 64 times that of 256", spent[16384] / (64 * spent[256]), "", LINEAR_BAR)
    poses = [varied(some, PROPOSALS_AT_ONCE) for some in plans]
    jobs = [pair for _ in range(8) for pair in zip(ready, poses, strict=True)]
    rates = []
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            time = fastest(lambda pool=pool: list(pool.map(lambda pair: sub_scores(*pair), jobs)), 2 * options.seconds)
        rates.append(len(jobs) * PROPOSALS_AT_ONCE / time)
        row(rows, f"{PROPOSALS_AT_ONCE} proposals a scene, {threads} thread{'s' * (threads > 1)}", rates[-1], "trajectories/s")
    row(rows, "two threads over one", rates[1] / rates[0], "times", THREADS_BAR, is_least=True)
    profile(rows, ready, plans, options.seconds)
    write(options.out, rows, set=str(options.set), family=options.family, tokens=tokens)


if __name__ == "__main__":
    main()
