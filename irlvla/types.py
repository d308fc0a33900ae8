"""The data that flows through the project: frozen classes, checked at the door, that compute nothing.

Poses are (x, y, heading) in m and rad at the rear axle. "Global" is the map's projected frame (UTM, m). Arrays that come
from disk may be read-only memory maps; nobody writes into them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

CAMERA_NAMES = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")
OBJECT_NAMES = ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object")
"""nuPlan's object names in OpenScene logs; an object's type is its index here. The first three move by themselves."""
OBJECT_GROUP_NAMES = ("vehicle", "pedestrian", "bicycle", "other")
"""Classes that detection tokens tell apart."""
OBJECT_GROUPS = (0, 1, 2, 3, 3, 3, 3)
"""Group of each of OBJECT_NAMES: what does not move by itself is "other", too rare and too small to be told apart by kind."""
COMMAND_NAMES = ("left", "straight", "right", "unknown")
LAYER_NAMES = ("lane", "lane_connector", "roadblock", "intersection", "carpark")
"""Layers of the drivable map that the score distinguishes; a polygon's layer is its index here."""
LINE_NAMES = ("centre", "boundary", "crossing", "stop")
"""What a line of the map is: a lane's centre line, a lane's edge, the outline of a crosswalk, a stop line."""
SUB_SCORE_NAMES = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec")
COLUMN_NAMES = {
    "nc": "no_at_fault_collisions",
    "dac": "drivable_area_compliance",
    "ddc": "driving_direction_compliance",
    "tlc": "traffic_light_compliance",
    "ep": "ego_progress",
    "ttc": "time_to_collision_within_bound",
    "lk": "lane_keeping",
    "hc": "history_comfort",
    "ec": "two_frame_extended_comfort",
}
"""Short name -> NAVSIM's column name: the only place that knows both."""

POSES = 8
"""Poses of a plan at 2 Hz: 0.5 s .. 4.0 s."""
STEPS = 41
"""Simulated states of a plan at 10 Hz: 0.0 s .. 4.0 s."""
HISTORY = 4
"""Frames of history at 2 Hz, the current one included."""
SYNTHETIC_TOKEN_LENGTH = 17
"""Letters of a synthetic scene's token; those of logged ones have 16, and by that alone the devkit tells them apart."""
ELEMENTS = 32
"""Boxes, and lines, of a moment's elements."""
LINE_POINTS = 10
"""Points of a line of the map."""


def _check_finite(where: str, name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: {name} holds values that are not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Polygons:
    """Many polygons in flat arrays. Polygon i has the rings `ring_start[polygon_start[i]:polygon_start[i + 1] + 1]`.

    Rings are not closed (the first vertex is not repeated). A point is inside by the even-odd rule over all rings of a
    polygon, which covers holes and multi-polygons alike.
    """

    vertices: Float[np.ndarray, "vertices 2"]
    ring_start: Int[np.ndarray, "rings_and_end"]
    polygon_start: Int[np.ndarray, "polygons_and_end"]

    def __post_init__(self) -> None:
        if self.ring_start[0] != 0 or self.ring_start[-1] != len(self.vertices):
            raise ValueError(f"rings cover vertices {self.ring_start[0]}..{self.ring_start[-1]} of {len(self.vertices)}")
        if self.polygon_start[0] != 0 or self.polygon_start[-1] != len(self.ring_start) - 1:
            raise ValueError(f"polygons cover rings up to {self.polygon_start[-1]} of {len(self.ring_start) - 1}")

    def __len__(self) -> int:
        return len(self.polygon_start) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Annotated road users of one 2 Hz frame. Boxes: x, y, z, length, width, height, heading in the ego frame of that frame."""

    track_tokens: tuple[str, ...]
    types: Int[np.ndarray, "objects"]
    boxes: Float[np.ndarray, "objects 7"]
    velocities: Float[np.ndarray, "objects 3"]

    def __post_init__(self) -> None:
        if not len(self.track_tokens) == len(self.types) == len(self.boxes) == len(self.velocities):
            raise ValueError(f"objects: {len(self.track_tokens)} tokens, {len(self.types)} types, {len(self.boxes)} boxes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One picture of one camera: where it lies on disk and how it was taken.

    `rotation` and `translation` take camera points (x right, y down, z forward) to the lidar frame (OpenScene's
    sensor2lidar_*), `ego_from_lidar` (4, 4) takes those on to the ego frame.
    """

    name: str
    path: str
    intrinsics: Float[np.ndarray, "3 3"]
    distortion: Float[np.ndarray, "5"]
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    ego_from_lidar: Float[np.ndarray, "4 4"]

    def __post_init__(self) -> None:
        if self.name not in CAMERA_NAMES:
            raise ValueError(f"unknown camera {self.name!r}; known: {', '.join(CAMERA_NAMES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One window of a log: history frames (the last of them is "now"), future frames, and the city's map.

    Frame arrays run over history + future; `now` = HISTORY - 1 is the current frame's index. `lane_map` is shared by
    all scenes of a city (`irlvla.data.maps`, `irlvla.lanes.LaneMap`). `previous` is the frame before the window (0.5 s before
    its first frame), given only if the log has one; it lets the plan of 0.5 s ago see a full history.

    A scene without annotations, of a log that holds cameras only, has None for objects, traffic lights and lane map, an empty
    map name and no roadblocks.
    """

    token: str
    log_name: str
    map_name: str
    frame_tokens: tuple[str, ...]
    time_us: Int[np.ndarray, "frames"]
    ego_poses: Float[np.ndarray, "frames 3"]
    ego_velocities: Float[np.ndarray, "frames 2"]
    ego_accelerations: Float[np.ndarray, "frames 2"]
    commands: Int[np.ndarray, "frames 4"]
    roadblock_ids: tuple[str, ...]
    objects: tuple[Objects, ...] | None
    traffic_lights: tuple[tuple[tuple[str, bool], ...], ...] | None
    cameras: tuple[tuple[Camera, ...], ...]
    previous_token: str | None
    lane_map: Any

    def __post_init__(self) -> None:
        frames = len(self.time_us)
        if frames < HISTORY:
            raise ValueError(f"scene {self.token}: {frames} frames, {HISTORY} of history are needed")
        if self.frame_tokens[HISTORY - 1] != self.token:
            raise ValueError(f"scene {self.token}: the current frame is {self.frame_tokens[HISTORY - 1]}")
        if (self.objects is None) != (self.traffic_lights is None):
            lacking = "objects" if self.objects is None else "traffic lights"
            raise ValueError(f"scene {self.token}: {lacking} are missing; a scene without annotations has neither objects nor lights")
        if any(values is not None and len(values) != frames for values in (self.frame_tokens, self.objects, self.traffic_lights)):
            raise ValueError(f"scene {self.token}: frames, objects and traffic lights differ in number")
        _check_finite(f"scene {self.token}", "ego_poses", self.ego_poses)
        _check_finite(f"scene {self.token}", "ego_velocities", self.ego_velocities)
        _check_finite(f"scene {self.token}", "ego_accelerations", self.ego_accelerations)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactiveTraffic:
    """A scene's traffic as it takes part in a simulation: vehicles that drive along a lane, and all other objects.

    Everything is global, float64, at 10 Hz over STEPS. Unlike those of a PreparedScene the objects are all that is annotated at
    t0, also what overlaps the ego, and what is replayed later.
    """

    object_types: Int[np.ndarray, "objects"]
    object_first_speed: Float[np.ndarray, "objects"]
    """Speed where each object first appears in 0..4 s."""
    object_boxes: Float[np.ndarray, "41 objects 5"]
    """x, y, heading, length, width of each box's centre: of all objects at t0, of what is replayed at all steps."""
    object_valid: Bool[np.ndarray, "41 objects"]
    driver_objects: Int[np.ndarray, "drivers"]
    """Which objects are vehicles that drive along a lane, in the order in which they move."""
    driver_poses: Float[np.ndarray, "drivers 3"]
    """x, y, heading of each of them on its lane's centre line at t0."""
    driver_ways: Float[np.ndarray, "drivers"]
    """How far along its path each is at t0, m."""
    driver_speeds: Float[np.ndarray, "drivers"]
    driver_targets: Float[np.ndarray, "drivers"]
    """The speed that each would like to have, m/s."""
    path_start: Int[np.ndarray, "drivers_and_end"]
    path_points: Float[np.ndarray, "path_points 4"]
    """x, y, continuous heading, way of the points of all paths; driver i has `path_start[i]:path_start[i + 1]`."""
    parked_objects: Int[np.ndarray, "parked"]
    """Which objects are vehicles that stay where they are at t0, as long as nothing that moves touches them."""
    human_zero: Bool[np.ndarray, "8"]
    """Which of nc dac ddc tlc ep ttc lk hc are 0 for the human plan amid this traffic."""

    def __post_init__(self) -> None:
        _check_finite("reactive traffic", "driver_speeds", self.driver_speeds)
        _check_finite("reactive traffic", "path_points", self.path_points)
        if (np.diff(self.path_start) < 2).any():
            raise ValueError("reactive traffic: a path has fewer than 2 points")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedScene:
    """All that scoring one scene needs, precomputed: the counterpart of the devkit's metric cache.

    Everything is global, float64. Time runs at 10 Hz over STEPS. Objects that overlap the ego at t0 are already removed
    (log-replay traffic), ghosts (seen once) already repeated.
    """

    token: str
    log_name: str
    map_name: str
    time_us: int
    ego_state: Float[np.ndarray, "7"]
    """x, y, heading, vx, vy, ax, ay at t0: rear axle, velocities in the ego frame."""
    past_time_us: Int[np.ndarray, "4"]
    past_states: Float[np.ndarray, "4 7"]
    """Logged states at -1.5, -1.0, -0.5, 0 s (the last is `ego_state`)."""
    previous_time_us: int
    """Stamp of the frame before, -1 if the log has none."""
    previous_state: Float[np.ndarray, "7"]
    """State at the frame before, zeros if the log has none."""
    object_types: Int[np.ndarray, "objects"]
    object_first_speed: Float[np.ndarray, "objects"]
    """Speed where each object first appears in 0..4 s: what the devkit takes for "track stopped"."""
    object_boxes: Float[np.ndarray, "41 objects 5"]
    """x, y, heading, length, width of each box's centre at each step."""
    object_valid: Bool[np.ndarray, "41 objects"]
    red_polygons: Polygons
    """Lane connectors of the raw route that are red at some step."""
    red_valid: Bool[np.ndarray, "41 reds"]
    map_polygons: Polygons
    """The drivable map: everything within the 200 m square around the ego centre."""
    map_layers: Int[np.ndarray, "polygons"]
    map_on_route: Bool[np.ndarray, "polygons"]
    """Lanes and lane connectors whose id is in the corrected route's lanes."""
    centerline: Float[np.ndarray, "points 3"]
    reference_poses: Float[np.ndarray, "51 3"]
    """PDM-Closed's (unsimulated) plan, 0..5 s."""
    human_poses: Float[np.ndarray, "8 3"]
    """The logged future in the ego frame at 0.5 .. 4.0 s; zeros in a synthetic scene, which has none."""
    reference_progress: float
    """Raw progress of the simulated PDM-Closed plan along the centerline, m."""
    reference_multiplier: float
    """NC * DAC * DDC * TLC of that plan: EP ignores the reference where it is 0."""
    human_zero: Bool[np.ndarray, "8"]
    """Which of nc dac ddc tlc ep ttc lk hc are 0 for the human plan: the human filter sets these to 1."""
    reactive: ReactiveTraffic | str = (
        "it was prepared without (as scenes of a store, or of metric caches without maps, are): load it from logs and maps"
    )
    """The traffic that reacts to the ego, or why there is none."""

    def __post_init__(self) -> None:
        where = f"scene {self.token}"
        _check_finite(where, "ego_state", self.ego_state)
        _check_finite(where, "centerline", self.centerline)
        _check_finite(where, "human_poses", self.human_poses)
        if len(self.centerline) < 2:
            raise ValueError(f"{where}: the centerline has {len(self.centerline)} points, at least 2 are needed")
        if len(self.map_layers) != len(self.map_polygons) or len(self.red_valid[0]) != len(self.red_polygons):
            raise ValueError(f"{where}: polygons and their attributes differ in number")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePair:
    """What two-stage scoring takes together: a logged scene, the one 0.5 s before it, and the synthetic scenes that follow.

    `follow_ups` are pairs of tokens, 0.5 s apart like the logged ones and 4 s after them; the first of each pair follows `now`,
    the second `previous`.
    """

    now: str
    previous: str
    follow_ups: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not self.follow_ups:
            raise ValueError(f"scene {self.now}: no synthetic scene follows it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """The cameras behind the pictures of one moment (or a batch of moments), view by view.

    The ego frame is that of poses: origin at the rear axle, x forward, y left; z is up from the ground, which is taken for
    the plane z = 0. A view without a picture is not valid: its picture is black, its calibration zeros.
    """

    intrinsics: Float[np.ndarray, "*batch views 4"]
    """fx, fy, cx, cy: fx and cx as shares of the picture's width, fy and cy of its height, so that they hold at any size."""
    distortion: Float[np.ndarray, "*batch views 5"]
    """k1, k2, p1, p2, k3 of OpenCV's model; zeros for a pinhole camera."""
    ego_from_camera: Float[np.ndarray, "*batch views 3 4"]
    """Rotation and place, m: camera points (x right, y down, z forward) to the ego frame."""
    valid: Bool[np.ndarray, "*batch views"]

    def __post_init__(self) -> None:
        for name in ("intrinsics", "distortion", "ego_from_camera"):
            _check_finite("rig", name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements:
    """What annotations and map show around one moment (or a batch of moments), in its ego frame: targets of detection and map tokens.

    Everything lies in the area of the bird's-eye grid (`irlvla.data.features`). Places that hold nothing have the class or kind
    -1 and NaN; they come last.
    """

    boxes: Float[np.ndarray, "*batch 32 7"]
    """x, y of the centre (m), length, width (m), heading (rad), vx, vy (m/s along the ego's axes, not relative to its motion)."""
    classes: Int[np.ndarray, "*batch 32"]
    """Indices into OBJECT_NAMES."""
    lines: Float[np.ndarray, "*batch 32 10 2"]
    """Points evenly spaced along each line, m."""
    kinds: Int[np.ndarray, "*batch 32"]
    """Indices into LINE_NAMES."""

    def __post_init__(self) -> None:
        for name, kind, names, values in (
            ("classes", self.classes, OBJECT_NAMES, self.boxes),
            ("kinds", self.kinds, LINE_NAMES, self.lines.reshape(*self.lines.shape[:-2], 2 * LINE_POINTS)),
        ):
            if kind.size and not -1 <= kind.min() <= kind.max() < len(names):
                raise ValueError(f"elements: {name} has values {kind.min()} .. {kind.max()}, not -1 .. {len(names) - 1}")
            if not (np.isfinite(values).all(axis=-1) == (kind >= 0)).all():
                raise ValueError(f"elements: {name} and the numbers they belong to differ in what is there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a policy may see at one moment (or a batch of moments): nothing of the future, no map, no boxes.

    Images are RGB, `rig` says with which cameras they were taken. `ego_history` holds x, y, heading in the current ego frame, then
    vx, vy, ax, ay in the ego frame of each history frame (-1.5, -1.0, -0.5, 0 s). `command` is one-hot over COMMAND_NAMES.
    """

    images: UInt8[np.ndarray, "*batch views height width 3"]
    rig: Rig
    ego_history: Float[np.ndarray, "*batch 4 7"]
    command: Float[np.ndarray, "*batch 4"]

    def __post_init__(self) -> None:
        _check_finite("features", "ego_history", self.ego_history)
        if self.rig.valid.shape != self.images.shape[:-3]:
            raise ValueError(f"features: {self.images.shape[:-3]} pictures and {self.rig.valid.shape} cameras differ in number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """Proposals of one scene: rear-axle poses in the ego frame, t = 0 excluded. 8 poses at 2 Hz or 40 at 10 Hz."""

    poses: Float[np.ndarray, "proposals poses 3"]

    def __post_init__(self) -> None:
        shape = self.poses.shape
        if len(shape) != 3 or shape[1] not in (POSES, STEPS - 1) or shape[2] != 3:
            raise ValueError(f"trajectories have {POSES} poses (2 Hz) or {STEPS - 1} (10 Hz) of 3 numbers, not shape {shape}")
        _check_finite("trajectories", "poses", self.poses)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubScores:
    """The nine sub-scores of some trajectories, each in [0, 1]: measured (NumPy) or predicted (torch) alike.

    All arrays have one common shape. `ec_defined` is 1 where two consecutive plans exist, else 0, and `ec` is 0 there.
    """

    nc: Shaped[Any, "*trajectories"]
    dac: Shaped[Any, "*trajectories"]
    ddc: Shaped[Any, "*trajectories"]
    tlc: Shaped[Any, "*trajectories"]
    ep: Shaped[Any, "*trajectories"]
    ttc: Shaped[Any, "*trajectories"]
    lk: Shaped[Any, "*trajectories"]
    hc: Shaped[Any, "*trajectories"]
    ec: Shaped[Any, "*trajectories"]
    ec_defined: Shaped[Any, "*trajectories"]

    def __post_init__(self) -> None:
        for name in SUB_SCORE_NAMES:
            values = getattr(self, name)
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ValueError(f"sub-score {name} leaves [0, 1]: {values.min()} .. {values.max()}")
