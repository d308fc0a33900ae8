"""Reactive traffic once more: one vehicle, one step, one shapely polygon and one search tree at a time."""

import numpy as np
import shapely

LENGTH, WIDTH = 5.176, 2.297
GAP, HEADWAY, ACCELERATION, DECELERATION, RADIUS = 1.0, 1.5, 1.0, 2.0, 100.0


def box(x, y, heading, length, width):
    corners = np.array([(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)]) * (length, width)
    cos, sin = np.cos(heading), np.sin(heading)
    return shapely.Polygon(corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y))


class Driver:
    def __init__(self, traffic, number):
        self.path = traffic.path_points[traffic.path_start[number] : traffic.path_start[number + 1]]
        self.object = traffic.driver_objects[number]
        self.length, self.width = traffic.object_boxes[0, self.object, 3:]
        self.way, self.speed = traffic.driver_ways[number], traffic.driver_speeds[number]
        self.target = traffic.driver_targets[number]
        self.shape = box(*traffic.driver_poses[number], self.length, self.width)

    def clamped(self, way):
        return min(max(way, self.path[0, 3]), self.path[-1, 3])

    def at(self, way):
        x, y, heading = (np.interp(way, self.path[:, 3], self.path[:, column]) for column in range(3))
        return np.array([x, y, (heading + np.pi) % (2 * np.pi) - np.pi])

    @property
    def pose(self):
        return self.at(self.clamped(self.way))

    def line(self, start, end):
        start, end = self.clamped(start), self.clamped(end)
        if start >= self.path[-1, 3]:
            return shapely.LineString(self.path[-2:, :2])
        between = self.path[(self.path[:, 3] > start) & (self.path[:, 3] < end), :2]
        return shapely.LineString(np.vstack([self.at(start)[:2], between, self.at(end)[:2]]))

    def tube(self, start, end):
        return self.line(start, end).buffer(0.5 * self.width, quad_segs=16, cap_style="flat")

    def footprint(self):
        front = self.way + 0.5 * self.length + HEADWAY * self.speed
        shape = shapely.union(self.tube(self.way - 0.5 * self.length, front), box(*self.pose, self.length, self.width))
        return shapely.simplify(shape, 1e-5)


def lead(driver, drivers, ego_shape, ego):
    """(distance, speed along the driver's heading, length behind) of what the driver follows, and whether it is on its own path."""
    tube = driver.tube(driver.way, np.inf)
    others = [(other.shape, other.speed, other.pose[2]) for other in drivers if other is not driver]
    others.append((ego_shape, np.hypot(ego[3], ego[4]), ego[2]))
    found = [other for other in others if shapely.intersects(other[0], tube)]
    is_on_path = bool(shapely.intersects(driver.shape, tube))
    if not found:
        return driver.path[-1, 3] - driver.way, 0.0, 0.5 * driver.length, is_on_path
    nearest = shapely.STRtree([other[0] for other in found]).nearest(driver.shape)
    shape, speed, heading = found[nearest]
    return shapely.distance(shape, driver.shape), speed * np.cos(heading - driver.pose[2]), 0.0, is_on_path


def reactive_objects(traffic, states):
    """Boxes (41, objects, 5) and presence (41, objects) beside an ego's states (41, 11), and how often a driver was off its path."""
    boxes, valid = traffic.object_boxes.copy(), traffic.object_valid.copy()
    drivers, lost = [Driver(traffic, number) for number in range(len(traffic.driver_objects))], 0
    for step in range(1, 41):
        ego = states[step - 1]
        ego_shape = box(*ego[:3], LENGTH, WIDTH)
        drivers = [driver for driver in drivers if np.hypot(*(driver.pose[:2] - ego[:2])) <= RADIUS]
        for driver in drivers:
            distance, speed, behind, is_on_path = lead(driver, drivers, ego_shape, ego)
            lost += not is_on_path
            wish = GAP + driver.speed * HEADWAY + driver.speed * (driver.speed - speed) / (2 * np.sqrt(ACCELERATION * DECELERATION))
            free = max(distance - behind, GAP)
            change = ACCELERATION * (1 - (driver.speed / driver.target) ** 4 - (wish / free) ** 2)
            driver.way += 0.1 * driver.speed
            driver.speed = max(driver.speed + 0.1 * min(max(change, -DECELERATION), ACCELERATION), 0.0)
            driver.shape = driver.footprint()
        shapes = []
        for driver in drivers:
            boxes[step, driver.object, :3] = driver.pose
            shapes.append(box(*driver.pose, driver.length, driver.width))
            boxes[step, driver.object, 3:] = driver.length, driver.width
            valid[step, driver.object] = True
        for parked in traffic.parked_objects:
            shape = box(*boxes[0, parked])
            if not shapely.intersects(shape, shapes).any():
                shapes.append(shape)
                boxes[step, parked], valid[step, parked] = boxes[0, parked], True
    return boxes, valid, lost
