"""How long a scene takes to be made ready for scoring, by part, in its own city map and in one with 10,000 more lanes.

python benchmarks/preparation.py [--set tests/golden] [--families dense_crossing] [--repeats 20] [--profile]

The made-up lanes lie around the scenes, outside the window that a score looks at, so that both maps must give the same
prepared scene; the program stops if they do not. Times are the best of the repetitions; the indices of a map are made once.
"""

import argparse
import cProfile
import csv
import io
import pstats
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from tables import row, seconds, use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
import shapely  # noqa: E402

from irlvla.data.maps import city_map  # noqa: E402
from irlvla.data.navsim import scenes_of_tokens  # noqa: E402
from irlvla.data.records import packed  # noqa: E402
from irlvla.lanes import Lane, LaneMap, Roadblock, baseline, lane_map  # noqa: E402
from irlvla.score import prepared as room  # noqa: E402
from irlvla.types import LAYER_NAMES, Scene  # noqa: E402

BAR = 20.0
"""The most that a dense scene may take, ms."""
PARTS = {
    "route": ("route_blocks", "corrected_route", "route_lanes", "starting_lane", "centerline"),
    "red lights": ("red_lights",),
    "drivable map": ("drivable_map",),
    "objects": ("objects",),
    "reference plan (PDM-Closed)": ("reference_plan",),
    "score of the reference": ("reference_progress",),
    "score of the human": ("human_zeros",),
}
"""Part -> functions that `irlvla.score.prepared` calls for it; what is in none of them is the rest."""
LENGTH, GAP, PITCH, LANE_WIDTH, STEP = 90.0, 30.0, 60.0, 3.5, 2.0
"""Of the made-up roads: length, gap to the next, distance aside, width of a lane, distance between vertices, m."""
MARGIN = 150.0
"""No made-up lane comes closer to an ego than this, m; the window reaches 100 m ahead and aside."""


def enlarged(city: LaneMap, lanes: int, egos: np.ndarray) -> tuple:
    """What `lane_map` makes the city with so many more lanes of: rows of two-lane roads, near and far, but none near an ego."""
    made: list[tuple] = []
    center, number = egos.mean(axis=0), 0
    while 2 * len(made) < lanes:
        column, line = ring_place(number)  # outwards, so that as many as possible lie near
        start = center + np.array([(LENGTH + GAP) * column, PITCH * line])
        if np.hypot(*(egos - start - (0.5 * LENGTH, 0.0)).T).min() > MARGIN + 0.5 * LENGTH + GAP:
            made.append(road(f"{column}_{line}", start, (column + line) % 2 == 0))
        number += 1
    known = city.areas
    kinds = [LAYER_NAMES[layer] for layer in known.layers]
    areas = {
        name: [(fid, area) for fid, kind, area in zip(known.ids, kinds, known.geometries, strict=True) if kind == name]
        for name in ("intersection", "carpark")
    }
    new_lanes, new_blocks, junctions = ([entry for parts in made for entry in parts[place]] for place in range(3))
    lanes_and_blocks = [*city.lanes.values(), *new_lanes], [*city.roadblocks.values(), *new_blocks]
    return city.name, *lanes_and_blocks, areas["intersection"] + junctions, areas["carpark"]


def ring_place(number: int) -> tuple[int, int]:
    """The place of a number on a square spiral around (0, 0)."""
    ring = int(np.ceil((np.sqrt(number + 1) - 1) / 2))
    if ring == 0:
        return 0, 0
    side, step = divmod(number - (2 * ring - 1) ** 2, 2 * ring)
    return [(ring, step - ring + 1), (ring - 1 - step, ring), (-ring, ring - 1 - step), (step - ring + 1, -ring)][side]


def road(name: str, start: np.ndarray, with_junction: bool) -> tuple[list, list, list]:
    """Lanes, roadblocks and junctions of a made-up road: two lanes, and connectors back to their own start if asked for."""
    block, link = f"made_block_{name}", f"made_link_{name}"
    parts = [(block, 0.0, LENGTH, "lane")] + ([(link, LENGTH, GAP - 1.0, "connector")] if with_junction else [])
    lanes, blocks, junctions = [], [], []
    for number, (own, offset, length, kind) in enumerate(parts):
        other = parts[1 - number] if with_junction else None
        area = shapely.box(*(start + (offset, 0.0)), *(start + (offset + length, 2 * LANE_WIDTH)))
        along = np.arange(0.0, length + 0.1, STEP)
        for side in range(2):
            low = start + (offset, LANE_WIDTH * side)
            edges = (f"made_{other[3]}_{name}_{side}",) if other else ()
            lanes.append(
                Lane(
                    id=f"made_{kind}_{name}_{side}",
                    is_connector=kind == "connector",
                    roadblock_id=own,
                    speed_limit=13.4,
                    polygon=shapely.box(*low, *(low + (length, LANE_WIDTH))),
                    baseline=baseline(low + np.column_stack([along, np.full(len(along), 0.5 * LANE_WIDTH)])),
                    incoming=edges,
                    outgoing=edges,
                )
            )
        edges = (other[0],) if other else ()
        inside = tuple(lane.id for lane in lanes[-2:])
        blocks.append(Roadblock(id=own, is_connector=kind == "connector", polygon=area, lane_ids=inside, incoming=edges, outgoing=edges))
        if kind == "connector":
            junctions.append((f"made_junction_{name}", area))
    return lanes, blocks, junctions


def measured(scenes: list[Scene], repeats: int) -> tuple[np.ndarray, dict[str, float]]:
    """Milliseconds of each scene (best of the repetitions), and milliseconds a scene of each part (of their mean)."""
    best = np.full(len(scenes), np.inf)
    for _ in range(repeats):
        for place, scene in enumerate(scenes):
            best[place] = min(best[place], 1e3 * seconds(lambda scene=scene: room.prepared(scene)))
    spent: dict[str, list[float]] = defaultdict(list)
    sound = {name: getattr(room, name) for names in PARTS.values() for name in names if hasattr(room, name)}
    depth = [0]

    def timed(part, function):
        def call(*arguments, **named):
            depth[0] += 1
            begin = perf_counter()
            result = function(*arguments, **named)
            depth[0] -= 1
            if depth[0] == 0:  # a part called inside another belongs to that one
                spent[part][-1] += 1e3 * (perf_counter() - begin)
            return result

        return call

    for part, names in PARTS.items():
        for name in names:
            if name in sound:
                setattr(room, name, timed(part, sound[name]))
    totals = []
    for _ in range(repeats):
        for part in PARTS:
            spent[part].append(0.0)
        totals.append(1e3 * sum(seconds(lambda scene=scene: room.prepared(scene)) for scene in scenes))
    for name, function in sound.items():
        setattr(room, name, function)
    quickest = int(np.argmin(totals))
    parts = {part: values[quickest] / len(scenes) for part, values in spent.items()}
    return best, parts | {"rest": totals[quickest] / len(scenes) - sum(parts.values())}


def profile(scenes: list[Scene], repeats: int) -> str:
    """Python-level functions by their own time."""
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(repeats):
        for scene in scenes:
            room.prepared(scene)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(30)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=Path("tests/golden"), help="a folder with openscene, maps and scenes.csv")
    parser.add_argument("--families", nargs="*", default=["dense_crossing"], help="families of scenes.csv; none: all scenes")
    parser.add_argument("--lanes", type=int, default=10_000, help="made-up lanes in the enlarged map")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="also print where Python spends the time")
    parser.add_argument("--out", type=Path, default=Path("build/preparation.json"))
    options = parser.parse_args()
    with (options.set / "scenes.csv").open() as file:
        tokens = [line["token"] for line in csv.DictReader(file) if not options.families or line["family"] in options.families]
    if not tokens:
        raise SystemExit(f"{options.set}/scenes.csv has no scene of the families {', '.join(options.families)}")
    scenes = scenes_of_tokens(options.set / "openscene", options.set / "maps", "test", tokens)
    rows: list[dict] = []
    reference = [packed(room.prepared(scene))[0] for scene in scenes]  # compiles too
    bigger: dict[str, LaneMap] = {}
    for name in sorted({scene.map_name for scene in scenes}):
        here = [scene for scene in scenes if scene.map_name == name]
        city = here[0].lane_map
        spent = 1e3 * seconds(lambda name=name: city_map(options.set / "maps", name))
        row(rows, f"read the map of {name} ({len(city.lanes)} lanes and connectors)", spent, "ms")
        parts = enlarged(city, options.lanes, np.concatenate([scene.ego_poses[:, :2] for scene in here]))
        begin = perf_counter()
        bigger[name] = lane_map(*parts)
        row(rows, f"index the same with {len(bigger[name].lanes)} lanes and connectors, once", 1e3 * (perf_counter() - begin), "ms")
        changed = replace(here[0], lane_map=bigger[name])
        row(rows, "first scene there (with what is indexed on demand)", 1e3 * seconds(lambda changed=changed: room.prepared(changed)), "ms")
    swapped = [replace(scene, lane_map=bigger[scene.map_name]) for scene in scenes]
    for scene, record in zip(swapped, reference, strict=True):
        if packed(room.prepared(scene))[0] != record:
            raise SystemExit(f"scene {scene.token}: far lanes changed what was prepared")
    for label, group in (("own map", scenes), ("enlarged map", swapped)):
        best, parts = measured(group, options.repeats)
        row(rows, f"prepare a scene, mean of {len(group)}, {label}", best.mean(), "ms", bar=BAR)
        row(rows, f"prepare the slowest scene, {label}", best.max(), "ms", bar=BAR)
        for part, value in parts.items():
            row(rows, f"  {part}, {label}", value, "ms")
        if options.profile:
            print(profile(group, options.repeats))
    write(options.out, rows, set=str(options.set), families=options.families, scenes=tokens)


if __name__ == "__main__":
    main()
