"""SUMO's network as a town: lanes, connectors, roadblocks, intersections, signals, all with the ids that the map file will carry."""

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from irlvla.world.streets import street_plan, write_net

ROADBLOCK_MARGIN = 0.25
INTERSECTION_MARGIN = 0.3
LANE_STEP = 1.0
CONNECTOR_STEP = 0.75
STOP_LINE_DEPTH = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane, or a connector between two lanes. Lines run with the traffic, in the town's frame."""

    fid: int
    block: int
    """Index of its roadblock, or of its roadblock connector."""
    place: int
    """0 is the rightmost lane of its roadblock."""
    line: np.ndarray
    left: np.ndarray
    right: np.ndarray
    polygon: shapely.Polygon
    width: float
    speed: float
    before: int = -1
    """Connectors only: index of the lane it comes from."""
    after: int = -1
    signal: int = -1
    """Connectors only: index of the traffic light system, -1 for none."""
    link: int = -1
    stop_line: int = -1
    """Connectors only: index of the stop line, -1 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A roadblock (all lanes of one direction of a street) or a roadblock connector (all connectors between two roadblocks)."""

    fid: int
    polygon: shapely.Polygon
    before: int = -1
    after: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A fixed-time light system: how long each phase lasts and the letters of all links in it, as SUMO writes them."""

    name: str
    durations: np.ndarray
    states: tuple[str, ...]
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A polygon of the map with an id and a kind."""

    fid: int
    polygon: shapely.Polygon
    kind: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """One town in its own frame (m); `origin` is where that frame lies in the city's projected frame."""

    name: str
    city: str
    origin: np.ndarray
    first_fid: int
    net_file: Path
    lanes: tuple[Lane, ...]
    connectors: tuple[Lane, ...]
    blocks: tuple[Block, ...]
    block_connectors: tuple[Block, ...]
    edges: tuple[str, ...]
    """SUMO's name of each roadblock."""
    lane_numbers: dict[str, int]
    """SUMO's lane -> index into `lanes`."""
    onward: tuple[tuple[int, ...], ...]
    """Connectors that leave each lane."""
    connector_numbers: dict[str, tuple[int, ...]]
    """SUMO's lane inside a junction -> connectors that run over it."""
    intersections: tuple[Area, ...]
    stop_lines: tuple[Area, ...]
    crosswalks: tuple[Area, ...]
    crossing_lines: np.ndarray
    """x, y of both ends of each crosswalk, and its width."""
    walkways: tuple[Area, ...]
    parking: tuple[Area, ...]
    parking_lines: tuple[np.ndarray, ...]
    parking_blocks: tuple[int, ...]
    sidewalks: tuple[str, ...]
    """SUMO's edges that have a pavement."""
    signals: tuple[Signal, ...]


def _shape(text: str) -> np.ndarray:
    return np.array([[float(number) for number in point.split(",")[:2]] for point in text.split()])


def resampled(line: np.ndarray, step: float) -> np.ndarray:
    """The line with points about `step` m apart, both ends kept, repeated points dropped."""
    lengths = np.hypot(*np.diff(line, axis=0).T)
    line = line[np.concatenate(([True], lengths > 1e-3))]
    if len(line) < 2:
        raise ValueError("a line of no length cannot be resampled")
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))
    wanted = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / step)) + 1))
    return np.stack((np.interp(wanted, along, line[:, 0]), np.interp(wanted, along, line[:, 1])), -1)


def shifted(line: np.ndarray, offset: float) -> np.ndarray:
    """The line moved `offset` m to its left, point by point."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)[:, None]
    return line + offset * np.stack((-tangent[:, 1], tangent[:, 0]), -1)


def _strip(line: np.ndarray, width: float) -> tuple[shapely.Polygon, np.ndarray, np.ndarray]:
    left, right = shifted(line, width / 2), shifted(line, -width / 2)
    polygon = shapely.Polygon(np.concatenate((right, left[::-1])))
    if not polygon.is_valid or polygon.area < 0.5 * width * shapely.LineString(line).length:
        polygon = shapely.LineString(line).buffer(width / 2, cap_style="flat", join_style="mitre")
    return _outline(polygon), left, right


def _outline(shape: shapely.Geometry) -> shapely.Polygon:
    """The largest polygon of a shape, its holes filled, points closer than 1 cm to its outline's course dropped."""
    if shape.geom_type != "Polygon":
        shape = max((part for part in shape.geoms if part.geom_type == "Polygon"), key=lambda part: part.area)
    return shapely.Polygon(shapely.simplify(shapely.Polygon(shape.exterior), 0.01).exterior)


def _allows_cars(lane: ElementTree.Element) -> bool:
    return lane.get("allow") is None and "passenger" not in lane.get("disallow", "").split()


def _internal_chain(via: str, onward: dict[str, str]) -> tuple[str, ...]:
    chain = [via]
    while chain[-1] in onward:
        chain.append(onward[chain[-1]])
    return tuple(chain)


def read_town(net_file: Path, name: str, city: str, origin: np.ndarray, first_fid: int) -> Town:
    """Read SUMO's network as a town.

    Args:
        net_file: netconvert's output.
        name: The town's name.
        city: nuPlan's name of the city whose map file it goes into.
        origin: Where the town's frame lies in the city's projected frame, m.
        first_fid: Ids count up from here.

    Returns:
        The town. Internal junctions are joined away: lanes and connectors alternate, as in nuPlan's maps.
    """
    root = ElementTree.parse(net_file).getroot()
    ids = itertools.count(first_fid)
    shapes = {lane.get("id"): _shape(lane.get("shape")) for lane in root.iter("lane")}
    speeds = {lane.get("id"): float(lane.get("speed")) for lane in root.iter("lane")}
    signals = tuple(
        Signal(
            name=logic.get("id"),
            durations=np.array([float(phase.get("duration")) for phase in logic.iter("phase")]),
            states=tuple(phase.get("state") for phase in logic.iter("phase")),
            offset=float(logic.get("offset", 0)),
        )
        for logic in root.iter("tlLogic")
    )
    signal_numbers = {signal.name: number for number, signal in enumerate(signals)}
    edges = [edge for edge in root.iter("edge") if edge.get("function") is None]
    lanes: list[Lane] = []
    blocks: list[Block] = []
    parking: list[tuple[Area, np.ndarray, int]] = []
    walkways: list[Area] = []
    crosswalks: list[Area] = []
    crossing_lines: list[tuple[float, ...]] = []
    for number, edge in enumerate(edges):
        own = []
        for element in edge.iter("lane"):
            line = resampled(shapes[element.get("id")], LANE_STEP)
            width = float(element.get("width", 3.5))
            polygon, left, right = _strip(line, width)
            if _allows_cars(element):
                own.append(
                    (
                        element.get("id"),
                        Lane(
                            fid=next(ids),
                            block=number,
                            place=len(own),
                            line=line,
                            left=left,
                            right=right,
                            polygon=polygon,
                            width=width,
                            speed=float(element.get("speed")),
                        ),
                    )
                )
            elif element.get("allow") == "pedestrian":
                walkways.append(Area(fid=next(ids), polygon=polygon))
            else:
                parking.append((Area(fid=next(ids), polygon=polygon), line, number))
        union = shapely.union_all([lane.polygon for _, lane in own]).buffer(ROADBLOCK_MARGIN, cap_style="square", join_style="mitre")
        blocks.append(Block(fid=next(ids), polygon=_outline(union)))
        lanes.extend(lane for _, lane in own)
    lane_names = [element.get("id") for edge in edges for element in edge.iter("lane") if _allows_cars(element)]
    lane_numbers = {lane: number for number, lane in enumerate(lane_names)}
    for edge in root.iter("edge"):
        if edge.get("function") == "walkingarea":
            walkways.append(Area(fid=next(ids), polygon=_outline(shapely.Polygon(shapes[edge[0].get("id")]).buffer(0))))
        if edge.get("function") == "crossing":
            line, width = shapes[edge[0].get("id")], float(edge[0].get("width", 4))
            crosswalks.append(Area(fid=next(ids), polygon=_strip(resampled(line, LANE_STEP), width)[0]))
            crossing_lines.append((*line[0], *line[-1], width))
    connectors, block_connectors, connector_numbers, stop_lines = _connectors(
        root, ids, shapes, speeds, lanes, lane_numbers, signal_numbers
    )
    return Town(
        name=name,
        city=city,
        origin=origin,
        first_fid=first_fid,
        net_file=net_file,
        lanes=tuple(lanes),
        connectors=tuple(connectors),
        blocks=tuple(blocks),
        block_connectors=tuple(block_connectors),
        edges=tuple(edge.get("id") for edge in edges),
        lane_numbers=lane_numbers,
        onward=tuple(tuple(number for number, link in enumerate(connectors) if link.before == lane) for lane in range(len(lanes))),
        connector_numbers=connector_numbers,
        intersections=_intersections(root, ids, blocks, connectors, block_connectors, lanes, [edge.get("to") for edge in edges]),
        stop_lines=tuple(stop_lines),
        crosswalks=tuple(crosswalks),
        crossing_lines=np.array(crossing_lines, float).reshape(-1, 5),
        walkways=tuple(walkways),
        parking=tuple(area for area, _, _ in parking),
        parking_lines=tuple(line for _, line, _ in parking),
        parking_blocks=tuple(block for _, _, block in parking),
        sidewalks=tuple(edge.get("id") for edge in edges if edge[0].get("allow") == "pedestrian"),
        signals=signals,
    )


def _connectors(root, ids, shapes, speeds, lanes, lane_numbers, signal_numbers):
    """Connectors with their internal lanes joined, the roadblock connectors over them, and stop lines at lights."""
    connections = list(root.iter("connection"))
    onward = {
        f"{link.get('from')}_{link.get('fromLane')}": link.get("via")
        for link in connections
        if link.get("from").startswith(":") and link.get("via")
    }
    pairs: dict[tuple[int, int], list[Lane]] = {}
    names: dict[int, tuple[str, ...]] = {}
    stop_of_lane: dict[int, int] = {}
    stop_lines: list[Area] = []
    for link in connections:
        before = lane_numbers.get(f"{link.get('from')}_{link.get('fromLane')}")
        after = lane_numbers.get(f"{link.get('to')}_{link.get('toLane')}")
        if before is None or after is None:
            continue
        chain = _internal_chain(link.get("via"), onward)
        start, end = lanes[before], lanes[after]
        inner = np.concatenate([shapes[part] for part in chain])
        line = np.concatenate((start.line[-1:], inner, end.line[:1]))
        if np.hypot(*np.diff(line, axis=0).T).sum() < 0.3:
            direction = start.line[-1] - start.line[-2]
            line = np.stack((start.line[-1], start.line[-1] + 0.3 * direction / np.hypot(*direction)))
        line = resampled(line, CONNECTOR_STEP)
        width = min(start.width, end.width)
        polygon, left, right = _strip(line, width)
        signal = signal_numbers.get(link.get("tl"), -1)
        if signal >= 0 and before not in stop_of_lane:
            stop_of_lane[before] = len(stop_lines)
            stop_lines.append(Area(fid=next(ids), polygon=_strip(_end_piece(start.line), start.width)[0], kind=2))
        key = (start.block, end.block)
        connector = Lane(
            fid=next(ids), block=-1, place=0, line=line, left=left, right=right, polygon=polygon, width=width,
            speed=min(speeds[part] for part in chain), before=before, after=after, signal=signal,
            link=int(link.get("linkIndex", -1)), stop_line=stop_of_lane.get(before, -1),
        )  # fmt: skip
        names[connector.fid] = chain
        pairs.setdefault(key, []).append(connector)
    connectors: list[Lane] = []
    block_connectors: list[Block] = []
    connector_numbers: dict[str, tuple[int, ...]] = {}
    for (before, after), members in sorted(pairs.items()):
        union = shapely.union_all([member.polygon for member in members]).buffer(ROADBLOCK_MARGIN)
        for member in members:
            for part in names[member.fid]:
                connector_numbers[part] = (*connector_numbers.get(part, ()), len(connectors))
            connectors.append(_with_block(member, len(block_connectors)))
        block_connectors.append(Block(fid=next(ids), polygon=_outline(union), before=before, after=after))
    return connectors, block_connectors, connector_numbers, stop_lines


def _with_block(lane: Lane, block: int) -> Lane:
    return Lane(**{name: getattr(lane, name) for name in Lane.__slots__ if name != "block"}, block=block)


def _end_piece(line: np.ndarray) -> np.ndarray:
    direction = (line[-1] - line[-2]) / np.hypot(*(line[-1] - line[-2]))
    return np.stack((line[-1] - STOP_LINE_DEPTH * direction, line[-1]))


def _intersections(root, ids, blocks, connectors, block_connectors, lanes, heads_to) -> tuple[Area, ...]:
    """One area a junction: its roadway and all connectors, without the pavement at its corners."""
    shapes = {junction.get("id"): junction for junction in root.iter("junction") if junction.get("type") != "internal"}
    walking: dict[str, list[shapely.Polygon]] = {}
    for edge in root.iter("edge"):
        if edge.get("function") == "walkingarea":
            junction = edge.get("id")[1:].rsplit("_", 1)[0]
            walking.setdefault(junction, []).append(shapely.Polygon(_shape(edge[0].get("shape"))).buffer(0))
    members: dict[str, list[shapely.Polygon]] = {}
    for connector in connectors:
        members.setdefault(heads_to[lanes[connector.before].block], []).append(connector.polygon)
    areas = []
    for name in sorted(members):
        ground = shapely.Polygon(_shape(shapes[name].get("shape"))).buffer(0).difference(shapely.union_all(walking.get(name, [])))
        union = shapely.union_all([ground, *members[name]]).buffer(INTERSECTION_MARGIN)
        areas.append(Area(fid=next(ids), polygon=_outline(union), kind=1 if "traffic_light" in shapes[name].get("type") else 0))
    return tuple(areas)


def make_town(folder: Path, name: str, city: str, shape: str, seed: int, origin: np.ndarray, first_fid: int) -> Town:
    """Draw a town's streets, run netconvert on them in `folder`, and read the result."""
    return read_town(write_net(street_plan(name, shape, seed), folder), name, city, origin, first_fid)
