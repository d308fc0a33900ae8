"""Cities of a few straight roads, in memory and as map files, and logs that drive through them: input for tests of reading and preparing.

A road "7" is a roadblock 7 with one lane 107; a link "8" from road to road is a roadblock connector 8 with one lane connector 108.
"""

import json
import pickle

import numpy as np
import pyogrio
import pyproj
import shapely

from irlvla.lanes import Lane, Roadblock, baseline, lane_map
from irlvla.types import ELEMENTS, HISTORY, LINE_POINTS, Elements, Objects, Rig, Scene

CITY = "us-nv-las-vegas-strip"
PROJECTION = "EPSG:32611"
ORIGIN = np.array((664000.0, 3996000.0))
LENGTH = 50.0
ROADS = {"1": ((0.0, 0.0), (50.0, 0.0)), "2": ((60.0, 0.0), (110.0, 0.0)), "3": ((120.0, 0.0), (170.0, 0.0))}
LINKS = {"11": ("1", "2"), "12": ("2", "3")}


def lane_of(block):
    return str(100 + int(block))


def line(points):
    """Vertices every 5 m or more."""
    way = shapely.LineString(points)
    return np.array([way.interpolate(s).coords[0] for s in np.linspace(0.0, way.length, max(int(way.length / 5.0), 1) + 1)])


def strip(points):
    return shapely.LineString(points).buffer(2.0, cap_style="flat")


def lines(roads, links):
    """Block id -> vertices, for roads and links (a link runs from the end of its first road to the start of its second)."""
    return {fid: line(ends) for fid, ends in roads.items()} | {
        fid: line((roads[before][1], roads[after][0])) for fid, (before, after) in links.items()
    }


def placed(points, motion):
    x, y, heading = motion
    cos, sin = np.cos(heading), np.sin(heading)
    return points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def city(roads=ROADS, links=LINKS, intersections=(), carparks=(), motion=(0.0, 0.0, 0.0), limit=None, without_lanes=()):
    """A LaneMap; `motion` moves and turns it all."""
    ways = {fid: placed(points, motion) for fid, points in lines(roads, links).items()}
    lanes, blocks = [], []
    for fid in (*roads, *links):
        is_connector = fid in links
        if is_connector:
            before, after = ((links[fid][0],), (links[fid][1],))
        else:
            before = tuple(link for link, (_, end) in links.items() if end == fid)
            after = tuple(link for link, (start, _) in links.items() if start == fid)
        polygon = strip(ways[fid])
        inside = () if fid in without_lanes else (lane_of(fid),)
        blocks.append(Roadblock(id=fid, is_connector=is_connector, polygon=polygon, lane_ids=inside, incoming=before, outgoing=after))
        for lane in inside:
            edges = [tuple(lane_of(block) for block in some) for some in (before, after)]
            lanes.append(
                Lane(
                    id=lane, is_connector=is_connector, roadblock_id=fid, speed_limit=limit, polygon=polygon,
                    baseline=baseline(ways[fid]), incoming=edges[0], outgoing=edges[1],
                )
            )  # fmt: skip
    areas = [[(name, shapely.transform(area, lambda p: placed(p, motion))) for name, area in group] for group in (intersections, carparks)]
    return lane_map("tiny", lanes, blocks, *areas)


def rig(*batch, views=4, value=0.0):
    """Pinhole cameras of 90 degrees, 1.6 m above the ground, that look ahead; `value` moves them forward."""
    pose = np.array([[0, 0, 1, value], [-1, 0, 0, 0], [0, -1, 0, 1.6]], np.float32)
    return Rig(
        intrinsics=np.full((*batch, views, 4), 0.5, np.float32),
        distortion=np.zeros((*batch, views, 5), np.float32),
        ego_from_camera=np.broadcast_to(pose, (*batch, views, 3, 4)).copy(),
        valid=np.ones((*batch, views), bool),
    )


def elements(*batch, ahead=20.0):
    """A vehicle `ahead` (m) and the centre of the ego's lane, the same in all moments."""
    boxes, classes = np.full((*batch, ELEMENTS, 7), np.nan, np.float32), np.full((*batch, ELEMENTS), -1, np.int8)
    lines, kinds = np.full((*batch, ELEMENTS, LINE_POINTS, 2), np.nan, np.float32), np.full((*batch, ELEMENTS), -1, np.int8)
    boxes[..., 0, :], classes[..., 0] = (ahead, 0.0, 4.0, 2.0, 0.0, 3.0, 0.0), 0
    lines[..., 0, :, 0], lines[..., 0, :, 1], kinds[..., 0] = np.linspace(0.0, 18.0, LINE_POINTS), 0.0, 0
    return Elements(boxes=boxes, classes=classes, lines=lines, kinds=kinds)


def objects(*rows):
    """Objects of one frame from (token, type, x, y, heading, speed ahead); boxes are 4 m x 2 m."""
    boxes = [(x, y, 0.0, 4.0, 2.0, 1.5, heading) for _, _, x, y, heading, _ in rows]
    speeds = [(speed * np.cos(heading), speed * np.sin(heading), 0.0) for *_, heading, speed in rows]
    return Objects(
        track_tokens=tuple(row[0] for row in rows),
        types=np.array([row[1] for row in rows], dtype=np.int64),
        boxes=np.array(boxes, dtype=float).reshape(-1, 7),
        velocities=np.array(speeds, dtype=float).reshape(-1, 3),
    )


def scene(lanes=None, start=(10.0, 0.0, 0.0), speed=5.0, frames=12, future_objects=(), lights=(), route=("1", "11", "2"), previous=True):
    """A scene of an ego that drives straight on from `start` (its pose now); objects and lights are given from now on."""
    x, y, heading = start
    way = 0.5 * speed * (np.arange(frames) - (HISTORY - 1))
    tokens = tuple(f"{k:016x}" for k in range(frames))
    rest = frames - (HISTORY - 1) - len(future_objects)
    dark = frames - (HISTORY - 1) - len(lights)
    return Scene(
        token=tokens[HISTORY - 1],
        log_name="log",
        map_name="tiny",
        frame_tokens=tokens,
        time_us=1_600_000_000_000_000 + 500_000 * np.arange(frames),
        ego_poses=np.column_stack([x + way * np.cos(heading), y + way * np.sin(heading), np.full(frames, heading)]),
        ego_velocities=np.column_stack([np.full(frames, speed), np.zeros(frames)]),
        ego_accelerations=np.zeros((frames, 2)),
        commands=np.tile([0, 1, 0, 0], (frames, 1)),
        roadblock_ids=tuple(route),
        objects=(objects(),) * (HISTORY - 1) + tuple(future_objects) + (objects(),) * rest,
        traffic_lights=((),) * (HISTORY - 1) + tuple(lights) + ((),) * dark,
        cameras=((),) * HISTORY,
        previous_token="before" if previous else None,
        lane_map=city() if lanes is None else lanes,
    )


def table(roads=ROADS, links=LINKS, intersections=(), carparks=(), crosswalks=(), stops=()):
    """Layer -> (geometry type, ids, shapes, columns) of a map file, in local metres.

    Lane 107 has the boundaries 207 and 307, a connector 108 likewise; no lane refers to that of a connector.
    """
    ways = lines(roads, links)
    numbers = {fid: int(fid) for fid in ways}
    own = [int(lane_of(fid)) for fid in roads]
    joins = [int(lane_of(fid)) for fid in links]
    strips = {fid: strip(points) for fid, points in ways.items()}
    shapes = [strips[fid] for fid in roads]
    ends = list(links.values())
    edges = {
        int(fid) + number: shapely.LineString(ways[fid]).parallel_offset(side * 2.0)
        for fid in ways
        for number, side in ((200, 1), (300, -1))
    }
    return {
        "lanes_polygons": (
            "Polygon", own, shapes,
            {
                "lane_fid": own,
                "lane_group_fid": [numbers[fid] for fid in roads],
                "left_boundary_fid": [fid + 100 for fid in own],
                "right_boundary_fid": [fid + 200 for fid in own],
                "speed_limit_mps": [np.nan, *([13.4] * (len(own) - 1))],
            },
        ),
        "lane_connectors": (
            "LineString", joins, [shapely.LineString(ways[fid]) for fid in links],
            {
                "exit_lane_fid": [int(lane_of(before)) for before, _ in ends],
                "entry_lane_fid": [int(lane_of(after)) for _, after in ends],
                "lane_group_connector_fid": [numbers[fid] for fid in links],
                "speed_limit_mps": [np.nan] * len(links),
            },
        ),
        "gen_lane_connectors_scaled_width_polygons": ("Polygon", joins, [strips[fid] for fid in links], {"lane_connector_fid": joins}),
        "lane_groups_polygons": ("Polygon", [numbers[fid] for fid in roads], shapes, {}),
        "lane_group_connectors": (
            "Polygon", [numbers[fid] for fid in links], [strips[fid] for fid in links],
            {"from_lane_group_fid": [numbers[before] for before, _ in ends], "to_lane_group_fid": [numbers[after] for _, after in ends]},
        ),
        "baseline_paths": (
            "LineString", list(range(1, len(ways) + 1)), [shapely.LineString(way) for way in ways.values()],
            {"lane_fid": own + [np.nan] * len(joins), "lane_connector_fid": [np.nan] * len(own) + joins},
        ),
        "intersections": ("Unknown", list(range(900, 900 + len(intersections))), list(intersections), {}),
        "carpark_areas": ("Unknown", list(range(950, 950 + len(carparks))), list(carparks), {}),
        "boundaries": ("LineString", list(edges), list(edges.values()), {}),
        "crosswalks": ("Unknown", list(range(970, 970 + len(crosswalks))), list(crosswalks), {}),
        "stop_polygons": ("Unknown", list(range(990, 990 + len(stops))), list(stops), {}),
    }  # fmt: skip


def write_maps(root, layers=None, projection=PROJECTION, key="projectedCoordSystem", geographic="EPSG:4326"):
    """A NUPLAN_MAPS_ROOT with one city; `layers` as `table` gives them. Returns the map file."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "nuplan-maps-v1.0.json").write_text(json.dumps({CITY: {"version": "1.0"}}))
    path = root / CITY / "1.0" / "map.gpkg"
    path.parent.mkdir(parents=True)
    pyogrio.set_gdal_config_options({"OGR_SQLITE_SYNCHRONOUS": "OFF"})
    turn = pyproj.Transformer.from_crs(PROJECTION, geographic, always_xy=True)
    for layer, (kind, fids, shapes, columns) in (table() if layers is None else layers).items():
        turned = [shapely.transform(shape, lambda p: np.column_stack(turn.transform(*(p + ORIGIN).T))) for shape in shapes]
        wkb = shapely.to_wkb(np.array(turned, dtype=object)) if turned else np.zeros(0, object)
        data = [np.array(fids, np.int64), *(np.array(values) if values else np.zeros(0, np.int64) for values in columns.values())]
        data = [values.astype(object) if values.dtype.kind in "US" else values for values in data]
        pyogrio.raw.write(
            path, wkb, data, np.array(["fid", *columns], dtype=object), geometry_type=kind, layer=layer, driver="GPKG",
            crs=geographic, append=path.exists(), layer_options={"SPATIAL_INDEX": "NO", "FID": "fid"},
        )  # fmt: skip
    meta = [np.array([projection], object), np.array([key], object)]
    pyogrio.raw.write(
        path, None, meta, np.array(["value", "key"], dtype=object), geometry_type=None, layer="meta", driver="GPKG", append=True
    )
    return path


def frame(place, log="log", **changes):
    """One frame of a log pickle: 5 m/s along road 1."""
    return {
        "token": f"{place:016x}",
        "timestamp": 1_600_000_000_000_000 + 500_000 * place,
        "log_name": log,
        "scene_token": "scene",
        "map_location": CITY,
        "roadblock_ids": ["1", "11", "2"],
        "traffic_lights": [(111, place % 2 == 0)],
        "ego2global_translation": np.array((ORIGIN[0] + 2.5 * place, ORIGIN[1], 600.0)),
        "ego2global_rotation": np.array((1.0, 0.0, 0.0, 0.0)),
        "ego_dynamic_state": [5.0, 0.0, 0.1, 0.0],
        "driving_command": np.array([0, 1, 0, 0]),
        "cams": {},
        "anns": {
            "gt_boxes": np.array([(20.0, 3.0, 0.0, 4.0, 2.0, 1.5, 0.1)], dtype=np.float32),
            "gt_names": np.array(["vehicle"]),
            "gt_velocity_3d": np.zeros((1, 3), np.float32),
            "instance_tokens": ["i"],
            "track_tokens": ["t"],
        },
    } | changes


def write_log(root, frames, name="log", split="test"):
    """Write a log below an OPENSCENE_DATA_ROOT; returns its path."""
    path = root / "navsim_logs" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(frames if isinstance(frames, bytes) else pickle.dumps(frames))
    return path
