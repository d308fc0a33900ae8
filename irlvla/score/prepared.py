"""Scene -> PreparedScene: objects at 10 Hz, red lights, drivable map, route, reference plan, human filter.

Source: autonomousvision/navsim at 0a380a9, navsim/planning/metric_caching/metric_cache_processor.py and
navsim/traffic_agents_policies/log_replay_traffic_agents.py.
"""

from dataclasses import dataclass, replace
from typing import no_type_check

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from numba import njit

from irlvla.geometry import boxes_touch, fill_box, frozen
from irlvla.lanes import LaneMap, selected_polygons
from irlvla.score.epdms import human_zeros, reference_progress
from irlvla.score.reference import reference_plan
from irlvla.score.route import around, centerline, check_polygons, corrected_route, route_blocks, route_lanes, starting_lane
from irlvla.types import HISTORY, LAYER_NAMES, POSES, STEPS, SYNTHETIC_TOKEN_LENGTH, Polygons, PreparedScene, Scene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, WIDTH

STEPS_A_FRAME = 5
NOW = HISTORY - 1
FRAMES = POSES + 1
"""2 Hz frames from t0 to 4 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Road users at 10 Hz over STEPS, and what is known of those annotated at t0 (for the reference planner's forecast)."""

    types: Int[np.ndarray, "objects"]
    first_speed: Float[np.ndarray, "objects"]
    boxes: Float[np.ndarray, "41 objects 5"]
    valid: Bool[np.ndarray, "41 objects"]
    now: Int[np.ndarray, "present"]
    """Which object each of those is."""
    types_now: Int[np.ndarray, "present"]
    boxes_now: Float[np.ndarray, "present 5"]
    velocities_now: Float[np.ndarray, "present 2"]


def prepared(scene: Scene) -> PreparedScene:
    """All that scoring the scene needs.

    Args:
        scene: With at least 8 future frames and a route.

    Raises:
        ValueError: Too few future frames, no annotations, no route, or a route that the map does not hold; the message names the
            scene.
    """
    if scene.objects is None or scene.traffic_lights is None:
        raise ValueError(
            f"scene {scene.token} of log {scene.log_name} has no annotations (cameras only): boxes, traffic lights, route and map are missing"
        )
    if len(scene.time_us) < HISTORY + POSES:
        raise ValueError(f"scene {scene.token}: {len(scene.time_us) - HISTORY} future frames, {POSES} are needed")
    try:
        return _prepared(scene)
    except (ValueError, KeyError, shapely.errors.GEOSException) as error:
        raise ValueError(f"scene {scene.token} of log {scene.log_name} cannot be prepared: {error}") from error


def _prepared(scene: Scene) -> PreparedScene:
    lane_map: LaneMap = scene.lane_map
    pose = scene.ego_poses[NOW]
    states = np.concatenate([scene.ego_poses, scene.ego_velocities, scene.ego_accelerations], axis=1)[:HISTORY]
    heading = np.array([np.cos(pose[2]), np.sin(pose[2])])
    center = pose[:2] + REAR_AXLE_TO_CENTER * heading
    raw_route = route_blocks(lane_map, scene.roadblock_ids)
    blocks = corrected_route(lane_map, raw_route, pose)
    lanes = route_lanes(lane_map, blocks)
    start = starting_lane(lane_map, lanes, pose, center, _outline(center, heading))
    red_polygons, red_valid = red_lights(scene, set(route_lanes(lane_map, raw_route)))
    map_polygons, map_layers, map_on_route = drivable_map(lane_map, center, set(lanes))
    traffic = objects(scene)
    result = PreparedScene(
        token=scene.token,
        log_name=scene.log_name,
        map_name=scene.map_name,
        time_us=int(scene.time_us[NOW]),
        ego_state=states[NOW],
        past_time_us=scene.time_us[:HISTORY].astype(np.int64),
        past_states=states,
        previous_time_us=int(scene.time_us[NOW - 1]) if scene.previous_token is not None else -1,
        previous_state=states[NOW - 1] if scene.previous_token is not None else np.zeros(7),
        object_types=traffic.types,
        object_first_speed=traffic.first_speed,
        object_boxes=traffic.boxes,
        object_valid=traffic.valid,
        red_polygons=red_polygons,
        red_valid=red_valid,
        map_polygons=map_polygons,
        map_layers=map_layers,
        map_on_route=map_on_route,
        centerline=centerline(lane_map, blocks, lanes, start),
        reference_poses=np.zeros((51, 3)),
        human_poses=np.zeros((POSES, 3)) if is_synthetic(scene.token) else human_poses(scene),
        reference_progress=0.0,
        reference_multiplier=0.0,
        human_zero=np.zeros(8, bool),
    )
    lit = dict(zip(("red_polygons", "red_valid"), red_lights(scene, set(lanes))))
    plan = reference_plan(replace(result, **lit), traffic.boxes_now, traffic.velocities_now, traffic.types_now, start.speed_limit)
    return completed(replace(result, reference_poses=plan))


def is_synthetic(token: str) -> bool:
    """Whether a scene is one of the second stage: it has no human, hence no human filter."""
    return len(token) == SYNTHETIC_TOKEN_LENGTH


def completed(scene: PreparedScene) -> PreparedScene:
    """The scene with what follows from the rest of it: objects clear of the ego at t0, progress of the reference, human filter.

    Args:
        scene: With all annotated objects.
    """
    first = frozen(scene.object_boxes[0], np.float64), frozen(scene.object_valid[0], np.bool_)
    kept = np.flatnonzero(~_overlapping(frozen(scene.ego_state[:3], np.float64), *first))
    scene = replace(
        scene,
        object_types=scene.object_types[kept],
        object_first_speed=scene.object_first_speed[kept],
        object_boxes=np.ascontiguousarray(scene.object_boxes[:, kept]),
        object_valid=np.ascontiguousarray(scene.object_valid[:, kept]),
    )
    progress, multiplier = reference_progress(scene)
    zero = np.zeros(8, bool) if is_synthetic(scene.token) else human_zeros(scene)
    return replace(scene, reference_progress=progress, reference_multiplier=multiplier, human_zero=zero)


def _outline(center: np.ndarray, heading: np.ndarray) -> shapely.Polygon:
    along, aside = 0.5 * LENGTH * heading, 0.5 * WIDTH * np.array([-heading[1], heading[0]])
    return shapely.Polygon([center + along + aside, center - along + aside, center - along - aside, center + along - aside])


def human_poses(scene: Scene) -> Float[np.ndarray, "8 3"]:
    """The logged future in the ego frame, one pose a frame whatever the frames' stamps say."""
    x, y, heading = scene.ego_poses[NOW]
    future = scene.ego_poses[HISTORY : HISTORY + POSES]
    cos, sin = np.cos(heading), np.sin(heading)
    dx, dy, turn = future[:, 0] - x, future[:, 1] - y, future[:, 2] - heading
    return np.column_stack([cos * dx + sin * dy, cos * dy - sin * dx, np.arctan2(np.sin(turn), np.cos(turn))])


def red_lights(scene: Scene, route_lane_ids: set[str]) -> tuple[Polygons, Bool[np.ndarray, "41 reds"]]:
    """Lane connectors of a route that are red, each frame's state held for its half second.

    The score takes the logged route's lanes here, the reference planner those of the corrected route.
    """
    frames = scene.traffic_lights[NOW : NOW + FRAMES]
    reds = [{connector for connector, is_red in frame if is_red and connector in route_lane_ids} for frame in frames]
    ids = sorted(set().union(*reds))
    valid = np.zeros((STEPS, len(ids)), bool)
    for step in range(STEPS):
        valid[step] = [connector in reds[step // STEPS_A_FRAME] for connector in ids]
    areas, lanes = scene.lane_map.areas, scene.lane_map.lanes
    layers = [LAYER_NAMES.index("lane_connector" if lanes[lane].is_connector else "lane") for lane in ids]
    places = np.array([scene.lane_map.area_index[layer, lane] for layer, lane in zip(layers, ids)], dtype=np.int64)
    check_polygons(scene.lane_map, places)
    return selected_polygons(areas.polygons, places), valid


def drivable_map(
    lane_map: LaneMap, center: Float[np.ndarray, "2"], route_lane_ids: set[str]
) -> tuple[Polygons, Int[np.ndarray, "polygons"], Bool[np.ndarray, "polygons"]]:
    """Roadblocks, their lanes, lane connectors, intersections and car parks that meet the square around the ego centre.

    Roadblock connectors themselves are no drivable area.

    Returns:
        Polygons, the layer of each (index into LAYER_NAMES) and whether it is a lane of the route.
    """
    areas, chosen = lane_map.areas, around(lane_map, center)
    layers = areas.layers[chosen]
    on_route = np.array([areas.ids[place] in route_lane_ids for place in chosen], dtype=bool) & (layers < LAYER_NAMES.index("roadblock"))
    return selected_polygons(areas.polygons, chosen), layers, on_route


def objects(scene: Scene) -> Traffic:
    """The annotated objects at 10 Hz: linear between observations, present from the first to the last of them.

    An object seen in only one frame of 0 .. 4 s stays at that one place for all steps, as the devkit has it. Type and size are
    those of the first observation; of two of one token in a frame, the one of the lower type is the first. Frames count as 0.5 s
    apart, whatever their stamps say. If a token stands twice in its first frame, the devkit's interpolation gives no number at that
    step: the object is absent there and counts as moving. So does one whose first or second velocity is unknown.
    """
    frames = scene.objects[NOW : NOW + FRAMES]
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(token, len(numbers)) for frame in frames for token in frame.track_tokens]
    frame_of = np.repeat(np.arange(FRAMES), [len(frame.types) for frame in frames])
    boxes, velocities = _global(scene, frames, frame_of)
    count = len(numbers)
    owner, kinds = np.array(rows, dtype=np.int64), np.concatenate([frame.types for frame in frames])
    by_type = np.lexsort((kinds, frame_of))
    present = by_type[frame_of[by_type] == 0]
    now = {"now": owner[present], "types_now": kinds[present], "boxes_now": boxes[present], "velocities_now": velocities[present]}
    order = np.lexsort((kinds, frame_of, owner))
    owner, frame_of, boxes, velocities, kinds = owner[order], frame_of[order], boxes[order], velocities[order], kinds[order]
    starts = np.searchsorted(owner, np.arange(count + 1))
    tracks, valid = np.zeros((STEPS, count, 5)), np.zeros((STEPS, count), bool)
    _fill_tracks(starts, frame_of, boxes, tracks, valid)
    first, second = starts[:-1], np.minimum(starts[:-1] + 1, starts[1:] - 1)
    first_speed = np.hypot(*velocities[first].T) if count else np.zeros(0)
    first_speed[~valid[STEPS_A_FRAME * frame_of[first], np.arange(count)] | np.isnan(velocities[first] + velocities[second]).any(1)] = (
        np.inf
    )
    return Traffic(
        types=kinds[first],
        first_speed=first_speed,
        boxes=tracks,
        valid=valid,
        **now,
    )


def _global(scene: Scene, frames: tuple, frame_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Global boxes (n, 5: x, y, heading, length, width) and velocities (n, 2) of all observations.

    The order of operations is the devkit's, the heading wrapped twice: it decides which way a box turns that flips by half a turn.
    """
    local = np.concatenate([frame.boxes for frame in frames])
    speeds = np.concatenate([frame.velocities for frame in frames])
    x, y, heading = scene.ego_poses[NOW : NOW + FRAMES][frame_of].T
    cos, sin = np.cos(heading), np.sin(heading)
    boxes = np.column_stack(
        [
            (cos * local[:, 0] - sin * local[:, 1]) + x,
            (sin * local[:, 0] + cos * local[:, 1]) + y,
            _wrapped(_wrapped(local[:, 6] + heading)),
            local[:, 3],
            local[:, 4],
        ]
    )
    return boxes, np.column_stack([cos * speeds[:, 0] - sin * speeds[:, 1], sin * speeds[:, 0] + cos * speeds[:, 1]])


def _wrapped(angles: np.ndarray) -> np.ndarray:
    return np.arctan2(np.sin(angles), np.cos(angles))


@no_type_check
@njit(cache=True, nogil=True)
def _turn(before, after):
    """The short way from one heading to another; of half a turn the sign counts, as in np.unwrap."""
    turn = after - before
    if abs(turn) < np.pi:
        return turn
    short = (turn + np.pi) % (2.0 * np.pi) - np.pi
    return np.pi if short == -np.pi and turn > 0.0 else short


@no_type_check
@njit(cache=True, nogil=True)
def _fill_tracks(starts, frame_of, boxes, tracks, valid):
    """Write each object's boxes at 10 Hz from its observations `starts[i]:starts[i + 1]`, sorted by frame."""
    for i in range(len(starts) - 1):
        first, last = starts[i], starts[i + 1] - 1
        if frame_of[first] == frame_of[last]:
            for step in range(STEPS):
                tracks[step, i] = boxes[first]
                valid[step, i] = True
            continue
        k, heading = first + 1, boxes[first, 2]
        turn = _turn(boxes[first, 2], boxes[k, 2])
        for step in range(STEPS_A_FRAME * frame_of[first], STEPS_A_FRAME * frame_of[last] + 1):
            while step > STEPS_A_FRAME * frame_of[k]:
                heading += turn
                k += 1
                turn = _turn(boxes[k - 1, 2], boxes[k, 2])
            span = 0.5 * (frame_of[k] - frame_of[k - 1])
            if span == 0.0:
                continue
            time = 0.1 * step - 0.5 * frame_of[k - 1]
            for column in range(2):
                tracks[step, i, column] = (boxes[k, column] - boxes[k - 1, column]) / span * time + boxes[k - 1, column]
            tracks[step, i, 2] = turn / span * time + heading
            tracks[step, i, 3] = boxes[first, 3]
            tracks[step, i, 4] = boxes[first, 4]
            valid[step, i] = True


@no_type_check
@njit(cache=True, nogil=True)
def _overlapping(pose, boxes, valid):
    """Which of the boxes (n, 5) touch the ego's outline at a rear-axle pose."""
    touching = np.zeros(len(boxes), dtype=np.bool_)
    ego, other = np.empty((4, 2)), np.empty((4, 2))
    x, y = pose[0] + REAR_AXLE_TO_CENTER * np.cos(pose[2]), pose[1] + REAR_AXLE_TO_CENTER * np.sin(pose[2])
    fill_box(x, y, pose[2], LENGTH, WIDTH, ego)
    for i in range(len(boxes)):
        if valid[i]:
            fill_box(boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], boxes[i, 4], other)
            touching[i] = boxes_touch(ego, other)
    return touching
