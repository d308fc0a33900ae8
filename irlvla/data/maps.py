"""nuPlan's map files (GeoPackage) -> LaneMap.

Source: motional/nuplan-devkit at nuplan-devkit-v1.2, nuplan/common/maps/nuplan_map (column names and graph edges).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from irlvla.data.geopackage import LINES, POLYGONS, Layer, geopackage_layers
from irlvla.files import json_mapping, short
from irlvla.lanes import DrawnLines, Lane, LaneMap, Roadblock, baseline, drawn_lines, lane_map

READ_LAYERS = {
    "lanes_polygons": (("lane_group_fid", "speed_limit_mps"), POLYGONS),
    "lane_connectors": (("exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid", "speed_limit_mps"), None),
    "gen_lane_connectors_scaled_width_polygons": (("lane_connector_fid",), POLYGONS),
    "lane_groups_polygons": ((), POLYGONS),
    "lane_group_connectors": (("from_lane_group_fid", "to_lane_group_fid"), POLYGONS),
    "baseline_paths": (("lane_fid", "lane_connector_fid"), LINES),
    "intersections": ((), POLYGONS),
    "carpark_areas": ((), POLYGONS),
    "meta": (("key", "value"), None),
}
"""Layer -> its columns and kind of geometry that are read; the lines of lane connectors are not used."""
DRAWN_LAYERS = {
    "boundaries": ((), LINES),
    "lanes_polygons": (("left_boundary_fid", "right_boundary_fid"), None),
    "crosswalks": ((), POLYGONS),
    "stop_polygons": ((), POLYGONS),
}
"""The same for what is only drawn: a map is one without these, too."""
NEEDED_LAYERS = (*READ_LAYERS, "boundaries", "stop_polygons")
"""The devkit loads boundaries and stop polygons without using them: a map without them is none."""
ALIASES = {"las_vegas": "us-nv-las-vegas-strip"}
"""Old names of cities that some logs still have."""
_NO_LINE = np.zeros((0, 3))


def map_path(maps: str | Path, name: str) -> Path:
    """Where a city's map file lies below a NUPLAN_MAPS_ROOT.

    Raises:
        ValueError: No nuplan-maps-v1.0.json, a city that it does not list, or no such file.
    """
    index = Path(maps) / "nuplan-maps-v1.0.json"
    if not index.is_file():
        raise ValueError(f"{maps} is no NUPLAN_MAPS_ROOT: it has no {index.name}")
    cities = json_mapping(index)
    name = ALIASES.get(name, name)
    if name not in cities:
        raise ValueError(f"{index}: no map {short(name)}; it lists {', '.join(sorted(cities))[:500]}")
    if not isinstance(cities[name], dict) or not isinstance(cities[name].get("version"), str):
        raise ValueError(f"{index}: map {short(name)} has no version")
    # Both become part of a path: nothing but plain names may.
    wrong = [part for part in (name, cities[name]["version"]) if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", part)]
    if wrong:
        raise ValueError(f"{index}: map {short(name)} has the name or version {short(wrong[0])}, no name of a folder")
    path = Path(maps) / name / cities[name]["version"] / "map.gpkg"
    if not path.is_file():
        raise ValueError(f"map {name}: {path} does not exist")
    return path


def city_map(maps: str | Path, name: str) -> LaneMap:
    """Read one city's map.

    Args:
        maps: A NUPLAN_MAPS_ROOT.
        name: One of its cities, e.g. "us-nv-las-vegas-strip".

    Returns:
        Lanes, roadblocks and areas in the city's projected frame, m.

    Raises:
        ValueError: A file, layer, column or the projection is missing or not readable; the message names it.
    """
    path = map_path(maps, name)
    layers = geopackage_layers(path, NEEDED_LAYERS, READ_LAYERS)
    projection = _projection(path, layers["meta"])
    layers = {name: _projected(path, name, layer, projection) for name, layer in layers.items()}
    lines = _lines(path, layers["baseline_paths"])
    lanes = _lanes(path, layers, lines)
    return lane_map(
        name,
        lanes,
        _roadblocks(path, layers),
        list(zip(layers["intersections"].ids, layers["intersections"].geometries)),
        list(zip(layers["carpark_areas"].ids, layers["carpark_areas"].geometries)),
        _drawn(path, lanes, projection),
    )


def _drawn(path: Path, lanes: list[Lane], projection: str) -> DrawnLines:
    """The lines of a city: of the boundaries those beside lanes, since those of connectors are not painted on any road."""
    lacking = []

    def layer(name: str) -> Layer | None:
        try:
            found = geopackage_layers(path, (name,), {name: DRAWN_LAYERS[name]})[name]
            return found if DRAWN_LAYERS[name][1] is None else _projected(path, name, found, projection)
        except ValueError as error:
            lacking.append(str(error))
            return None

    boundaries, owners, crosswalks, stops = (layer(name) for name in DRAWN_LAYERS)
    if boundaries is not None and owners is not None:
        beside = {str(fid) for column in owners.columns.values() for fid in column if isinstance(fid, int | float | str)}
        beside |= {fid.removesuffix(".0") for fid in beside}
        chosen = [fid in beside for fid in boundaries.ids]
        boundaries = replace(boundaries, geometries=boundaries.geometries[chosen])
    return drawn_lines(
        lanes,
        None if boundaries is None or not len(boundaries.geometries) else boundaries.geometries,
        () if crosswalks is None else crosswalks.geometries,
        () if stops is None else stops.geometries,
        lacking,
    )


class Maps:
    """Cities read so far: each map file is opened once and shared by all scenes."""

    def __init__(self, root: str | Path) -> None:
        self._root, self._known, self._failed = root, dict[str, LaneMap](), dict[str, str]()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reads the files itself.
        return Maps, (self._root,)

    def __iter__(self) -> Iterator[LaneMap]:
        return iter(self._known.values())

    def __getitem__(self, name: str) -> LaneMap:
        if name in self._failed:
            raise ValueError(self._failed[name])
        if name not in self._known:
            try:
                self._known[name] = city_map(self._root, name)
            except ValueError as error:
                self._failed[name] = str(error)
                raise
        return self._known[name]


def _projection(path: Path, meta: Layer) -> str:
    """The code of the projected frame that the layer `meta` names, such as EPSG:32611."""
    table = dict(zip((str(key) for key in meta.columns["key"]), meta.columns["value"]))
    if "projectedCoordSystem" not in table:
        raise ValueError(f"{path}: layer meta has no key projectedCoordSystem")
    return str(table["projectedCoordSystem"])


def _projected(path: Path, name: str, layer: Layer, projection: str) -> Layer:
    """A layer with its geometries in the projected frame, m."""
    transform = _transform(path, layer.projection, projection)
    if not len(layer.geometries):
        return layer
    points = shapely.get_coordinates(layer.geometries)
    moved = np.column_stack(transform.transform(points[:, 0], points[:, 1]))
    wrong = np.flatnonzero(~np.isfinite(moved).all(axis=1))
    if len(wrong):
        raise ValueError(f"{path}: layer {name} leaves the area of its projection, with {points[wrong[0]]}")
    return replace(layer, geometries=shapely.set_coordinates(layer.geometries, moved))


def _transform(path: Path, source: str, target: str) -> Transformer:
    # Only codes: other ways to name a reference system make PROJ open the files that they name.
    systems = []
    for what, code in (("reference system", source), ("projectedCoordSystem", target)):
        if not re.fullmatch(r"[A-Za-z]{1,12}:[0-9]{1,9}", code):
            raise ValueError(f"{path}: {what} {code[:80]!r} is no code such as EPSG:32611")
        try:
            systems.append(CRS.from_user_input(code))
        except CRSError as error:
            raise ValueError(f"{path}: {what} {code!r} is unknown ({error})") from error
    if not systems[1].is_projected:
        raise ValueError(f"{path}: projectedCoordSystem {target!r} is no projection")
    return Transformer.from_crs(*systems, always_xy=True)


def _ids(path: Path, name: str, layer: Layer, column: str) -> list[str | None]:
    """A column of feature ids as strings, None where it is null."""
    return [_id(path, name, fid, column, value) for fid, value in zip(layer.ids, layer.columns[column])]


def _id(path: Path, name: str, fid: str, column: str, value: Any) -> str | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bytes) or (isinstance(value, float) and np.isinf(value)) or (isinstance(value, str) and len(value) > 64):
        raise ValueError(f"{path}: layer {name}, fid {fid}: {column} is {short(value)}, no id")
    try:
        return str(int(value))
    except ValueError:
        return value


def _names(path: Path, name: str, layer: Layer, column: str) -> list[str]:
    """The ids of a column as the devkit names them: one gap makes a whole column of numbers floats, which match no id ("12.0")."""
    ids, values = _ids(path, name, layer, column), layer.columns[column]
    has_points = all(value is None or isinstance(value, int | float) for value in values) and not all(isinstance(v, int) for v in values)
    return [str(fid) if fid is None or not has_points else f"{fid}.0" for fid in ids]


def _limits(path: Path, name: str, layer: Layer) -> list[float | None]:
    """Speed limits of a layer, m/s, None where there is none."""
    limits: list[float | None] = []
    for fid, value in zip(layer.ids, layer.columns["speed_limit_mps"]):
        try:
            limit = None if value is None or np.isnan(float(value)) else float(value)
        except ValueError:
            limit = np.inf
        if limit is not None and not 0.0 <= limit < np.inf:
            raise ValueError(f"{path}: layer {name}, fid {fid}: speed_limit_mps is {short(value)}, no speed")
        limits.append(limit)
    return limits


def _lines(path: Path, layer: Layer) -> dict[str, np.ndarray]:
    """Baseline of each lane and lane connector, by its id; empty where there are several or where it has no length."""
    lines: dict[str, np.ndarray] = {}
    owners = zip(_ids(path, "baseline_paths", layer, "lane_fid"), _ids(path, "baseline_paths", layer, "lane_connector_fid"))
    for owners_of_line, geometry in zip(owners, layer.geometries):
        points = shapely.get_coordinates(geometry)
        for owner in owners_of_line:
            if owner is not None:
                is_usable = owner not in lines and shapely.length(geometry) > 0.0
                lines[owner] = baseline(points) if is_usable else _NO_LINE
    return lines


def _lanes(path: Path, layers: dict[str, Layer], lines: dict[str, np.ndarray]) -> list[Lane]:
    """Lanes and lane connectors; what lacks a line or a polygon keeps an empty one, for the scenes that need it to complain."""
    name = "lane_connectors"
    connectors, shapes, lanes = layers[name], layers["gen_lane_connectors_scaled_width_polygons"], layers["lanes_polygons"]
    before, after = _ids(path, name, connectors, "exit_lane_fid"), _ids(path, name, connectors, "entry_lane_fid")
    incoming, outgoing = defaultdict(list), defaultdict(list)
    for connector, from_lane, to_lane in zip(connectors.ids, before, after):
        outgoing[from_lane].append(connector)
        incoming[to_lane].append(connector)
    polygons: dict[str | None, shapely.Geometry] = {}
    for owner, polygon in zip(_ids(path, "gen_lane_connectors_scaled_width_polygons", shapes, "lane_connector_fid"), shapes.geometries):
        polygons[owner] = shapely.Polygon() if owner in polygons else polygon
    result = [
        Lane(
            id=fid,
            is_connector=False,
            roadblock_id=block,
            speed_limit=limit,
            polygon=polygon,
            baseline=lines.get(fid, _NO_LINE),
            incoming=tuple(incoming[fid]),
            outgoing=tuple(outgoing[fid]),
        )
        for fid, block, limit, polygon in zip(
            lanes.ids,
            _names(path, "lanes_polygons", lanes, "lane_group_fid"),
            _limits(path, "lanes_polygons", lanes),
            lanes.geometries,
        )
    ]
    return result + [
        Lane(
            id=fid,
            is_connector=True,
            roadblock_id=block,
            speed_limit=limit,
            polygon=polygons.get(fid, shapely.Polygon()),
            baseline=lines.get(fid, _NO_LINE),
            incoming=(from_lane,),
            outgoing=(to_lane,),
        )
        for fid, block, limit, from_lane, to_lane in zip(
            connectors.ids,
            _names(path, name, connectors, "lane_group_connector_fid"),
            _limits(path, name, connectors),
            _names(path, name, connectors, "exit_lane_fid"),
            _names(path, name, connectors, "entry_lane_fid"),
        )
    ]


def _roadblocks(path: Path, layers: dict[str, Layer]) -> list[Roadblock]:
    links, blocks = layers["lane_group_connectors"], layers["lane_groups_polygons"]
    before = _ids(path, "lane_group_connectors", links, "from_lane_group_fid")
    after = _ids(path, "lane_group_connectors", links, "to_lane_group_fid")
    incoming, outgoing, inside = defaultdict(list), defaultdict(list), defaultdict(list)
    for link, from_block, to_block in zip(links.ids, before, after):
        outgoing[from_block].append(link)
        incoming[to_block].append(link)
    for name, column, is_connector in (("lanes_polygons", "lane_group_fid", False), ("lane_connectors", "lane_group_connector_fid", True)):
        for lane, block in zip(layers[name].ids, _ids(path, name, layers[name], column)):
            inside[block, is_connector].append(lane)
    result = [
        Roadblock(
            id=fid,
            is_connector=False,
            polygon=polygon,
            lane_ids=tuple(inside[fid, False]),
            incoming=tuple(incoming[fid]),
            outgoing=tuple(outgoing[fid]),
        )
        for fid, polygon in zip(blocks.ids, blocks.geometries)
    ]
    return result + [
        Roadblock(
            id=fid,
            is_connector=True,
            polygon=polygon,
            lane_ids=tuple(inside[fid, True]),
            incoming=(from_block,),
            outgoing=(to_block,),
        )
        for fid, polygon, from_block, to_block in zip(
            links.ids,
            links.geometries,
            _names(path, "lane_group_connectors", links, "from_lane_group_fid"),
            _names(path, "lane_group_connectors", links, "to_lane_group_fid"),
        )
    ]
