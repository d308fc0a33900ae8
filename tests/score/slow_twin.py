"""The same score, slow and plain: shapely for shapes, scipy for smoothing, pseudo-inverses for the tracker."""

import numpy as np
from scipy.signal import savgol_filter
from shapely.geometry import LineString, Point, Polygon

from irlvla.types import LAYER_NAMES


def shapes(polygons):
    result = []
    for i in range(len(polygons)):
        area = Polygon()
        for ring in range(polygons.polygon_start[i], polygons.polygon_start[i + 1]):
            area = area.symmetric_difference(Polygon(polygons.vertices[polygons.ring_start[ring] : polygons.ring_start[ring + 1]]))
        result.append(area)
    return result


def box(x, y, heading, length, width):
    along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return [np.array([x, y]) + a * length / 2 * along + b * width / 2 * across for a, b in signs]


def center(state):
    return state[:2] + 1.461 * np.array([np.cos(state[2]), np.sin(state[2])])


def angle(state, point):
    off = np.asarray(point) - state[:2]
    with np.errstate(invalid="ignore"):
        return np.degrees(np.arccos(np.dot([np.cos(state[2]), np.sin(state[2])], off) / np.linalg.norm(off)))


def areas(scene, states):
    """Per step: several lanes, off road, off route, centre in an intersection, rear axle in one."""
    layer = [LAYER_NAMES[i] for i in scene.map_layers]
    map_shapes = shapes(scene.map_polygons)
    result = []
    for state in states:
        corners = [Point(corner) for corner in box(*center(state), state[2], 5.176, 2.297)]
        middle, rear = Point(center(state)), Point(state[:2])
        lanes = [area for area, name in zip(map_shapes, layer, strict=True) if name.startswith("lane")]
        held = [sum(area.contains(corner) for corner in corners) for area in lanes]
        drivable = [area for area, name in zip(map_shapes, layer, strict=True) if not name.startswith("lane")]
        crossings = [area for area, name in zip(map_shapes, layer, strict=True) if name == "intersection"]
        route = [area for area, on in zip(map_shapes, scene.map_on_route, strict=True) if on]
        result.append(
            (
                sum(n > 0 for n in held) > 1 and 4 not in held,
                not all(any(area.contains(corner) for area in drivable) for corner in corners),
                not any(area.contains(middle) for area in route),
                any(area.contains(middle) for area in crossings),
                any(area.contains(rear) for area in crossings),
            )
        )
    return result


def no_collision(scene, states, where):
    score, forgiven = 1.0, set()
    for step, state in enumerate(states):
        ego = box(*center(state), state[2], 5.176, 2.297)
        for i in np.nonzero(scene.object_valid[step])[0]:
            other = Polygon(box(*scene.object_boxes[step, i]))
            if i in forgiven or not Polygon(ego).intersects(other):
                continue
            moves = scene.object_types[i] < 3
            at_fault = False
            if np.hypot(state[3], state[4]) > 0.05:
                if not moves or scene.object_first_speed[i] <= 0.05:
                    at_fault = True
                elif not angle(state, scene.object_boxes[step, i, :2]) > 150:
                    at_fault = LineString([ego[0], ego[3]]).intersects(other) or where[step][0] or where[step][1]
            if at_fault:
                score = min(score, 0.0 if moves else 0.5)
            else:
                forgiven.add(i)
    return score


def time_to_collision(scene, states, where):
    score, forgiven = 1.0, set()
    for step in range(32):
        state = states[step]
        speed = np.hypot(state[3], state[4])
        for ahead in (0, 3, 6, 9):
            moved = state.copy()
            moved[:2] += speed * ahead * 0.1 * np.array([np.cos(state[2]), np.sin(state[2])])
            ego = Polygon(box(*center(moved), state[2], 5.176, 2.297))
            for i in np.nonzero(scene.object_valid[step + ahead])[0]:
                other = scene.object_boxes[step + ahead, i]
                if i in forgiven or speed < 0.005 or not ego.intersects(Polygon(box(*other))):
                    continue
                off = angle(state, other[:2])
                unclear = where[step][0] or where[step][1] or where[step][4]
                if off < 30 or (unclear and not off > 150):
                    score = 0.0
                else:
                    forgiven.add(i)
    return score


def driving_direction(states, where):
    centers = np.array([center(state) for state in states])
    driven = np.concatenate([[0.0], np.linalg.norm(np.diff(centers, axis=0), axis=1)])
    driven[[not (off_route and not crossing) for _, _, off_route, crossing, _ in where]] = 0.0
    worst = max(driven[max(0, k - 10) : k + 1].sum() for k in range(len(states)))
    return 1.0 if worst < 2 else 0.5 if worst < 6 else 0.0


def lane_keeping(scene, states, where):
    line, counter = LineString(scene.centerline[:, :2]), 0
    for state, (_, _, _, crossing, _) in zip(states, where, strict=True):
        if crossing:
            continue
        counter = counter + 1 if Point(center(state)).distance(line) > 0.5 else 0
        if counter >= 20:
            return 0.0
    return 1.0


def red_light(scene, states):
    connectors = shapes(scene.red_polygons)
    for step, state in enumerate(states):
        ego = Polygon(box(*center(state), state[2], 5.176, 2.297))
        if any(area.intersects(ego) for area, valid in zip(connectors, scene.red_valid[step], strict=True) if valid):
            return 0.0
    return 1.0


def progress(scene, states):
    line = LineString(scene.centerline[:, :2])
    return max(line.project(Point(center(states[-1]))) - line.project(Point(center(states[0]))), 0.0)


def smooth(values, window, degree, derivative=0):
    return np.round(savgol_filter(values, window, degree, deriv=derivative, delta=0.1), 8)


def history_comfort(scene, states):
    seconds = scene.past_time_us * 1e-6
    times = np.arange(seconds[0], seconds[-1], 0.1)[:-1]
    past = np.zeros((len(times), 11))
    for column in (2, 5, 6):
        known = np.unwrap(scene.past_states[:, 2]) if column == 2 else scene.past_states[:, column]
        past[:, column] = np.interp(times, seconds, known)
    whole = np.concatenate([past, states])
    heading = np.unwrap(whole[:, 2])
    along = smooth(whole[:, 5] + 1.461 * whole[:, 9] ** 2 + 1.461 * whole[:, 10], 8, 2)
    bounds = (
        (along, -4.05, 2.40),
        (smooth(whole[:, 6], 8, 2), -4.89, 4.89),
        (smooth(smooth(np.hypot(whole[:, 5], whole[:, 6]), 8, 2), 15, 2, 1), -8.37, 8.37),
        (smooth(along, 15, 2, 1), -4.13, 4.13),
        (smooth(heading, 5, 3, 2), -1.93, 1.93),
        (smooth(heading, 5, 2, 1), -0.95, 0.95),
    )
    return float(all(((low < values) & (values < high)).all() for values, low, high in bounds))


def extended_comfort(states, previous, shift):
    features = []
    for part in (states[: len(states) - shift], previous[shift:]):
        size, heading = smooth(np.hypot(part[:, 5], part[:, 6]), 8, 2), np.unwrap(part[:, 2])
        features.append((size, smooth(size, 15, 2, 1), smooth(heading, 5, 2, 1), smooth(heading, 5, 2, 2)))
    differences = [np.sqrt(np.mean((now - before) ** 2)) for now, before in zip(*features, strict=True)]
    return float(all(value <= bound for value, bound in zip(differences, (0.7, 0.5, 0.1, 0.1), strict=True)))


def raw_scores(scene, states):
    """nc, dac, ddc, tlc, ttc, lk, hc and progress of one simulated plan (41, 11)."""
    where = areas(scene, states)
    return (
        no_collision(scene, states, where),
        0.0 if any(off_road for _, off_road, _, _, _ in where) else 1.0,
        driving_direction(states, where),
        red_light(scene, states),
        time_to_collision(scene, states, where),
        lane_keeping(scene, states, where),
        history_comfort(scene, states),
        progress(scene, states),
    )


def reference(ego_state, time_us, poses):
    """The 41 global poses of a plan in the ego frame: matrices for the frames, np.interp between the poses."""
    count = len(poses)
    start = time_us * 1e-6
    knots = [ego_state[:3]]
    for x, y, turn in poses:
        frame = _frame(ego_state[:3]) @ _frame((x, y, turn))
        knots.append((frame[0, 2], frame[1, 2], np.arctan2(frame[1, 0], frame[0, 0])))
    times = [time_us, *(int((4.0 / count * k + 4.0 / count + start) * 1e6) for k in range(count))]
    return _sampled(np.array(knots), times, start)


def planned(scene):
    """The 41 global poses of the reference planner's plan, which is global already."""
    times = scene.time_us + 100_000 * np.arange(len(scene.reference_poses))
    return _sampled(scene.reference_poses, times, scene.time_us * 1e-6)


def _frame(pose):
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return np.array([[cos, -sin, pose[0]], [sin, cos, pose[1]], [0.0, 0.0, 1.0]])


def _sampled(knots, times, start):
    samples = np.array([int((0.1 * k + start) * 1e6) for k in range(41)], dtype=np.float64) - times[0]
    times = np.array(times, dtype=np.float64) - times[0]
    columns = (knots[:, 0], knots[:, 1], np.unwrap(knots[:, 2]))
    return np.stack([np.interp(samples, times, column) for column in columns], axis=1)


def sub_scores(scene, poses, prev_poses=None, human_filter=True):
    """All sub-scores by name, plan by plan; the reference and the human are simulated and scored anew."""
    names = ("nc", "dac", "ddc", "tlc", "ttc", "lk", "hc")
    best, *rest = raw_scores(scene, simulated(scene.ego_state, planned(scene)))[::-1]
    best *= np.prod(rest[::-1][:4])
    human = raw_scores(scene, simulated(scene.ego_state, reference(scene.ego_state, scene.time_us, scene.human_poses)))
    rows = {name: [] for name in (*names, "ep", "ec")}
    now, then = scene.time_us * 1e-6, scene.previous_time_us * 1e-6
    for number, plan in enumerate(poses):
        states = simulated(scene.ego_state, reference(scene.ego_state, scene.time_us, plan))
        *values, progressed = raw_scores(scene, states)
        norm = max(best, progressed * np.prod(values[:4]))
        rows["ep"].append(min(progressed / norm, 1.0) if norm > 5.0 else 1.0)
        for name, value, of_human in zip(names, values, human, strict=False):
            forgiven = human_filter and name != "hc" and of_human == 0.0
            rows[name].append(1.0 if forgiven else value)
        if prev_poses is not None and 0.0 < now - then < 0.55:
            before = reference(scene.previous_state, scene.previous_time_us, prev_poses[number])
            rows["ec"].append(extended_comfort(states, simulated(scene.previous_state, before), round((now - then) / 0.1)))
    return {name: np.array(values) for name, values in rows.items()}


def _wrap(value):
    return np.arctan2(np.sin(value), np.cos(value))


def profiles(reference):
    """Speed and curvature of the 40 intervals, from the normal equations in their textbook form."""
    dt, count = 0.1, len(reference) - 1
    integral = np.concatenate([np.ones((count, 1)), np.tril(np.full((count, count - 1), dt), -1)], axis=1)
    heading = reference[:-1, 2]
    direction = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    system = (dt * direction[:, :, None] * integral[:, None, :]).reshape(2 * count, count)
    penalty = np.eye(count - 2, count, 1)
    penalty[-1, -1] = -1.0
    measured = np.diff(reference[:, :2], axis=0).reshape(-1)
    speed = integral @ (np.linalg.pinv(system.T @ system + 1e-4 * penalty.T @ penalty) @ system.T @ measured)
    system = dt * speed[:, None] * integral
    ridge = np.diag([1e-10] + [1e-2] * (count - 1))
    return speed, integral @ (np.linalg.pinv(system.T @ system + ridge) @ system.T @ _wrap(np.diff(reference[:, 2])))


def simulated(ego_state, reference):
    """The tracker and bicycle for one reference (41, 3), step by step with matrices."""
    dt, base = 0.1, 3.089
    speeds, curvatures = profiles(reference)
    states = np.zeros((len(reference), 11))
    states[0, :7] = ego_state
    for k in range(len(reference) - 1):
        x, y, heading, v, _, a, _, steer, _, rate, _ = states[k]
        wanted, command = speeds[min(k + 10, 39)], 0.0
        if wanted <= 0.2 and v <= 0.2:
            pull = -0.5 * (v - wanted)
        else:
            pull = -10 / 11 * (v - wanted)
            window = curvatures[np.minimum(np.arange(k, k + 10), 39)]
            ref = reference[k]
            error = np.array([-(x - ref[0]) * np.sin(ref[2]) + (y - ref[1]) * np.cos(ref[2]), _wrap(heading - ref[2]), steer])
            a_all, b_all, g_all = np.eye(3), np.zeros(3), np.zeros(3)
            for n in range(10):
                fast = (v + pull * dt * n) * dt
                step = np.array([[1, fast, 0], [0, 1, fast / base], [0, 0, 1]])
                a_all, b_all = step @ a_all, step @ b_all + np.array([0, 0, dt])
                g_all = step @ g_all + np.array([0, -fast * window[n], 0])
            error = a_all @ error + g_all
            error[1:] = _wrap(error[1:])
            weights = np.diag([1.0, 10.0, 0.0])
            command = -(b_all @ weights @ error) / (b_all @ weights @ b_all + 1.0)
        a = a + (pull - a) / 3
        v_new, steer_new = v + a * dt, np.clip(steer + 2 / 3 * dt * command, -np.pi / 3, np.pi / 3)
        turn = v_new * np.tan(steer_new) / base
        heading_new = _wrap(heading + v * np.tan(steer) / base * dt)
        states[k + 1] = [
            x + v * np.cos(heading) * dt, y + v * np.sin(heading) * dt, heading_new, v_new, 0, a, 0,
            steer_new, 2 / 3 * command, turn, (turn - rate) / dt,
        ]  # fmt: skip
    return states
