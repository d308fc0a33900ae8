"""Moments of the embedded world with a known cause to act: a vehicle ahead on the ego's way, or a lit lamp of its traffic light.

The world's sidecar knows all that its cameras saw, so that a moment can be drawn again with something changed, and what is changed can be
counted in pixels. The way is the centre line of the route from the ego on. Logs of real cars cannot be drawn again.
"""

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
import shapely.ops
from jaxtyping import Float, Int, UInt8
from PIL import Image

from irlvla.data.features import SensorConfig, resized_views
from irlvla.data.store import Indices, Store
from irlvla.files import short
from irlvla.geometry import principal
from irlvla.types import OBJECT_NAMES, PreparedScene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER
from irlvla.world.camera import JPEG_QUALITY, Stage, camera_pose, mounting, picture, stage
from irlvla.world.look import Look
from irlvla.world.scenery import LIGHT_NAMES, Footage, Moment, Scenery, load_footage, load_scenery

CAUSE_NAMES = ("lead", "red", "green")
"""A vehicle ahead; the red or the green lamp of the light at the next stop line."""
FRONT = REAR_AXLE_TO_CENTER + LENGTH / 2
"""From the rear axle to the front bumper, where distances begin, m."""
WAY = 80.0
"""How far ahead of the rear axle the way is looked at, m."""
HALF_WIDTH = 1.2
"""A vehicle is on the way if some of it is within this distance of its line, m."""
CLEAR_WIDTH = 2.0
"""A vehicle that is nowhere so close to the line concerns nobody on it, m."""
SAME_WAY = np.radians(60)
"""A vehicle that heads more than so much away from the way leads nobody."""
POLE_ASIDE, POLE_TURN, POLE_BEHIND = 16.0, np.radians(30), 0.5
"""A light's nearer pole stands right of the way, at most so far (m), its lamps look against the way up to an angle, and the ego's front
bumper is at most so far beyond it (m)."""
RED_WAY = 4.0
"""Red lane connectors hold the ego if the way leads along one for so long, m."""
CHANGED = 12
"""A pixel is changed if a colour differs by more than this (of 255)."""
MOST_OTHERS = 4
"""Vehicles that are looked at to find one off the way that is as well visible as the one on it."""

_MOVERS = tuple(OBJECT_NAMES.index(name) for name in ("vehicle", "bicycle"))
_VEHICLE = OBJECT_NAMES.index("vehicle")
_RED, _GREEN = LIGHT_NAMES.index("red"), LIGHT_NAMES.index("green")


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseConfig:
    """Which causes count: how near (m from the front bumper), and how many pixels of the front camera's picture they fill at least."""

    lead_distance: float = 25.0
    light_distance: float = 50.0
    lead_pixels: int = 100
    lamp_pixels: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scene with one cause to act."""

    cause: str
    index: int
    """Of the scene in its store."""
    thing: int
    """The vehicle's place in the moment's boxes, or the light's group."""
    others: tuple[int, ...]
    """A vehicle off the way, or the visible lights that don't concern the ego; none if there is none that fills as many pixels as a cause has to."""
    pixels: int
    distance: float
    """From the front bumper, m."""
    speed: float
    """Of the ego, m/s."""
    alone: bool
    """Nothing else holds the ego: no red light behind the vehicle ahead, no vehicle between ego and light."""

    def __post_init__(self) -> None:
        if self.cause not in CAUSE_NAMES:
            raise ValueError(f"unknown cause {self.cause!r}; known: {', '.join(CAUSE_NAMES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """All that is needed to draw a moment again."""

    town: Stage
    scenery: Scenery
    moment: Moment
    look: Look
    ego: Float[np.ndarray, "3"]
    """x, y, heading of the rear axle, global."""


def shot(store: Store, index: int) -> Shot:
    """How one scene of a store of the embedded world was drawn.

    Raises:
        ValueError: its log has no sidecar, or that does not know the moment.
    """
    folder = Path(store.settings["logs"]) / "sidecar"
    path = folder / f"{store.log_names[index]}.npz"
    if not path.is_file():
        raise ValueError(f"scene {store.tokens[index]}: {path} is missing; only moments of the embedded world can be drawn again")
    film = _film(path)
    if store.tokens[index] not in film.tokens:
        raise ValueError(f"scene {store.tokens[index]}: {path} does not know this moment")
    standing, town = _town(folder / f"{film.town}.npz")
    ego = np.array(store.prepared(index).ego_state[:3])
    return Shot(town=town, scenery=standing, moment=film.moments[film.tokens.index(store.tokens[index])], look=film.look, ego=ego)


@functools.lru_cache(maxsize=1)
def _film(path: Path) -> Footage:
    return load_footage(path)


@functools.lru_cache(maxsize=1)
def _town(path: Path) -> tuple[Scenery, Stage]:
    """A town and the same ready for drawing; the logs of one lie side by side in order of name."""
    standing = load_scenery(path)
    return standing, stage(standing)


def drawn(shot: Shot, camera: str = "CAM_F0") -> UInt8[np.ndarray, "height width 3"]:
    """One camera's picture as it would lie on disk, before it is compressed."""
    rig = mounting(camera)
    return picture(shot.town, shot.moment, camera_pose(shot.ego, rig), rig.intrinsics, rig.width, rig.height, shot.look)


def views(shot: Shot, sensors: SensorConfig) -> UInt8[np.ndarray, "views height width 3"]:
    """The moment's pictures as a policy sees them: drawn, compressed and resized like those of the logs."""
    found: list[np.ndarray] = []
    for camera in sensors.cameras:
        file = io.BytesIO()
        Image.fromarray(drawn(shot, camera)).save(file, "JPEG", quality=JPEG_QUALITY)
        with Image.open(file, formats=("JPEG",)) as image:
            found += resized_views(image.convert("RGB"), camera, (sensors.width, sensors.height))
    return np.stack(found)


def without(shot: Shot, objects: Sequence[int]) -> Shot:
    """The moment without some of its moving things."""
    kept = np.ones(len(shot.moment.types), bool)
    kept[list(objects)] = False
    parts = {name: getattr(shot.moment, name)[kept] for name in ("types", "boxes", "seeds", "braking")}
    return replace(shot, moment=replace(shot.moment, **parts))


def with_lights(shot: Shot, groups: Sequence[int], states: int | Sequence[int]) -> Shot:
    """The moment with some groups of lights in other states (indices into LIGHT_NAMES)."""
    lights = shot.moment.lights.copy()
    lights[list(groups)] = states
    return replace(shot, moment=replace(shot.moment, lights=lights))


def swapped(shot: Shot, groups: Sequence[int]) -> Shot:
    """The moment with red and green of some groups of lights exchanged; others states stay."""
    before = shot.moment.lights[list(groups)]
    return with_lights(shot, groups, np.where(before == _RED, _GREEN, np.where(before == _GREEN, _RED, before)).tolist())


def changed_pixels(before: UInt8[np.ndarray, "height width 3"], after: UInt8[np.ndarray, "height width 3"]) -> int:
    """Pixels in which two pictures differ visibly."""
    return int((np.abs(before.astype(np.int16) - after).max(axis=2) > CHANGED).sum())


def way_ahead(line: Float[np.ndarray, "points 3"], ego: Float[np.ndarray, "3"]) -> shapely.LineString:
    """The part of a global centre line from the place nearest to the ego on, WAY long, in the ego frame."""
    path = shapely.LineString(_in_ego(line[:, :2], ego))
    start = path.project(shapely.Point(0.0, 0.0))
    # A way that ends at the ego is a short piece of straight road.
    end = min(start + WAY, path.length)
    return shapely.ops.substring(path, start, end) if end - start > 1.0 else shapely.LineString([(0.0, 0.0), (1.0, 0.0)])


def lead_vehicle(
    boxes: Float[np.ndarray, "objects 6"], types: Int[np.ndarray, "objects"], ego: Float[np.ndarray, "3"], way: shapely.LineString
) -> tuple[int, float] | None:
    """The next vehicle or bicycle on the way that heads along it: its index and the gap between the bumpers along the way, m.

    Args:
        boxes: as in `Moment`, global.
        types: indices into OBJECT_NAMES.
        ego: x, y, heading, global.
        way: in the ego frame.
    """
    found = []
    for index, outline, heading in _outlines(boxes, types, ego, _MOVERS):
        middle = way.project(outline.centroid)
        if not REAR_AXLE_TO_CENTER < middle < way.length or outline.distance(way) > HALF_WIDTH:
            continue
        if abs(principal(heading - _heading(way, middle))) < SAME_WAY:
            corners = [way.project(shapely.Point(corner)) for corner in outline.exterior.coords]
            found.append((min(corners) - FRONT, index))
    return None if not found else (min(found)[1], float(min(found)[0]))


def vehicles_off_the_way(
    boxes: Float[np.ndarray, "objects 6"], types: Int[np.ndarray, "objects"], ego: Float[np.ndarray, "3"], way: shapely.LineString
) -> list[int]:
    """Vehicles ahead of which no part is near the way, nearest to the ego first."""
    found = []
    for index, outline, _ in _outlines(boxes, types, ego, (_VEHICLE,)):
        if outline.centroid.x > FRONT and outline.distance(way) > CLEAR_WIDTH:
            found.append((outline.distance(shapely.Point(0.0, 0.0)), index))
    return [index for _, index in sorted(found)]


def light_ahead(
    poles: Float[np.ndarray, "poles 4"], groups: Int[np.ndarray, "poles"], ego: Float[np.ndarray, "3"], way: shapely.LineString
) -> tuple[int, float] | None:
    """The group of the first light on the way and how far its nearer pole, which stands beside the stop line, is ahead, m.

    Args:
        poles: x, y, heading of the lamps, arm length; global.
        groups: of each pole.
        ego: x, y, heading, global.
        way: in the ego frame.
    """
    found = []
    for place, heading, arm, group in zip(_in_ego(poles[:, :2], ego), poles[:, 2] - ego[2], poles[:, 3], groups, strict=True):
        along = way.project(shapely.Point(place))
        if arm != 0.0 or not FRONT - POLE_BEHIND < along < way.length:
            continue
        on_way, direction = way.interpolate(along), _heading(way, along)
        left = (place[1] - on_way.y) * np.cos(direction) - (place[0] - on_way.x) * np.sin(direction)
        if -POLE_ASIDE < left < 0.0 and abs(principal(heading + np.pi - direction)) < POLE_TURN:
            found.append((along - FRONT, int(group)))
    return None if not found else (min(found)[1], float(min(found)[0]))


def red_on_way(scene: PreparedScene, way: shapely.LineString) -> float:
    """How far ahead of the front bumper the way first leads along a lane connector that is red now, m; infinite if it does nowhere."""
    polygons, nearest = scene.red_polygons, np.inf
    for number in np.flatnonzero(scene.red_valid[0]):
        ring = polygons.polygon_start[number]
        outer = polygons.vertices[polygons.ring_start[ring] : polygons.ring_start[ring + 1]]
        inside = way.intersection(shapely.make_valid(shapely.Polygon(_in_ego(outer, scene.ego_state[:3]))))
        if inside.length > RED_WAY:
            nearest = min(nearest, *(way.project(shapely.Point(point)) for point in shapely.get_coordinates(inside)))
    return float(nearest - FRONT)


def cases(
    store: Store, indices: Indices, config: CauseConfig = CauseConfig(), most: int | None = None, seed: int = 0
) -> dict[str, list[Case]]:
    """Scenes with a visible cause, for each of CAUSE_NAMES, in order of log.

    A red lamp counts where the map's red connectors say so too, a green one where they don't.

    Args:
        store: annotated scenes of the embedded world, seen with the front camera.
        indices: which of them.
        config: what counts.
        most: at most so many of each cause, drawn by the seed.
        seed: of that.

    Raises:
        ValueError: the logs have no sidecar.
    """
    if not (Path(store.settings["logs"]) / "sidecar").is_dir():
        raise ValueError(f"{short(store.settings['logs'])} has no sidecar: causes can be changed in pictures of the embedded world alone")
    # In order of log, so that each town is made ready once.
    order = sorted(np.asarray(indices).tolist(), key=lambda index: (store.log_names[index], index))
    every = [case for index in order for case in scene_cases(store, index, config)]
    found, random = {name: [case for case in every if case.cause == name] for name in CAUSE_NAMES}, np.random.default_rng(seed)
    if most is None:
        return found
    places = {name: np.sort(random.permutation(len(some))[:most]) for name, some in found.items()}
    return {name: [some[place] for place in places[name]] for name, some in found.items()}


def scene_cases(store: Store, index: int, config: CauseConfig) -> list[Case]:
    """The causes of one scene; at most one of each kind."""
    scene, at = store.prepared(index), shot(store, index)
    moment, speed = at.moment, float(np.hypot(*scene.ego_state[3:5]))
    way = way_ahead(np.asarray(scene.centerline), at.ego)
    poles = np.column_stack([at.scenery.poles[:, :2] + at.scenery.origin, at.scenery.poles[:, 2:]])
    lead = lead_vehicle(moment.boxes, moment.types, at.ego, way)
    light = light_ahead(poles, at.scenery.pole_groups, at.ego, way)
    red = red_on_way(scene, way)
    found, seen = [], functools.cache(lambda: drawn(at))
    if lead is not None and lead[1] < config.lead_distance:
        pixels = changed_pixels(seen(), drawn(without(at, [lead[0]])))
        if pixels >= config.lead_pixels:
            others = _like(at, seen(), vehicles_off_the_way(moment.boxes, moment.types, at.ego, way), pixels, config.lead_pixels)
            alone = red > config.light_distance
            found.append(
                Case(cause="lead", index=index, thing=lead[0], others=others, pixels=pixels, distance=lead[1], speed=speed, alone=alone)
            )
    if light is None or light[1] > config.light_distance or light[0] >= len(moment.lights):
        return found
    group, distance = light
    # The lamp shows one movement of its approach; the map's connectors say whether the ego's own is red.
    is_red = red < distance + RED_WAY
    cause = {_RED: "red", _GREEN: "green"}.get(int(moment.lights[group]))
    if cause is None or is_red != (cause == "red"):
        return found
    pixels = changed_pixels(seen(), drawn(with_lights(at, [group], 0)))
    if pixels >= config.lamp_pixels:
        others = _other_lights(at, seen(), poles, way, group, config.lamp_pixels)
        alone = lead is None or lead[1] > distance
        found.append(Case(cause=cause, index=index, thing=group, others=others, pixels=pixels, distance=distance, speed=speed, alone=alone))
    return found


def _like(at: Shot, seen: np.ndarray, candidates: Sequence[int], pixels: int, least: int) -> tuple[int, ...]:
    """The candidate that fills the number of pixels most like the wanted one, if it fills the least."""
    counts = {index: changed_pixels(seen, drawn(without(at, [index]))) for index in candidates[:MOST_OTHERS]}
    counts = {index: count for index, count in counts.items() if count >= least}
    return (min(counts, key=lambda index: abs(np.log(counts[index] / pixels))),) if counts else ()


def _other_lights(at: Shot, seen: np.ndarray, poles: np.ndarray, way: shapely.LineString, group: int, least: int) -> tuple[int, ...]:
    """Groups that are red or green and look another way than against the ego's, if exchanging their colours fills the least pixels."""
    concerned = {group}
    for place, heading, number in zip(_in_ego(poles[:, :2], at.ego), poles[:, 2] - at.ego[2], at.scenery.pole_groups, strict=True):
        direction = _heading(way, way.project(shapely.Point(place)))
        if abs(principal(heading + np.pi - direction)) < 2 * POLE_TURN:
            concerned.add(int(number))
    lights = at.moment.lights
    others = tuple(int(number) for number in np.flatnonzero((lights == _RED) | (lights == _GREEN)) if number not in concerned)
    return others if others and changed_pixels(seen, drawn(swapped(at, others))) >= least else ()


def _outlines(boxes: np.ndarray, types: np.ndarray, ego: np.ndarray, kinds: Sequence[int]) -> list[tuple[int, shapely.Polygon, float]]:
    """Index, outline and heading in the ego frame of the things of some kinds within reach."""
    places, found = _in_ego(boxes[:, :2], ego), []
    for index in np.flatnonzero(np.isin(types, kinds) & (np.hypot(*places.T) < WAY)):
        heading, length, width = boxes[index, 2] - ego[2], *boxes[index, 3:5]
        along, aside = length / 2 * np.array([np.cos(heading), np.sin(heading)]), width / 2 * np.array([-np.sin(heading), np.cos(heading)])
        outline = shapely.Polygon([places[index] + i * along + j * aside for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1))])
        found.append((int(index), outline, float(heading)))
    return found


def _in_ego(points: np.ndarray, ego: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(ego[2]), np.sin(ego[2])
    return (points - ego[:2]) @ np.array([[cosine, -sine], [sine, cosine]])


def _heading(way: shapely.LineString, along: float) -> float:
    start = min(along, way.length - 0.5)
    first, second = way.interpolate(start), way.interpolate(start + 0.5)
    return float(np.arctan2(second.y - first.y, second.x - first.x))
