"""Traffic in a town: who drives, rides and walks where, simulated by SUMO, as tracks sampled at 10 Hz."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from irlvla.types import OBJECT_NAMES
from irlvla.world.streets import program, run_program
from irlvla.world.town import Signal, Town

TIME_STEP = 0.1
WARM_UP = 20.0
EGO_SIZE = (5.176, 2.297, 1.777)
EGO_KIND = "ego"
SIZES = {
    EGO_KIND: (*EGO_SIZE, 0.40),
    "small": (3.9, 1.70, 1.50, 0.12),
    "car": (4.6, 1.85, 1.48, 0.20),
    "suv": (4.9, 1.95, 1.75, 0.10),
    "van": (5.7, 2.05, 2.45, 0.07),
    "truck": (9.2, 2.50, 3.40, 0.05),
    "bus": (12.0, 2.55, 3.10, 0.06),
}
"""Kinds of motor vehicle: length, width, height, share of the traffic. The first is as large as the ego and may become it."""
TEMPERS = {"calm": (1.8, 2.5, 1.8, 0.88, 0.25), "usual": (2.5, 2.9, 1.4, 0.97, 0.4), "brisk": (3.1, 3.3, 1.15, 1.08, 0.35)}
"""Drivers: acceleration, deceleration (m/s2), headway (s), share of the speed limit, share of drivers."""
BICYCLE_SIZE = (1.75, 0.65, 1.75)
PEDESTRIAN_SIZE = (0.55, 0.60, 1.75)
BICYCLE_OFFSET = 0.6
"""How far riders keep to the right of their lane's middle, m."""
JUMP = 4.0
"""A step longer than this within TIME_STEP is a teleport, m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One road user from `first` (a step of the run) on. x, y: front bumper's middle of vehicles, centre of people."""

    name: str
    kind: int
    """Index into OBJECT_NAMES."""
    size: tuple[float, float, float]
    may_be_ego: bool
    first: int
    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    lanes: np.ndarray
    """Names of SUMO's lanes, empty for people."""
    braking: np.ndarray
    route: tuple[int, ...]
    """Roadblocks to come from the start of the run, empty for people."""


def _walk(rng: np.random.Generator, onward: list[list[int]], start: int, count: int) -> list[int]:
    """Streets of a random drive that does not come back to a street among its last six."""
    route = [start]
    while len(route) < count:
        choices = [block for block in onward[route[-1]] if block not in route[-6:] and (block ^ 1) not in route[-6:]]
        if not choices:
            choices = onward[route[-1]]
        route.append(int(choices[rng.integers(len(choices))]))
    return route


def _vehicle_types() -> list[str]:
    lines = []
    for kind, (length, width, height, _) in SIZES.items():
        for temper, (accel, decel, headway, pace, _) in TEMPERS.items():
            slow = 0.7 if kind in ("truck", "bus") else 1.0
            lines.append(
                f'<vType id="{kind}_{temper}" vClass="passenger" length="{length}" width="{width}" height="{height}" carFollowModel="EIDM" '
                f'accel="{accel * slow:.2f}" decel="{decel}" tau="{headway}" minGap="2.0" speedFactor="normc({pace},0.06,0.75,1.15)" '
                'startupDelay="1.0" jmStoplineGap="2.0" jmCrossingGap="12" lcKeepRight="0" lcStrategic="2" lcSpeedGain="0.8"/>'
            )
    length, width, height = BICYCLE_SIZE
    lines.append(
        f'<vType id="bicycle" vClass="bicycle" length="{length}" width="{width}" height="{height}" maxSpeed="5.0" jmStoplineGap="2.0"/>'
    )
    return lines


def write_demand(
    town: Town, path: Path, rng: np.random.Generator, cars: int, walkers: int, riders: int, end: float
) -> dict[str, tuple[int, ...]]:
    """Write SUMO's route file: random drives with turns, stops of buses and delivery vans, riders and walkers.

    Args:
        town: Where they move.
        path: The route file.
        rng: Source of all choices.
        cars: Motor vehicles.
        walkers: People on foot.
        riders: Bicycles.
        end: Length of the run, s.

    Returns:
        Vehicle's name -> roadblocks of its drive.
    """
    onward: list[list[int]] = [[] for _ in town.blocks]
    for link in town.block_connectors:
        onward[link.before].append(link.after)
    lane_count = np.bincount([lane.block for lane in town.lanes], minlength=len(town.blocks))
    length = np.zeros(len(town.blocks))
    for lane in town.lanes:
        length[lane.block] = len(lane.line)
    first_lane = {lane.block: name for name, number in reversed(town.lane_numbers.items()) for lane in (town.lanes[number],)}
    rows, routes = [], {}
    kinds, shares = list(SIZES), np.array([size[3] for size in SIZES.values()])
    tempers, temper_shares = list(TEMPERS), np.array([temper[4] for temper in TEMPERS.values()])
    weights = lane_count * length / (lane_count * length).sum()
    for number in range(cars + riders):
        rider = number >= cars
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        temper = str(rng.choice(tempers, p=temper_shares / temper_shares.sum()))
        route = _walk(rng, onward, int(rng.choice(len(weights), p=weights)), 40)
        depart = rng.uniform(0, 8) if number < 0.8 * cars or rider else rng.uniform(8, 0.6 * end)
        stops = ""
        if not rider and (kind == "bus" or (kind in ("van", "small") and rng.random() < 0.4)):
            for step in range(2, 12, 3):
                if kind == "bus" or lane_count[route[step]] > 1:
                    wait = rng.uniform(8, 18) if kind == "bus" else rng.uniform(25, 60)
                    position = rng.uniform(0.45, 0.7) * length[route[step]]
                    stops += f'<stop lane="{first_lane[route[step]]}" endPos="{position:.1f}" duration="{wait:.1f}"/>'
        name = f"{'r' if rider else 'v'}{number}"
        routes[name] = tuple(route)
        edges = " ".join(town.edges[block] for block in route)
        vehicle_type = "bicycle" if rider else f"{kind}_{temper}"
        place = 'departLane="best" departPos="random_free" departSpeed="max"'
        rows.append(
            (depart, f'<vehicle id="{name}" type="{vehicle_type}" depart="{depart:.1f}" {place}><route edges="{edges}"/>{stops}</vehicle>')
        )
    for number in range(walkers):
        depart = rng.uniform(0, 5) if number < 0.7 * walkers else rng.uniform(5, 0.7 * end)
        start, stop = rng.choice(len(town.sidewalks), 2, replace=False)
        walk = f'<walk from="{town.sidewalks[start]}" to="{town.sidewalks[stop]}"/>'
        rows.append((depart, f'<person id="p{number}" depart="{depart:.1f}" departPos="random">{walk}</person>'))
    rows.sort(key=lambda row: float(f"{row[0]:.1f}"))
    path.write_text("<routes>\n" + "\n".join([*_vehicle_types(), *(text for _, text in rows)]) + "\n</routes>\n")
    return routes


def simulate(town: Town, folder: Path, seed: int, seconds: float, cars: int, walkers: int, riders: int) -> list[Track]:
    """Run SUMO in a town.

    Args:
        town: Where.
        folder: For SUMO's files.
        seed: Same seed, same tracks.
        seconds: Length of the run after a warm-up that is left out.
        cars: Motor vehicles.
        walkers: People on foot.
        riders: Bicycles.

    Returns:
        Tracks sorted by name, cut where SUMO teleported them. Step 0 is the end of the warm-up.

    Raises:
        RuntimeError: SUMO failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 7])
    end = WARM_UP + seconds
    routes = write_demand(town, folder / "demand.xml", rng, cars, walkers, riders, end)
    options = {
        "--net-file": town.net_file,
        "--route-files": folder / "demand.xml",
        "--fcd-output": folder / "vehicles.parquet",
        "--person-fcd-output": folder / "people.parquet",
        "--device.fcd.begin": f"{WARM_UP:.1f}",
        "--step-length": TIME_STEP,
        "--end": f"{end:.1f}",
        "--lanechange.duration": 4,
        "--collision.action": "none",
        "--time-to-teleport": 90,
        "--ignore-route-errors": "true",
        "--no-step-log": "true",
        "--no-warnings": "true",
        "--precision": 4,
        "--seed": seed % 2**31,
    }
    run_program([program("sumo"), *(str(word) for option in options.items() for word in option)])
    return _tracks(folder, routes)


def _table(path: Path) -> dict[str, np.ndarray]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name.split("_", 1)[-1]: table.column(name).to_numpy() for name in table.column_names}


def _tracks(folder: Path, routes: dict[str, tuple[int, ...]]) -> list[Track]:
    tracks = []
    for path, person in ((folder / "vehicles.parquet", False), (folder / "people.parquet", True)):
        table = _table(path)
        steps = np.round((table["time"].astype(float) - WARM_UP) / TIME_STEP).astype(int)
        names = table["id"].astype(str)
        order = np.lexsort((steps, names))
        names, steps = names[order], steps[order]
        columns = {name: values[order] for name, values in table.items()}
        x, y = columns["x"].astype(float), columns["y"].astype(float)
        new = np.ones(len(names), bool)
        new[1:] = (names[1:] != names[:-1]) | (np.diff(steps) != 1) | (np.hypot(np.diff(x), np.diff(y)) > JUMP)
        starts = np.concatenate((np.flatnonzero(new), [len(names)]))
        for start, stop in zip(starts[:-1], starts[1:], strict=True):
            if stop - start >= 10 and steps[start] >= 0:
                tracks.append(_track(names[start], columns, slice(start, stop), int(steps[start]), person, routes))
    return tracks


def _track(name: str, columns: dict[str, np.ndarray], rows: slice, first: int, person: bool, routes: dict[str, tuple[int, ...]]) -> Track:
    x, y = columns["x"][rows].astype(float), columns["y"][rows].astype(float)
    heading = np.unwrap(np.pi / 2 - np.radians(columns["angle"][rows].astype(float)))
    speed = columns["speed"][rows].astype(float)
    kind = "pedestrian" if person else str(columns["type"][rows][0])
    if kind == "bicycle":
        x, y = x + BICYCLE_OFFSET * np.sin(heading), y - BICYCLE_OFFSET * np.cos(heading)
    size = PEDESTRIAN_SIZE if person else BICYCLE_SIZE if kind == "bicycle" else SIZES[kind.split("_")[0]][:3]
    slowing = np.gradient(speed, TIME_STEP) < -0.6 if len(speed) > 1 else np.zeros(1, bool)
    return Track(
        name=name,
        kind=OBJECT_NAMES.index(kind) if kind in OBJECT_NAMES else 0,
        size=size,
        may_be_ego=kind.startswith(EGO_KIND),
        first=first,
        x=x,
        y=y,
        heading=heading,
        speed=speed,
        lanes=np.zeros(0, str) if person else columns["lane"][rows].astype(str),
        braking=slowing | (speed < 0.1),
        route=() if person else routes[name],
    )


def signal_letters(signals: Sequence[Signal], time: float) -> list[str]:
    """The letters of all links of each light system at a time of SUMO's clock, s."""
    letters = []
    for signal in signals:
        ends = np.cumsum(signal.durations)
        phase = int(np.searchsorted(ends, (time - signal.offset) % ends[-1], side="right"))
        letters.append(signal.states[min(phase, len(signal.states) - 1)])
    return letters
