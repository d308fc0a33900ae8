"""Towns written as nuPlan's map files: one GeoPackage a city, geometry in longitude and latitude."""

import errno
import json
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from irlvla.world.town import Lane, Town

CITIES = {
    "us-nv-las-vegas-strip": ("9.15.1915", "EPSG:32611", (664000.0, 3996000.0)),
    "us-ma-boston": ("9.12.1817", "EPSG:32619", (328500.0, 4689000.0)),
    "us-pa-pittsburgh-hazelwood": ("9.17.1937", "EPSG:32617", (587000.0, 4475000.0)),
    "sg-one-north": ("9.17.1964", "EPSG:32648", (364000.0, 143500.0)),
}
"""nuPlan's cities: map version, projection, and a place of the city in it."""
GEOGRAPHIC = "EPSG:4326"
DATE = "2021-01-01T00:00:00.000Z"
"""What the files say about when they were made: a constant, so that the same seed gives the same bytes."""


def _boundary_ids(lane: Lane) -> tuple[int, int]:
    """Ids of a lane's left and right boundary, in a range of their own."""
    return 1_000_000_000 + 2 * lane.fid, 1_000_000_001 + 2 * lane.fid


def _layers(towns: list[Town]) -> dict[str, tuple[str, list[int], list[shapely.Geometry], dict[str, list]]]:
    """Layer -> geometry type, ids, geometries in the city's frame, columns."""
    rows: dict[str, tuple[str, list[int], list, dict[str, list]]] = {}

    def add(layer: str, kind: str, fid: int, shape: shapely.Geometry, origin: np.ndarray, **columns: object) -> None:
        _, fids, shapes, table = rows.setdefault(layer, (kind, [], [], {name: [] for name in columns}))
        fids.append(fid)
        shapes.append(shapely.transform(shape, lambda points: points + origin))
        for name, value in columns.items():
            table[name].append(value)

    for town in towns:
        origin = town.origin
        for lane in town.lanes:
            left, right = _boundary_ids(lane)
            group = town.blocks[lane.block].fid
            add(
                "lanes_polygons",
                "Polygon",
                lane.fid,
                lane.polygon,
                origin,
                lane_fid=lane.fid,
                lane_group_fid=group,
                left_boundary_fid=left,
                right_boundary_fid=right,
                lane_index=lane.place,
                speed_limit_mps=lane.speed,
            )
        for link in town.connectors:
            left, right = _boundary_ids(link)
            stop = str(town.stop_lines[link.stop_line].fid) if link.stop_line >= 0 else ""
            group = town.block_connectors[link.block].fid
            add(
                "lane_connectors",
                "LineString",
                link.fid,
                shapely.LineString(link.line),
                origin,
                exit_lane_fid=town.lanes[link.before].fid,
                entry_lane_fid=town.lanes[link.after].fid,
                lane_group_connector_fid=group,
                speed_limit_mps=link.speed,
                traffic_light_stop_line_fids=stop,
            )
            add(
                "gen_lane_connectors_scaled_width_polygons",
                "Polygon",
                link.fid,
                link.polygon,
                origin,
                lane_connector_fid=link.fid,
                left_boundary_fid=left,
                right_boundary_fid=right,
            )
        for block in town.blocks:
            add("lane_groups_polygons", "Polygon", block.fid, block.polygon, origin)
        for block in town.block_connectors:
            add(
                "lane_group_connectors",
                "Polygon",
                block.fid,
                block.polygon,
                origin,
                from_lane_group_fid=town.blocks[block.before].fid,
                to_lane_group_fid=town.blocks[block.after].fid,
            )
        for lanes, own, other in ((town.lanes, "lane_fid", "lane_connector_fid"), (town.connectors, "lane_connector_fid", "lane_fid")):
            for lane in lanes:
                columns = {own: float(lane.fid), other: np.nan}
                add(
                    "baseline_paths",
                    "LineString",
                    lane.fid,
                    shapely.LineString(lane.line),
                    origin,
                    lane_fid=columns["lane_fid"],
                    lane_connector_fid=columns["lane_connector_fid"],
                )
                for fid, line in zip(_boundary_ids(lane), (lane.left, lane.right), strict=True):
                    add("boundaries", "LineString", fid, shapely.simplify(shapely.LineString(line), 0.05), origin, boundary_type_fid=0)
        for area in town.intersections:
            add("intersections", "Polygon", area.fid, area.polygon, origin, intersection_type_fid=area.kind)
        for area in town.stop_lines:
            add("stop_polygons", "Polygon", area.fid, area.polygon, origin, stop_polygon_type_fid=area.kind)
        for layer, areas in (("carpark_areas", town.parking), ("crosswalks", town.crosswalks), ("walkways", town.walkways)):
            for area in areas:
                add(layer, "Polygon", area.fid, area.polygon, origin)
    return rows


EMPTY_LAYERS = {
    "lanes_polygons": (
        "Polygon",
        {
            "lane_fid": int,
            "lane_group_fid": int,
            "left_boundary_fid": int,
            "right_boundary_fid": int,
            "lane_index": int,
            "speed_limit_mps": float,
        },
    ),
    "lane_connectors": (
        "LineString",
        {
            "exit_lane_fid": int,
            "entry_lane_fid": int,
            "lane_group_connector_fid": int,
            "speed_limit_mps": float,
            "traffic_light_stop_line_fids": object,
        },
    ),
    "gen_lane_connectors_scaled_width_polygons": (
        "Polygon",
        {"lane_connector_fid": int, "left_boundary_fid": int, "right_boundary_fid": int},
    ),
    "lane_groups_polygons": ("Polygon", {}),
    "lane_group_connectors": ("Polygon", {"from_lane_group_fid": int, "to_lane_group_fid": int}),
    "baseline_paths": ("LineString", {"lane_fid": float, "lane_connector_fid": float}),
    "boundaries": ("LineString", {"boundary_type_fid": int}),
    "intersections": ("Polygon", {"intersection_type_fid": int}),
    "stop_polygons": ("Polygon", {"stop_polygon_type_fid": int}),
    "carpark_areas": ("Polygon", {}),
    "crosswalks": ("Polygon", {}),
    "walkways": ("Polygon", {}),
    "generic_drivable_areas": ("Polygon", {}),
    "road_segments": ("Polygon", {}),
}
"""All layers that the devkit opens, in the order in which they are written, with their columns."""


def write_city(folder: Path, city: str, towns: list[Town]) -> Path:
    """Write the map file of one city and return its path; a city without towns gets empty layers.

    Raises:
        OSError: the file cannot be written.
    """
    version, projection, _ = CITIES[city]
    path = folder / city / version / "map.gpkg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        _write_layers(path, projection, towns)
    except (DataSourceError, DataLayerError, FeatureError) as error:
        # GDAL does not say why: a full disk is a table that is missing.
        raise OSError(errno.EIO, f"GDAL cannot write it, is the disk full? ({error})", str(path)) from error
    return path


def _write_layers(path: Path, projection: str, towns: list[Town]) -> None:
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": DATE, "OGR_SQLITE_SYNCHRONOUS": "OFF"})
    transformer = pyproj.Transformer.from_crs(projection, GEOGRAPHIC, always_xy=True)
    rows = _layers(towns)
    for layer, (kind, columns) in EMPTY_LAYERS.items():
        _, fids, shapes, table = rows.get(layer, (kind, [], [], {name: [] for name in columns}))
        shapes = shapely.transform(
            np.array(shapes, dtype=object), lambda points: np.stack(transformer.transform(points[:, 0], points[:, 1]), -1)
        )
        fields = ["fid", *columns]
        data = [np.array(fids, np.int64), *(np.array(table[name], dtype=kind_of) for name, kind_of in columns.items())]
        pyogrio.raw.write(
            path, shapely.to_wkb(shapes) if len(shapes) else np.zeros(0, object), data, np.array(fields, dtype=object), geometry_type=kind,
            layer=layer, driver="GPKG", crs=GEOGRAPHIC, append=path.exists(), layer_options={"SPATIAL_INDEX": "NO", "FID": "fid"},
        )  # fmt: skip
    meta = [np.array(["projectedCoordSystem"], object), np.array([projection], object)]
    pyogrio.raw.write(
        path,
        None,
        meta,
        np.array(["key", "value"], dtype=object),
        geometry_type=None,
        layer="meta",
        driver="GPKG",
        append=True,
        layer_options={"FID": "fid"},
    )


def write_index(folder: Path) -> None:
    """Write nuplan-maps-v1.0.json, which names each city's map version."""
    table = {city: {"version": version, "layers": {}} for city, (version, _, _) in CITIES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nuplan-maps-v1.0.json").write_text(json.dumps(table, indent=1) + "\n")
