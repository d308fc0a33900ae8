"""nuPlan's map files (GeoPackage) -> LaneMap.

Source: motional/nuplan-devkit at nuplan-devkit-v1.2, nuplan/common/maps/nuplan_map (column names and graph edges).
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyproj import Transformer
from pyproj.exceptions import CRSError

from irlvla.lanes import Lane, LaneMap, Roadblock, baseline, lane_map

READ_LAYERS = (
    "lanes_polygons",
    "lane_connectors",
    "gen_lane_connectors_scaled_width_polygons",
    "lane_groups_polygons",
    "lane_group_connectors",
    "baseline_paths",
    "intersections",
    "carpark_areas",
)
NEEDED_LAYERS = (*READ_LAYERS, "boundaries", "stop_polygons", "meta")
"""The devkit loads boundaries and stop polygons without using them: a map without them is none."""
ALIASES = {"las_vegas": "us-nv-las-vegas-strip"}
"""Old names of cities that some logs still have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    ids: list[str]
    geometries: np.ndarray
    columns: dict[str, np.ndarray]


def map_path(maps: str | Path, name: str) -> Path:
    """Where a city's map file lies below a NUPLAN_MAPS_ROOT.

    Raises:
        ValueError: No nuplan-maps-v1.0.json, a city that it does not list, or no such file.
    """
    index = Path(maps) / "nuplan-maps-v1.0.json"
    if not index.is_file():
        raise ValueError(f"{maps} is no NUPLAN_MAPS_ROOT: it has no {index.name}")
    try:
        cities = json.loads(index.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{index}: not JSON ({error})") from error
    if not isinstance(cities, dict):
        raise ValueError(f"{index}: holds no mapping of maps")
    name = ALIASES.get(name, name)
    if name not in cities:
        raise ValueError(f"{index}: no map {name!r}; it lists {', '.join(sorted(cities))}")
    if not isinstance(cities[name], dict) or not isinstance(cities[name].get("version"), str):
        raise ValueError(f"{index}: map {name!r} has no version")
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
    try:
        present = {str(row[0]) for row in pyogrio.list_layers(path)}
        missing = [layer for layer in NEEDED_LAYERS if layer not in present]
        if missing:
            raise ValueError(f"{path}: lacks the layers {', '.join(missing)}")
        transform = _transform(path)
        layers = {layer: _layer(path, layer, transform) for layer in READ_LAYERS}
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FieldError) as error:
        raise ValueError(f"{path}: not a readable GeoPackage ({error})") from error
    except shapely.errors.GEOSException as error:
        raise ValueError(f"{path}: holds a geometry that cannot be read ({error})") from error
    lines = _lines(path, layers["baseline_paths"])
    lanes = _lanes(path, layers, lines)
    return lane_map(
        name,
        lanes,
        _roadblocks(path, layers, lanes),
        list(zip(layers["intersections"].ids, layers["intersections"].geometries)),
        list(zip(layers["carpark_areas"].ids, layers["carpark_areas"].geometries)),
    )


class Maps:
    """Cities read so far: each map file is opened once and shared by all scenes."""

    def __init__(self, root: str | Path) -> None:
        self._root, self._known = root, dict[str, LaneMap]()

    def __getitem__(self, name: str) -> LaneMap:
        if name not in self._known:
            self._known[name] = city_map(self._root, name)
        return self._known[name]


def _transform(path: Path) -> Transformer | None:
    """From the file's lon/lat to the projected frame that its layer `meta` names."""
    meta, _, _, columns = pyogrio.raw.read(path, layer="meta", read_geometry=False)
    fields = {str(field): column for field, column in zip(meta["fields"], columns)}
    if not {"key", "value"} <= set(fields):
        raise ValueError(f"{path}: layer meta has the columns {sorted(fields)}, not key and value")
    table = dict(zip(fields["key"], fields["value"]))
    if "projectedCoordSystem" not in table:
        raise ValueError(f"{path}: layer meta has no key projectedCoordSystem")
    try:
        return Transformer.from_crs("EPSG:4326", table["projectedCoordSystem"], always_xy=True)
    except CRSError as error:
        raise ValueError(f"{path}: projectedCoordSystem {table['projectedCoordSystem']!r} is unknown ({error})") from error


def _layer(path: Path, layer: str, transform: Transformer) -> _Layer:
    """A layer's ids, geometries (in the projected frame) and columns; the lines of lane connectors are not used."""
    meta, fids, wkb, columns = pyogrio.raw.read(path, layer=layer, return_fids=True, read_geometry=layer != "lane_connectors")
    geometries = shapely.force_2d(shapely.from_wkb(wkb)) if wkb is not None else np.zeros(0, object)
    empty = shapely.is_missing(geometries) | shapely.is_empty(geometries)
    if empty.any():
        raise ValueError(f"{path}: layer {layer}, fid {fids[np.flatnonzero(empty)[0]]} has no geometry")
    source = str(meta["crs"]) if meta["crs"] else "EPSG:4326"
    if source != "EPSG:4326":
        transform = Transformer.from_crs(source, transform.target_crs, always_xy=True)
    if len(geometries):
        points = shapely.get_coordinates(geometries)
        geometries = shapely.set_coordinates(geometries, np.column_stack(transform.transform(points[:, 0], points[:, 1])))
    if not np.isfinite(shapely.get_coordinates(geometries)).all():
        raise ValueError(f"{path}: layer {layer} leaves the area of its projection")
    return _Layer(
        ids=[str(fid) for fid in fids], geometries=geometries, columns={str(name): column for name, column in zip(meta["fields"], columns)}
    )


def _column(path: Path, name: str, layer: _Layer, column: str) -> np.ndarray:
    if column not in layer.columns:
        raise ValueError(f"{path}: layer {name} lacks the column {column}")
    return layer.columns[column]


def _ids(path: Path, name: str, layer: _Layer, column: str) -> list[str | None]:
    """A column of feature ids as strings, None where it is null."""
    return [_id(value) for value in _column(path, name, layer, column)]


def _id(value: Any) -> str | None:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    try:
        return str(int(value))
    except ValueError:
        return str(value)


def _limit(value: Any) -> float | None:
    return None if value is None or np.isnan(float(value)) else float(value)


def _lines(path: Path, layer: _Layer) -> dict[str, np.ndarray]:
    """Baseline of each lane and lane connector, by its id."""
    lines: dict[str, np.ndarray] = {}
    owners = zip(_ids(path, "baseline_paths", layer, "lane_fid"), _ids(path, "baseline_paths", layer, "lane_connector_fid"))
    for owners_of_line, geometry in zip(owners, layer.geometries):
        points = shapely.get_coordinates(geometry)
        for owner in owners_of_line:
            if owner is not None and len(points) < 2:
                raise ValueError(f"{path}: layer baseline_paths has a line of {len(points)} points for lane {owner}")
            if owner is not None:
                lines.setdefault(owner, baseline(points))
    return lines


def _lanes(path: Path, layers: dict[str, _Layer], lines: dict[str, np.ndarray]) -> list[Lane]:
    name = "lane_connectors"
    connectors, shapes, lanes = layers[name], layers["gen_lane_connectors_scaled_width_polygons"], layers["lanes_polygons"]
    before, after = _ids(path, name, connectors, "exit_lane_fid"), _ids(path, name, connectors, "entry_lane_fid")
    incoming, outgoing = defaultdict(list), defaultdict(list)
    for connector, from_lane, to_lane in zip(connectors.ids, before, after):
        outgoing[from_lane].append(connector)
        incoming[to_lane].append(connector)
    polygons = dict(zip(_ids(path, "gen_lane_connectors_scaled_width_polygons", shapes, "lane_connector_fid"), shapes.geometries))
    for fid in (*lanes.ids, *connectors.ids):
        if fid not in lines:
            raise ValueError(f"{path}: layer baseline_paths has no line for lane {fid}")
    without = [fid for fid in connectors.ids if fid not in polygons]
    if without:
        raise ValueError(f"{path}: lane connector {without[0]} has no polygon")
    result = [
        Lane(
            id=fid,
            is_connector=False,
            roadblock_id=block,
            speed_limit=_limit(limit),
            polygon=polygon,
            baseline=lines[fid],
            incoming=tuple(incoming[fid]),
            outgoing=tuple(outgoing[fid]),
        )
        for fid, block, limit, polygon in zip(
            lanes.ids,
            _ids(path, "lanes_polygons", lanes, "lane_group_fid"),
            _column(path, "lanes_polygons", lanes, "speed_limit_mps"),
            lanes.geometries,
        )
    ]
    return result + [
        Lane(
            id=fid,
            is_connector=True,
            roadblock_id=block,
            speed_limit=_limit(limit),
            polygon=polygons[fid],
            baseline=lines[fid],
            incoming=(from_lane,),
            outgoing=(to_lane,),
        )
        for fid, block, limit, from_lane, to_lane in zip(
            connectors.ids,
            _ids(path, name, connectors, "lane_group_connector_fid"),
            _column(path, name, connectors, "speed_limit_mps"),
            before,
            after,
        )
    ]


def _roadblocks(path: Path, layers: dict[str, _Layer], lanes: list[Lane]) -> list[Roadblock]:
    links, blocks = layers["lane_group_connectors"], layers["lane_groups_polygons"]
    before = _ids(path, "lane_group_connectors", links, "from_lane_group_fid")
    after = _ids(path, "lane_group_connectors", links, "to_lane_group_fid")
    incoming, outgoing, inside = defaultdict(list), defaultdict(list), defaultdict(list)
    for link, from_block, to_block in zip(links.ids, before, after):
        outgoing[from_block].append(link)
        incoming[to_block].append(link)
    for lane in lanes:
        inside[lane.roadblock_id, lane.is_connector].append(lane.id)
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
        for fid, polygon, from_block, to_block in zip(links.ids, links.geometries, before, after)
    ]
