"""How long a plan amid reactive traffic takes, with so many objects around.

python benchmarks/reactive.py [--set tests/golden] [--objects 60] [--out build/reactive.json] [--seconds 1.0]

One thread, scenes prepared. The vehicles of each scene are replaced by as many as asked for, a few metres apart on the lanes nearest to
the ego, driving and standing; what is no vehicle stays. Times are those of the fastest repetition; the human filter's own simulation
belongs to the scene's preparation.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from scorer import fastest
from tables import row, use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)

from irlvla.data.navsim import scenes_of_tokens  # noqa: E402
from irlvla.score.drivers import with_reactive_traffic  # noqa: E402
from irlvla.score.epdms import sub_scores  # noqa: E402
from irlvla.score.prepared import prepared  # noqa: E402
from irlvla.score.reactive import reactive_objects  # noqa: E402
from irlvla.score.states import reference_poses  # noqa: E402
from irlvla.types import HISTORY, Objects, Scene  # noqa: E402
from irlvla.vehicle import simulated  # noqa: E402

BAR = 60.0
"""Most milliseconds that a plan of a scene may take."""
GAP, SIZE = 7.0, (4.6, 1.9, 1.6)
"""Between the centres of two vehicles, m; length, width, height."""
PLANS = 8


def crowded(scene: Scene, count: int) -> Scene:
    """The scene with so many objects at t0: its own that are no vehicles, and vehicles on the lanes nearest to the ego."""
    random = np.random.default_rng(0)
    ego, now = scene.ego_poses[HISTORY - 1], scene.objects[HISTORY - 1]
    others = np.flatnonzero(now.types != 0)[:count]
    places = []
    for lane in scene.lane_map.lanes.values():
        line = lane.baseline
        way = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))]
        at = np.arange(random.uniform(0.0, GAP), way[-1], GAP)
        places.append(
            np.column_stack([np.interp(at, way, line[:, 0]), np.interp(at, way, line[:, 1]), np.interp(at, way, np.unwrap(line[:, 2]))])
        )
    spots = np.concatenate(places)
    distance = np.hypot(*(spots[:, :2] - ego[:2]).T)
    kept = list[int]()
    for spot in np.argsort(distance):
        near = kept and np.hypot(*(spots[kept, :2] - spots[spot, :2]).T).min() < SIZE[0]
        if distance[spot] > GAP and not near and len(kept) < count - len(others):
            kept.append(int(spot))
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    offset, heading = spots[kept, :2] - ego[:2], spots[kept, 2] - ego[2]
    boxes = np.zeros((len(kept), 7))
    boxes[:, 0], boxes[:, 1], boxes[:, 3:6], boxes[:, 6] = offset @ [cos, sin], offset @ [-sin, cos], SIZE, heading
    speeds = random.uniform(0.0, 10.0, len(kept)) * (random.random(len(kept)) > 0.3)
    velocities = np.column_stack([speeds * np.cos(heading), speeds * np.sin(heading), 0.0 * speeds])
    first = Objects(
        track_tokens=(*(now.track_tokens[k] for k in others), *(f"{number:016x}" for number in range(len(kept)))),
        types=np.concatenate([now.types[others], np.zeros(len(kept), np.int64)]),
        boxes=np.concatenate([now.boxes[others], boxes]),
        velocities=np.concatenate([now.velocities[others], velocities]),
    )
    return replace(scene, objects=(*scene.objects[: HISTORY - 1], first, *scene.objects[HISTORY:]))


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=Path("tests/golden"))
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/reactive.json"))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    options = parser.parse_args()
    archive = np.load(options.set / "trajectories.npz")
    with (options.set / "scenes.csv").open() as file:
        tokens = [line["token"] for line in csv.DictReader(file)]
    found, rows = {"drivers": [], "objects": [], "traffic": [], "simulation": [], "one": [], "many": []}, list[dict]()
    for scene in scenes_of_tokens(options.set / "openscene", options.set / "maps", "test", tokens):
        scene = crowded(scene, options.objects)
        ready = prepared(scene)
        whole = with_reactive_traffic(scene, ready)
        plans = archive[f"{scene.token}_poses"][:PLANS]
        states = simulated(ready.ego_state, reference_poses(ready.ego_state, ready.time_us, plans))
        sub_scores(whole, plans, plans, traffic="idm")
        share = options.seconds / len(tokens)
        found["objects"].append(len(whole.reactive.object_types))
        found["drivers"].append(len(whole.reactive.driver_objects))
        for name, work, count in (
            ("traffic", lambda: with_reactive_traffic(scene, ready), 1),  # noqa: B023
            ("simulation", lambda: reactive_objects(whole.reactive, states[0]), 1),  # noqa: B023
            ("one", lambda: sub_scores(whole, plans[:1], plans[:1], traffic="idm"), 1),  # noqa: B023
            ("many", lambda: sub_scores(whole, plans, plans, traffic="idm"), PLANS),  # noqa: B023
        ):
            found[name].append(1e3 * fastest(work, share) / count)
    for name, what in (("objects", "objects a scene at t0"), ("drivers", "of them vehicles that drive")):
        row(rows, f"{what}, on average", np.mean(found[name]), "")
    for name, what in (
        ("traffic", "who drives where, and the human's simulation, once a scene"),
        ("simulation", "traffic beside one plan"),
    ):
        row(rows, f"{what}, on average", np.mean(found[name]), "ms")
    row(rows, "one plan a call: a (scene, trajectory), on average", np.mean(found["one"]), "ms", BAR)
    row(rows, "one plan a call, slowest scene", np.max(found["one"]), "ms", BAR)
    row(rows, f"{PLANS} plans a call: a (scene, trajectory), on average", np.mean(found["many"]), "ms", BAR)
    row(rows, f"{PLANS} plans a call, slowest scene", np.max(found["many"]), "ms", BAR)
    write(options.out, rows, set=str(options.set), objects=options.objects, tokens=tokens)


if __name__ == "__main__":
    main()
