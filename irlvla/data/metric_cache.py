"""The devkit's metric cache on disk -> prepared scenes, as far as the cache itself says.

Source: autonomousvision/navsim at 0a380a9, navsim/planning/metric_caching/metric_cache.py and metric_cache_processor.py,
planning/simulation/planner/pdm_planner/observation.
"""

import lzma
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Bool, Int

from irlvla.data import tracks
from irlvla.data.frames import FARTHEST, numbers
from irlvla.data.maps import ALIASES
from irlvla.data.pickles import BAD_PICKLE, Made, arguments_of, state_of, unpickled
from irlvla.files import short
from irlvla.lanes import flat_polygons
from irlvla.types import HISTORY, LAYER_NAMES, POSES, STEPS, SYNTHETIC_TOKEN_LENGTH, Objects, Polygons, PreparedScene

FILE = "metric_cache.pkl"
LARGEST = 1 << 28
"""Bytes of an unpacked cache; those of dense scenes have 10 million."""
_PDM = "navsim.planning.simulation.planner.pdm_planner"
CLASSES = (
    *tracks.CLASSES,
    "navsim.common.dataclasses.Trajectory", "navsim.common.enums.SceneFrameType",
    "navsim.planning.metric_caching.metric_cache.MetricCache", "navsim.planning.metric_caching.metric_cache.MapParameters",
    f"{_PDM}.observation.pdm_observation.PDMObservation", f"{_PDM}.observation.pdm_occupancy_map.PDMOccupancyMap",
    f"{_PDM}.observation.pdm_occupancy_map.PDMDrivableMap", f"{_PDM}.utils.pdm_path.PDMPath",
)  # fmt: skip
"""All that a metric cache may hold beside plain values and arrays."""
LAYERS = {0: "lane", 11: "lane_connector", 17: "roadblock", 1: "intersection", 15: "carpark"}
"""nuPlan's number of a map layer -> our name."""
RED_LIGHT = "red_light_"
"""How the tokens of red lights begin."""
REFERENCE_POSES = 51
LONGEST_PLAN = 1e4
"""No reference plan leads farther away, m."""


def metric_cache_paths(folder: str | Path) -> dict[str, Path]:
    """Scene token -> file of all caches below a folder, by path; the token is the name of the file's folder, as the devkit has it.

    Raises:
        ValueError: There are none, or two of one scene.
    """
    paths: dict[str, Path] = {}
    for path in sorted(Path(folder).glob(f"**/{FILE}")):
        if path.parent.name in paths:
            raise ValueError(f"two metric caches of scene {path.parent.name}: {paths[path.parent.name]} and {path}")
        paths[path.parent.name] = path
    if not paths:
        raise ValueError(f"{folder} holds no metric caches: no file {FILE} lies below it")
    return paths


def cached_scene(path: str | Path) -> tuple[PreparedScene, Objects]:
    """The scene of a metric cache, not yet ready to score, and the objects annotated at t0 (global), which are the scene's first.

    Progress of the reference and the human filter are missing.

    Its objects are all that are annotated, those that overlap the ego at t0 included (`irlvla.score.prepared.completed` does the
    rest). The previous state, which EC compares with, is that of 0.5 s before; whether the log has a whole scene there the cache
    does not say. A synthetic scene has no human: its plan is zeros.

    Args:
        path: The file.

    Raises:
        ValueError: The file is missing, damaged, names a class that is not listed, or lacks what scoring needs.
    """
    path = Path(path)
    try:
        values = unpickled(_unpacked(path), CLASSES)
    except OSError as error:
        raise ValueError(f"metric cache {path} cannot be read: {error.strerror or error}") from error
    except (lzma.LZMAError, *BAD_PICKLE) as error:
        raise ValueError(f"metric cache {path}: not a readable cache ({type(error).__name__}: {str(error)[:200]})") from error
    try:
        return _scene(path, state_of(values, "MetricCache"))
    except (ValueError, LookupError, TypeError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"metric cache {path} cannot be used: {error}") from error


def _unpacked(path: Path) -> bytes:
    decompressor = lzma.LZMADecompressor(memlimit=LARGEST)
    content = decompressor.decompress(path.read_bytes(), LARGEST)
    if not decompressor.eof:
        raise EOFError(f"it ends too early, or unpacks to more than {LARGEST} bytes")
    return content


def _scene(path: Path, values: dict[str, Any]) -> tuple[PreparedScene, Objects]:
    token = path.parent.name
    now_us, ego = tracks.ego_state(values.get("ego_state"))
    past = tracks.ego_states(values.get("past_human_trajectory"))[-HISTORY:]
    if len(past) != HISTORY or past[-1][0] != now_us or any(one[0] >= two[0] for one, two in zip(past, past[1:])):
        raise ValueError(f"its past has the times {[time for time, _ in past]} us, not {HISTORY} that end at {now_us} us")
    reference = np.array([state[:3] for _, state in tracks.ego_states(values.get("trajectory"))])
    if len(reference) != REFERENCE_POSES:
        raise ValueError(f"its reference plan has {len(reference)} poses, not {REFERENCE_POSES}")
    if np.abs(reference[:, :2] - ego[:2]).max() > LONGEST_PLAN:
        raise ValueError(f"its reference plan leads {np.abs(reference[:, :2] - ego[:2]).max()} m away")
    (path_poses,) = arguments_of(values.get("centerline"), "PDMPath", 1)
    centerline = np.array([tracks.pose(pose) for pose in tracks.items(path_poses, "centerline")]).reshape(-1, 3)
    human = values.get("human_trajectory")
    if (human is None) != (len(token) == SYNTHETIC_TOKEN_LENGTH):
        raise ValueError(f"with a token of {len(token)} letters it has {'no' if human is None else 'a'} human trajectory")
    human_poses = np.zeros((POSES, 3)) if human is None else numbers(state_of(human, "Trajectory"), "poses", (POSES, 3), FARTHEST)
    about = state_of(values.get("map_parameters"), "MapParameters").get("map_name")
    names = (values.get("log_name"), about)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"its log is {short(names[0])} and its map {short(names[1])}")
    map_name = ALIASES.get(str(about), str(about))
    red_polygons, red_valid = _reds(values.get("observation"))
    map_polygons, map_layers, map_on_route = _drivable_map(values)
    moments = _moments(values)
    scene = PreparedScene(
        token=token,
        log_name=str(names[0]),
        map_name=map_name,
        time_us=now_us,
        ego_state=ego,
        past_time_us=np.array([time for time, _ in past], dtype=np.int64),
        past_states=np.stack([state for _, state in past]),
        previous_time_us=past[-2][0],
        previous_state=past[-2][1],
        **_objects(moments),
        red_polygons=red_polygons,
        red_valid=red_valid,
        map_polygons=map_polygons,
        map_layers=map_layers,
        map_on_route=map_on_route,
        centerline=centerline,
        reference_poses=reference,
        human_poses=human_poses,
        reference_progress=0.0,
        reference_multiplier=0.0,
        human_zero=np.zeros(8, bool),
    )
    return scene, moments[0]


def _moments(values: dict[str, Any]) -> list[Objects]:
    """The objects at 10 Hz from t0 on."""
    moments = [*tracks.items(values.get("current_tracked_objects"), "current_tracked_objects")[:1]]
    moments += tracks.items(values.get("future_tracked_objects"), "future_tracked_objects")[: STEPS - 1]
    if len(moments) != STEPS:
        raise ValueError(f"it has objects at {len(moments)} moments, not {STEPS}")
    return [tracks.tracked_objects(moment) for moment in moments]


def _objects(moments: list[Objects]) -> dict[str, np.ndarray]:
    """The objects' part of a prepared scene: type, size and speed are those of where each first appears."""
    places: dict[str, int] = {}
    for some in moments:
        for token in some.track_tokens:
            places.setdefault(token, len(places))
    boxes, valid = np.zeros((STEPS, len(places), 5)), np.zeros((STEPS, len(places)), bool)
    types, first_speed = np.zeros(len(places), np.int64), np.zeros(len(places))
    known = np.zeros(len(places), bool)
    for step, some in enumerate(moments):
        rows = np.array([places[token] for token in some.track_tokens], dtype=np.int64)
        boxes[step, rows], valid[step, rows] = some.boxes[:, [0, 1, 6, 3, 4]], True
        new = ~known[rows]
        speeds = np.hypot(some.velocities[:, 0], some.velocities[:, 1])
        # Of an unknown velocity the devkit's comparison says that it is not that of a standing object.
        types[rows[new]], first_speed[rows[new]] = some.types[new], np.where(np.isnan(speeds[new]), np.inf, speeds[new])
        known[rows] = True
    return {"object_types": types, "object_first_speed": first_speed, "object_boxes": boxes, "object_valid": valid}


def _polygons(geometries: list[Any]) -> Polygons:
    contents = [arguments_of(geometry, "from_wkb", 1)[0] for geometry in geometries]
    if not all(isinstance(content, bytes) for content in contents):
        raise ValueError("a polygon is no bytes")
    shapes = shapely.from_wkb(np.array(contents, dtype=object))
    kinds = {shape.geom_type for shape in shapes} - {"Polygon", "MultiPolygon"}
    if kinds:
        raise ValueError(f"a {kinds.pop()} stands where a polygon belongs")
    coordinates = np.abs(shapely.get_coordinates(shapes))
    # Of NaN the comparison is false as well.
    if not (coordinates <= FARTHEST).all():
        raise ValueError(f"a polygon has a vertex at {coordinates.max()}, no place on a map")
    return flat_polygons(list(shapes))


def _geometries(value: Any, name: str, tokens: list[Any]) -> list[Any]:
    if not isinstance(value, list | np.ndarray) or len(value) != len(tokens):
        raise ValueError(f"the geometries of a {name} are {short(value)}, not a list of {len(tokens)}")
    return list(value)


def _reds(observation: Any) -> tuple[Polygons, Bool[np.ndarray, "41 reds"]]:
    """Lane connectors that are red at some step, from the occupancy maps in which the devkit keeps them beside the objects."""
    maps = tracks.items(state_of(observation, "PDMObservation").get("_occupancy_maps"), "_occupancy_maps")
    if len(maps) != STEPS:
        raise ValueError(f"its observation has {len(maps)} steps, not {STEPS}")
    polygons: dict[str, Made] = {}
    steps: list[set[str]] = []
    for occupancy in maps:
        tokens, geometries = arguments_of(occupancy, "PDMOccupancyMap", 2)
        tokens = tracks.items(tokens, "the tokens of an occupancy map")
        shapes = _geometries(geometries, "PDMOccupancyMap", tokens)
        reds = {token: shape for token, shape in zip(tokens, shapes) if isinstance(token, str) and token.startswith(RED_LIGHT)}
        for token, shape in reds.items():
            polygons.setdefault(token, shape)
        steps.append(set(reds))
    names = sorted(polygons)
    valid = np.array([[name in step for name in names] for step in steps], dtype=bool).reshape(STEPS, len(names))
    return _polygons([polygons[name] for name in names]), valid


def _drivable_map(values: dict[str, Any]) -> tuple[Polygons, Int[np.ndarray, "polygons"], Bool[np.ndarray, "polygons"]]:
    tokens, kinds, geometries = arguments_of(values.get("drivable_area_map"), "PDMDrivableMap", 3)
    tokens, kinds = tracks.items(tokens, "the tokens of the map"), tracks.items(kinds, "the layers of the map")
    numbers_of_layers = [arguments_of(kind, "SemanticMapLayer", 1)[0] for kind in kinds]
    unknown = [kind for kind in numbers_of_layers if kind not in LAYERS]
    if unknown or len(kinds) != len(tokens):
        raise ValueError(
            f"its map has {len(tokens)} polygons in {len(kinds)} layers, of them unknown {short(unknown[0]) if unknown else 0}"
        )
    layers = np.array([LAYER_NAMES.index(LAYERS[kind]) for kind in numbers_of_layers], dtype=np.int64)
    route = {lane for lane in tracks.items(values.get("route_lane_ids"), "route_lane_ids") if isinstance(lane, str)}
    on_route = np.array([isinstance(token, str) and token in route for token in tokens], dtype=bool)
    polygons = _polygons(_geometries(geometries, "PDMDrivableMap", tokens))
    return polygons, layers, on_route & (layers < LAYER_NAMES.index("roadblock"))
