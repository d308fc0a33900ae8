"""The reference planner's proposals once more: one proposal, one step, one shapely polygon at a time."""

import numpy as np
import shapely
import shapely.affinity
from scipy.interpolate import interp1d
from shapely.ops import substring

from irlvla.types import OBJECT_NAMES

LENGTH, WIDTH, TO_CENTER = 5.176, 2.297, 1.461


def box(x, y, heading, length, width):
    corners = np.array([(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)]) * (length, width)
    cos, sin = np.cos(heading), np.sin(heading)
    return shapely.Polygon(corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y))


def car(pose):
    return box(pose[0] + TO_CENTER * np.cos(pose[2]), pose[1] + TO_CENTER * np.sin(pose[2]), pose[2], LENGTH, WIDTH)


def forecast_tracks(scene, boxes, velocities, types):
    """(polygon now, velocity, heading, speed, does it count) of what the planner sees: static ones first, nearest first within each kind."""
    center = np.array(car(scene.ego_state).centroid.coords[0])
    distances = [np.hypot(*(row[:2] - center)) for row in boxes]
    found = []
    for kinds, most in ((range(3, len(OBJECT_NAMES)), 50), ((0,), 50), ((1,), 25), ((2,), 10)):
        near = [i for i in range(len(boxes)) if types[i] in kinds and distances[i] <= 100.0]
        for i in sorted(near, key=lambda i: distances[i])[:most]:
            speed, heading = np.hypot(*velocities[i]), boxes[i, 2]
            turn = np.angle(np.exp(1j * (heading - np.arctan2(velocities[i, 1], velocities[i, 0]))))
            sign = 0.0 if types[i] > 2 else 1.0 if abs(turn) < np.pi / 2 else -1.0
            shift = sign * speed * np.array([np.cos(heading), np.sin(heading)])
            apart = not box(*boxes[i]).intersects(car(scene.ego_state))
            found.append((box(*boxes[i]), shift, heading, 0.0 if types[i] > 2 else speed, apart))
    return found


def red_tracks(scene):
    """The red lights in the same form."""
    polygons = scene.red_polygons
    for i in np.flatnonzero(scene.red_valid[0]):
        polygon = shapely.Polygon()
        for ring in range(polygons.polygon_start[i], polygons.polygon_start[i + 1]):
            polygon ^= shapely.Polygon(polygons.vertices[polygons.ring_start[ring] : polygons.ring_start[ring + 1]])
        yield polygon, np.zeros(2), None, None, not car(scene.ego_state).within(polygon)


def lead_ahead(path, way, tree, tracks):
    """(gap, speed along the ego's heading or None for a light) of the nearest thing in the corridor that is further on, else None.

    Of several on the ego itself the first that comes out of the search tree counts.
    """
    pose, ego = path["pose_at"](np.clip(way, 1e-5, path["length"])), None
    found = []
    for i in tree.query(path["corridor"], predicate="intersects"):
        polygon, (_, _, heading, speed, counts) = tree.geometries[i], tracks[i]
        if counts and path["line"].project(polygon.centroid) > way:
            ego = ego or car(pose)
            found.append((ego.distance(polygon), None if heading is None else speed * np.cos(heading - pose[2])))
    return min(found, key=lambda lead: lead[0]) if found else None


def driven(path, targets, way, speed, steps, forecasts, tracks):
    """Ways (proposals, steps) of IDM; `lead` is the devkit's one array for all proposals, which is not cleared between them."""
    way, speed = np.array(way, dtype=float), np.array(speed, dtype=float)
    known = path.setdefault("known", {target: np.zeros(3) for target in targets})
    ways = []
    for step in steps:
        lead = np.zeros(3)
        for i, target in enumerate(targets):
            if step % 2 == 0:
                nearest = lead_ahead(path, way[i], forecasts[step // 2], tracks)
                if nearest is None:
                    lead[0], lead[2] = path["length"], LENGTH / 2
                else:
                    lead[0] = way[i] + nearest[0]
                    lead[1] = lead[1] if nearest[1] is None else nearest[1]
                known[target] = lead.copy()
        for i, target in enumerate(targets):
            ahead, lead_speed, rear = known[target]
            wish = 1.0 + 1.5 * speed[i] + speed[i] * (speed[i] - lead_speed) / (2.0 * np.sqrt(1.5 * 3.0))
            change = 1.5 * (1.0 - (speed[i] / target) ** 10 - (wish / max(ahead - way[i] - rear, 1.0)) ** 2)
            way[i], speed[i] = way[i] + 0.1 * speed[i], speed[i] + 0.1 * np.clip(change, -3.0, 1.5)
        ways.append(way.copy())
    return np.array(ways).T, speed


def proposals(scene, boxes, velocities, types, limit):
    """The 15 plans (15, 51, 3)."""
    tracks = [*forecast_tracks(scene, boxes, velocities, types), *red_tracks(scene)]
    forecasts = [
        shapely.STRtree([shapely.affinity.translate(polygon, *(0.2 * k * shift)) for polygon, shift, *_ in tracks], 10) for k in range(26)
    ]
    limit = 15.0 if limit is None else limit
    targets = [share * limit for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
    plans = []
    for offset in (0.0, -1.0, 1.0):
        points = np.array(scene.centerline)
        points[:, 0] -= offset * np.sin(scene.centerline[:, 2])
        points[:, 1] += offset * np.cos(scene.centerline[:, 2])
        points[:, 2] = np.unwrap(points[:, 2])
        line, along = shapely.LineString(points[:, :2]), np.r_[0.0, np.cumsum(np.hypot(*np.diff(points[:, :2], axis=0).T))]
        start = line.project(shapely.Point(scene.ego_state[:2]))
        end = min(start + 5.0 * limit, along[-1])
        inside = points[(along >= start) & (along <= end), :2]
        ahead = shapely.LineString(inside) if len(inside) > 1 else substring(line, start, end)
        path = {"line": line, "length": along[-1], "pose_at": interp1d(along, points, axis=0)}
        path["corridor"] = ahead.buffer(WIDTH / 2, cap_style="square")
        ways, speeds = driven(path, targets, [start] * 5, [scene.ego_state[3]] * 5, range(1, 41), forecasts, tracks)
        for i, target in enumerate(targets):
            later, _ = driven(path, [target], ways[i, -1:], speeds[i : i + 1], range(41, 51), forecasts, tracks)
            plans.append(path["pose_at"](np.clip(np.r_[start, ways[i], later[0]], 1e-5, along[-1])))
    return np.array(plans)
