"""The plan of a town: where streets run, how wide they are and which junctions have lights, as files for SUMO's netconvert."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

SIDEWALK_WIDTH = 2.2
PARKING_WIDTH = 2.3
ATTEMPTS = 200
SHAPES = ("bent", "scattered", "rings")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetPlan:
    """Junctions and streets of one town; street i joins the junctions `ends[i]` along `lines[i]`, two-way."""

    name: str
    nodes: np.ndarray
    lights: tuple[bool, ...]
    ends: tuple[tuple[int, int], ...]
    lines: tuple[np.ndarray, ...]
    lane_counts: tuple[int, ...]
    speeds: tuple[float, ...]
    priorities: tuple[int, ...]
    parking: tuple[tuple[bool, bool], ...]
    lane_width: float


def _lattice(rng: np.random.Generator, columns: int, rows: int, jitter: float) -> tuple[np.ndarray, list[tuple[int, int]]]:
    spacing = rng.uniform(125, 155, 2)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1).reshape(-1, 2) * spacing
    nodes = grid + rng.uniform(-jitter, jitter, grid.shape) * spacing
    index = np.arange(columns * rows).reshape(columns, rows)
    pairs = [(index[i, j], index[i + 1, j]) for i in range(columns - 1) for j in range(rows)]
    pairs += [(index[i, j], index[i, j + 1]) for i in range(columns) for j in range(rows - 1)]
    return nodes, [(int(a), int(b)) for a, b in pairs]


def _rings(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int]], dict[tuple[int, int], np.ndarray]]:
    arms, radii = int(rng.integers(5, 7)), (95.0, 205.0)
    angles = np.arange(arms) * 2 * np.pi / arms + rng.uniform(-0.12, 0.12, arms)
    nodes = np.array([(radius * np.cos(angle), radius * np.sin(angle)) for radius in radii for angle in angles])
    pairs, arcs = [], {}
    for ring, radius in enumerate(radii):
        for arm in range(arms):
            pair = (ring * arms + arm, ring * arms + (arm + 1) % arms)
            turn = (angles[(arm + 1) % arms] - angles[arm]) % (2 * np.pi)
            swept = angles[arm] + np.linspace(0, turn, 24)
            arcs[pair] = radius * np.stack((np.cos(swept), np.sin(swept)), -1)
            pairs.append(pair)
    pairs += [(arm, arms + arm) for arm in range(arms)]
    return nodes, pairs, arcs


def _resampled(line: np.ndarray, step: float) -> np.ndarray:
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))
    count = max(2, int(np.ceil(along[-1] / step)) + 1)
    wanted = np.linspace(0, along[-1], count)
    return np.stack((np.interp(wanted, along, line[:, 0]), np.interp(wanted, along, line[:, 1])), -1)


def _smoothed(line: np.ndarray, width: float) -> np.ndarray:
    """The line with its corners rounded by a Gaussian of `width` m; both ends and their directions stay."""
    line = _resampled(line, 2.0)
    reach = int(3 * width / 2.0)
    before = line[0] - (line[1] - line[0]) * np.arange(reach, 0, -1)[:, None]
    after = line[-1] + (line[-1] - line[-2]) * np.arange(1, reach + 1)[:, None]
    padded = np.concatenate((before, line, after))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 2.0 / width) ** 2)
    weights /= weights.sum()
    smooth = np.stack([np.convolve(padded[:, axis], weights, mode="valid") for axis in range(2)], -1)
    smooth[0], smooth[-1] = line[0], line[-1]
    return smooth


def smallest_radius(line: np.ndarray) -> float:
    """Smallest radius of curvature along a line, m, taken over 8 m."""
    line = _resampled(line, 4.0)
    if len(line) < 4:
        return 1e4
    steps = np.diff(line, axis=0)
    headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    bend = np.abs(headings[2:] - headings[:-2]) / 8.0
    return float(1.0 / max(bend.max(), 1e-4))


def _bowed(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, bow: float) -> np.ndarray:
    along = np.linspace(0, 1, 30)
    chord = end - start
    side = np.array((-chord[1], chord[0]))
    offset = bow * (
        rng.uniform(-1, 1) * np.sin(np.pi * along) ** 2 + 0.6 * rng.uniform(-1, 1) * np.sin(2 * np.pi * along) * np.sin(np.pi * along)
    )
    return start + along[:, None] * chord + offset[:, None] * side


def _warp(rng: np.random.Generator, strength: float):
    """A smooth shift of the plane that bends whole streets and keeps crossing angles near what they were."""
    waves = rng.uniform(0.010, 0.020, (2, 2)) * rng.choice((-1, 1), (2, 2))
    phases = rng.uniform(0, 2 * np.pi, 2)

    def shifted(points: np.ndarray) -> np.ndarray:
        return points + strength * np.sin(points @ waves.T + phases)[:, ::-1]

    return shifted


def _joined(lines: dict[tuple[int, int], np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
    """Streets meeting at a junction of two become one street with a rounded corner."""
    lines = dict(lines)
    while True:
        streets_at: dict[int, list[tuple[int, int]]] = {}
        for pair in sorted(lines):
            for node in pair:
                streets_at.setdefault(node, []).append(pair)
        corner = next(
            (node for node in sorted(streets_at) if len(streets_at[node]) == 2 and _may_join(node, streets_at[node], lines)), None
        )
        if corner is None:
            return lines
        first, second = streets_at[corner]
        incoming = lines.pop(first) if first[1] == corner else lines.pop(first)[::-1]
        outgoing = lines.pop(second) if second[0] == corner else lines.pop(second)[::-1]
        ends = (first[0] if first[1] == corner else first[1], second[1] if second[0] == corner else second[0])
        lines[ends] = _smoothed(np.concatenate((incoming, outgoing[1:])), 24.0)


def _may_join(node: int, streets: list[tuple[int, int]], lines: dict[tuple[int, int], np.ndarray]) -> bool:
    others = [end for pair in streets for end in pair if end != node]
    return len(set(others)) == 2 and tuple(others) not in lines and tuple(others[::-1]) not in lines


def _thinned(rng: np.random.Generator, pairs: list[tuple[int, int]], share: float) -> list[tuple[int, int]]:
    """Streets left after taking some out; every junction keeps at least three, or the two it had."""
    kept = list(pairs)
    for number in rng.permutation(len(pairs))[: int(share * len(pairs)) * 2]:
        pair = pairs[number]
        degree = {node: sum(node in other for other in kept) for node in pair}
        if len(kept) > len(pairs) * (1 - share) and all(count > 3 for count in degree.values()):
            kept.remove(pair)
    return kept


def street_plan(name: str, shape: str, seed: int) -> StreetPlan:
    """A town's streets, drawn from a seed; drawn again until no bend is too tight for the width of its street.

    Args:
        name: The town's name.
        shape: "bent" (a lattice bent by a smooth shift), "scattered" (a lattice of scattered junctions) or "rings".
        seed: Same seed, same plan.

    Returns:
        Junctions, two-way streets, lanes a direction (1-3), speeds (m/s, from curvature), lights and parking strips.
    """
    for attempt in range(ATTEMPTS):
        plan = _drawn_plan(name, shape, np.random.default_rng([seed, attempt]))
        if all(smallest_radius(line) > 12.0 + 6.0 * lanes for line, lanes in zip(plan.lines, plan.lane_counts, strict=True)):
            return plan
    raise ValueError(f"town {name}: {ATTEMPTS} plans of shape {shape} from seed {seed} all had bends that are too tight")


def _drawn_plan(name: str, shape: str, rng: np.random.Generator) -> StreetPlan:
    arcs: dict[tuple[int, int], np.ndarray] = {}
    if shape == "rings":
        nodes, pairs, arcs = _rings(rng)
    else:
        columns, rows = ((4, 4), (5, 4), (5, 3))[int(rng.integers(3))]
        nodes, pairs = _lattice(rng, columns, rows, 0.07 if shape == "bent" else 0.19)
        pairs = _thinned(rng, pairs, 0.06 if shape == "bent" else 0.12)
    bow = {"bent": 0.10, "scattered": 0.13, "rings": 0.05}[shape]
    lines = {pair: arcs[pair] if pair in arcs else _bowed(rng, nodes[pair[0]], nodes[pair[1]], bow) for pair in pairs}
    warp = _warp(rng, 14.0 if shape == "bent" else 7.0)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    lines = {pair: warp(line) @ rotation.T for pair, line in lines.items()}
    nodes = warp(nodes) @ rotation.T
    lines = {pair: _smoothed(line, 6.0) for pair, line in _joined(lines).items()}
    ends = tuple(sorted(lines))
    used = sorted({node for pair in ends for node in pair})
    number_of = {node: number for number, node in enumerate(used)}
    main = rng.permutation(len(ends))[: len(ends) // 2]
    lane_counts, speeds, priorities, parking = [], [], [], []
    for street, pair in enumerate(ends):
        wide = street in main
        lane_counts.append(int(rng.choice((2, 3), p=(0.75, 0.25))) if wide else int(rng.choice((1, 2), p=(0.8, 0.2))))
        limit = rng.choice((11.11, 13.89, 13.89)) if wide else rng.choice((8.33, 11.11, 11.11, 13.89))
        speeds.append(float(np.clip(np.sqrt(1.8 * smallest_radius(lines[pair])), 6.0, limit)))
        priorities.append(3 if wide else 1)
        parking.append((bool(rng.random() < 0.4), bool(rng.random() < 0.4)))
    degree = [sum(node in pair for pair in ends) for node in used]
    lights = tuple(bool(count >= 3 and rng.random() < 0.72) for count in degree)
    return StreetPlan(
        name=name,
        nodes=nodes[used],
        lights=lights,
        ends=tuple((number_of[a], number_of[b]) for a, b in ends),
        lines=tuple(lines[pair] for pair in ends),
        lane_counts=tuple(lane_counts),
        speeds=tuple(speeds),
        priorities=tuple(priorities),
        parking=tuple(parking),
        lane_width=float(rng.choice((3.3, 3.5, 3.7))),
    )


def _edge_xml(plan: StreetPlan, street: int, backward: bool) -> str:
    a, b = plan.ends[street]
    line = shapely.simplify(shapely.LineString(plan.lines[street]), 0.05)
    points = np.asarray(line.coords)[:: -1 if backward else 1]
    start, end = (b, a) if backward else (a, b)
    count, parking = plan.lane_counts[street], plan.parking[street][backward]
    shape = " ".join(f"{x:.3f},{y:.3f}" for x, y in points)
    lanes = [f'<lane index="0" allow="pedestrian" width="{SIDEWALK_WIDTH}"/>']
    if parking:
        lanes.append(f'<lane index="1" allow="custom1" width="{PARKING_WIDTH}"/>')
    first = len(lanes)
    lanes += [f'<lane index="{first + lane}" disallow="pedestrian custom1" width="{plan.lane_width}"/>' for lane in range(count)]
    return (
        f'<edge id="{street}{"b" if backward else "f"}" from="{start}" to="{end}" numLanes="{first + count}" speed="{plan.speeds[street]:.2f}" '
        f'priority="{plan.priorities[street]}" shape="{shape}">{"".join(lanes)}</edge>\n'
    )


def program(name: str) -> str:
    """Path of one of SUMO's programs, from the `eclipse-sumo` package.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    try:
        import sumo
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("making a world needs SUMO: pip install 'irlvla[world]'") from missing
    return str(Path(sumo.SUMO_HOME) / "bin" / name)


def run_program(arguments: list[str]) -> None:
    """Run one of SUMO's programs quietly.

    Raises:
        RuntimeError: It failed; its last words are in the message.
    """
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(arguments[0]).name} failed ({done.returncode}): {done.stderr[-800:]}")


def write_net(plan: StreetPlan, folder: Path) -> Path:
    """Write the plan for netconvert, run it, and return the path of SUMO's network file."""
    folder.mkdir(parents=True, exist_ok=True)
    node_lines = []
    for number, (x, y) in enumerate(plan.nodes):
        kind = "traffic_light" if plan.lights[number] else "priority"
        node_lines.append(f'<node id="{number}" x="{x:.3f}" y="{y:.3f}" type="{kind}"/>\n')
    edges = [_edge_xml(plan, street, backward) for street in range(len(plan.ends)) for backward in (False, True)]
    (folder / "nodes.xml").write_text(f"<nodes>\n{''.join(node_lines)}</nodes>\n")
    (folder / "edges.xml").write_text(f"<edges>\n{''.join(edges)}</edges>\n")
    net = folder / "net.xml"
    options = {
        "--node-files": folder / "nodes.xml",
        "--edge-files": folder / "edges.xml",
        "--output-file": net,
        "--default.junctions.radius": 13,
        "--junctions.corner-detail": 6,
        "--junctions.internal-link-detail": 12,
        "--junctions.limit-turn-speed": 1.9,
        "--junctions.limit-turn-speed.min-angle": 5,
        "--no-turnarounds": "true",
        "--tls.yellow.time": 4,
        "--tls.allred.time": 2,
        "--tls.left-green.time": 0,
        "--tls.cycle.time": 64,
        "--crossings.guess": "true",
        "--offset.disable-normalization": "true",
    }
    run_program([program("netconvert"), *(str(word) for option in options.items() for word in option)])
    return net
