"""Meshes and paint of everything that stands on the ground: vehicles with a front and a back, people, traffic lights, houses.

A mesh lives in a unit box, x forward and y left in -0.5..0.5, z up in 0..1, and is stretched to each thing's size. Its
faces are convex, seen counter-clockwise from outside, with up to CORNERS corners (the last one repeated).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CORNERS = 8
SLOTS = ("body", "second", "glass", "dark", "headlight", "taillight", "white", "skin", "wall", "roof", "red", "amber", "green", "trim")
"""What a face is painted as; each thing has its own colour for each slot."""
BODY, SECOND, GLASS, DARK, HEADLIGHT, TAILLIGHT, WHITE, SKIN, WALL, ROOF, RED, AMBER, GREEN, TRIM = range(len(SLOTS))

Face = tuple[int, list[tuple[float, float, float]]]


class Meshes(NamedTuple):
    """All meshes in flat arrays: mesh i has the faces `starts[i]:starts[i + 1]`."""

    faces: Float[np.ndarray, "faces 8 3"]
    slots: Int[np.ndarray, "faces"]
    starts: Int[np.ndarray, "meshes_and_end"]


def _box(x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, slot: int, top: int | None = None) -> list[Face]:
    return [
        (slot, [(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)]),
        (slot, [(x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1)]),
        (slot, [(x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1)]),
        (slot, [(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)]),
        (slot if top is None else top, [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)]),
    ]


def _front(y0: float, y1: float, z0: float, z1: float, slot: int, x: float = 0.503) -> Face:
    return slot, [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)]


def _back(y0: float, y1: float, z0: float, z1: float, slot: int, x: float = -0.503) -> Face:
    return slot, [(x, y1, z0), (x, y0, z0), (x, y0, z1), (x, y1, z1)]


def _sides(points: list[tuple[float, float]], y: float, slot: int) -> list[Face]:
    """A flat face (x, z; counter-clockwise seen from the right) on both sides."""
    return [(slot, [(x, -y, z) for x, z in points]), (slot, [(x, y, z) for x, z in reversed(points)])]


def _extrusion(points: list[tuple[float, float]], y: float, slot: int) -> list[Face]:
    """A profile (x, z; counter-clockwise seen from the right) as wide as 2 y, its underside left out."""
    faces = _sides(points, y, slot)
    for (xa, za), (xb, zb) in zip(points[1:], points[2:] + points[:1], strict=True):
        faces.append((slot, [(xa, -y, za), (xa, y, za), (xb, y, zb), (xb, -y, zb)]))
    return faces


def _inset(face: Face, slot: int, u: tuple[float, float], v: tuple[float, float], lift: float = 0.004) -> Face:
    """A smaller quad on a quad: u along its first edge, v along its last, lifted off along its normal."""
    a, b, c, d = (np.array(corner) for corner in face[1])
    normal = np.cross(b - a, d - a)
    normal = normal / np.linalg.norm(normal) * lift
    corners = []
    for s, t in ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])):
        corners.append(tuple(((1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c) + normal).tolist()))
    return slot, corners


def _wheels(places: list[float], radius_x: float, radius_z: float, y: float = 0.506) -> list[Face]:
    faces = []
    for place in places:
        for scale, slot, shift in ((1.0, DARK, 0.0), (0.5, TRIM, 0.008)):
            angles = np.arange(8) * np.pi / 4 + np.pi / 8
            ring = [(place + scale * radius_x * float(np.cos(a)), radius_z + scale * radius_z * float(np.sin(a))) for a in angles]
            faces += _sides(ring, y + shift, slot)
    return faces


def _lamps(front: tuple[float, float], back: tuple[float, float], inner: float = 0.26) -> list[Face]:
    faces = []
    for side in (-1, 1):
        low, high = sorted((side * inner, side * 0.485))
        faces += [_front(low, high, *front, HEADLIGHT), _back(low, high, *back, TAILLIGHT)]
    return faces


def _car(hood: float, roof: tuple[float, float], rear: float) -> list[Face]:
    """A passenger car: hood ends at x = `hood`, roof between `roof`, rear window meets the body at x = `rear`."""
    faces = _extrusion([(-0.5, 0.15), (0.5, 0.15), (0.5, 0.48), (hood, 0.59), (rear, 0.61), (-0.5, 0.57)], 0.5, BODY)
    low, high = 0.46, 0.38
    base = [(hood, -low, 0.58), (hood, low, 0.58), (rear, low, 0.60), (rear, -low, 0.60)]
    top = [(roof[0], -high, 1.0), (roof[0], high, 1.0), (roof[1], high, 1.0), (roof[1], -high, 1.0)]
    screen = (BODY, [base[0], base[1], top[1], top[0]])
    window = (BODY, [base[2], base[3], top[3], top[2]])
    left = (BODY, [base[1], base[2], top[2], top[1]])
    right = (BODY, [base[3], base[0], top[0], top[3]])
    faces += [screen, window, left, right, (BODY, [top[0], top[1], top[2], top[3]])]
    faces += [_inset(screen, GLASS, (0.06, 0.94), (0.05, 0.9)), _inset(window, GLASS, (0.08, 0.92), (0.1, 0.82))]
    faces += [_inset(window, TAILLIGHT, (0.36, 0.64), (0.85, 0.95))]
    for side in (left, right):
        faces += [_inset(side, GLASS, (0.06, 0.47), (0.1, 0.85)), _inset(side, GLASS, (0.53, 0.94), (0.1, 0.85))]
    faces += _lamps((0.35, 0.46), (0.39, 0.54)) + _wheels([0.31, -0.3], 0.075, 0.215)
    faces += [_front(-0.23, 0.23, 0.29, 0.44, DARK), _front(-0.49, 0.49, 0.15, 0.25, TRIM), _front(-0.13, 0.13, 0.2, 0.28, WHITE, 0.506)]
    faces += [_back(-0.13, 0.13, 0.39, 0.49, WHITE), _back(-0.49, 0.49, 0.15, 0.29, TRIM)]
    return faces


def _van() -> list[Face]:
    faces = _extrusion([(-0.5, 0.14), (0.5, 0.14), (0.5, 0.42), (0.4, 0.52), (0.26, 1.0), (-0.5, 1.0)], 0.48, BODY)
    screen = (BODY, [(0.4, -0.48, 0.52), (0.4, 0.48, 0.52), (0.26, 0.48, 1.0), (0.26, -0.48, 1.0)])
    faces += [_inset(screen, GLASS, (0.06, 0.94), (0.04, 0.8))]
    faces += _sides([(0.12, 0.55), (0.36, 0.55), (0.27, 0.86), (0.12, 0.86)], 0.485, GLASS)
    faces += _sides([(-0.49, 0.36), (0.1, 0.36), (0.1, 0.42), (-0.49, 0.42)], 0.485, SECOND)
    faces += [_back(-0.4, -0.03, 0.6, 0.86, GLASS), _back(0.03, 0.4, 0.6, 0.86, GLASS), _back(-0.12, 0.12, 0.88, 0.95, TAILLIGHT)]
    faces += _lamps((0.28, 0.39), (0.3, 0.52), 0.33) + _wheels([0.33, -0.31], 0.065, 0.16, 0.49)
    faces += [_front(-0.3, 0.3, 0.24, 0.37, DARK), _front(-0.48, 0.48, 0.14, 0.21, TRIM), _back(-0.12, 0.12, 0.32, 0.39, WHITE)]
    return faces + [_back(-0.48, 0.48, 0.14, 0.24, TRIM)]


def _truck() -> list[Face]:
    faces = _box(0.29, 0.5, -0.48, 0.48, 0.1, 0.78, BODY) + _box(-0.5, 0.26, -0.5, 0.5, 0.2, 1.0, SECOND)
    faces += _box(-0.49, 0.3, -0.3, 0.3, 0.1, 0.2, DARK)
    faces += [_front(-0.43, 0.43, 0.45, 0.71, GLASS), _front(-0.36, 0.36, 0.22, 0.4, DARK), _front(-0.48, 0.48, 0.1, 0.15, TRIM)]
    faces += _sides([(0.36, 0.46), (0.47, 0.46), (0.47, 0.7), (0.36, 0.7)], 0.485, GLASS)
    faces += [_back(-0.012, 0.012, 0.24, 0.97, TRIM), _back(-0.48, 0.48, 0.2, 0.23, TRIM)]
    faces += [_front(-0.46, -0.3, 0.15, 0.22, HEADLIGHT), _front(0.3, 0.46, 0.15, 0.22, HEADLIGHT)]
    faces += [_back(-0.48, -0.26, 0.12, 0.2, TAILLIGHT, -0.501), _back(0.26, 0.48, 0.12, 0.2, TAILLIGHT, -0.501)]
    faces += [_back(-0.1, 0.1, 0.12, 0.18, WHITE, -0.501)]
    return faces + _wheels([0.37, -0.22, -0.36], 0.052, 0.15, 0.502)


def _bus() -> list[Face]:
    faces = _box(-0.5, 0.5, -0.5, 0.5, 0.1, 1.0, BODY, SECOND)
    faces += _sides([(-0.49, 0.28), (0.49, 0.28), (0.49, 0.36), (-0.49, 0.36)], 0.502, SECOND)
    for start in np.linspace(-0.47, 0.38, 8):
        start = float(start)
        faces += _sides([(start, 0.46), (start + 0.105, 0.46), (start + 0.105, 0.82), (start, 0.82)], 0.502, GLASS)
    faces += [_front(-0.46, 0.46, 0.4, 0.82, GLASS), _front(-0.4, 0.4, 0.85, 0.95, DARK), _front(-0.3, 0.3, 0.87, 0.93, AMBER, 0.505)]
    faces += [_back(-0.42, 0.42, 0.56, 0.86, GLASS), _back(-0.38, 0.38, 0.3, 0.48, DARK), _front(-0.49, 0.49, 0.1, 0.17, TRIM)]
    faces += _lamps((0.2, 0.29), (0.2, 0.42), 0.36) + _wheels([0.3, -0.28], 0.042, 0.15)
    return faces + [_back(-0.49, 0.49, 0.1, 0.17, TRIM), _back(-0.1, 0.1, 0.2, 0.26, WHITE)]


def _pedestrian() -> list[Face]:
    faces = _box(-0.02, 0.32, -0.34, -0.04, 0.0, 0.5, DARK) + _box(-0.34, 0.0, 0.04, 0.34, 0.0, 0.5, DARK)
    faces += _box(-0.26, 0.26, -0.36, 0.36, 0.46, 0.84, BODY)
    faces += _box(-0.2, 0.14, -0.5, -0.36, 0.46, 0.82, BODY) + _box(-0.14, 0.2, 0.36, 0.5, 0.46, 0.82, BODY)
    return faces + _box(-0.24, 0.24, -0.2, 0.2, 0.86, 0.97, SKIN) + _box(-0.28, 0.2, -0.22, 0.22, 0.94, 1.0, TRIM)


def _bicycle() -> list[Face]:
    faces = []
    for place in (0.32, -0.32):
        angles = np.arange(8) * np.pi / 4
        ring = [(place + 0.18 * float(np.cos(a)), 0.2 + 0.2 * float(np.sin(a))) for a in angles]
        faces += _sides(ring, 0.04, DARK)
        faces += _sides([(place + 0.6 * (x - place), 0.2 + 0.6 * (z - 0.2)) for x, z in ring], 0.05, TRIM)
        faces += _box(place - 0.17, place + 0.17, -0.05, 0.05, 0.05, 0.38, DARK)
    faces += _box(-0.3, 0.3, -0.06, 0.06, 0.36, 0.42, SECOND) + _box(0.26, 0.32, -0.5, 0.5, 0.56, 0.6, TRIM)
    faces += _box(-0.12, 0.04, -0.26, -0.08, 0.16, 0.52, DARK) + _box(0.0, 0.16, 0.08, 0.26, 0.24, 0.54, DARK)
    faces += _extrusion([(-0.2, 0.5), (0.04, 0.5), (0.22, 0.84), (0.02, 0.84)], 0.36, BODY)
    faces += _box(0.06, 0.24, -0.17, 0.17, 0.85, 0.95, SKIN) + _box(0.04, 0.24, -0.19, 0.19, 0.94, 1.0, SECOND)
    return faces + [_back(-0.1, 0.1, 0.4, 0.46, TAILLIGHT, -0.31)]


def _cone() -> list[Face]:
    faces = _box(-0.5, 0.5, -0.5, 0.5, 0.0, 0.06, DARK)
    for z0, z1, slot in ((0.06, 0.35, AMBER), (0.35, 0.6, WHITE), (0.6, 1.0, AMBER)):
        a, b = 0.36 * (1.05 - z0), 0.36 * (1.05 - z1)
        low, high = [(a, -a), (a, a), (-a, a), (-a, -a)], [(b, -b), (b, b), (-b, b), (-b, -b)]
        for i in range(4):
            j = (i + 1) % 4
            faces.append((slot, [(*low[i], z0), (*low[j], z0), (*high[j], z1), (*high[i], z1)]))
    return faces


def _barrier() -> list[Face]:
    edges = np.linspace(-0.5, 0.5, 7).tolist()
    faces = []
    for index, (y0, y1) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        faces += _box(-0.3, 0.3, y0, y1, 0.35, 1.0, WHITE if index % 2 else RED)
    return faces + _box(-0.5, 0.5, -0.42, -0.34, 0.0, 0.35, DARK) + _box(-0.5, 0.5, 0.34, 0.42, 0.0, 0.35, DARK)


def _sign() -> list[Face]:
    faces = _box(-0.06, 0.0, -0.06, 0.06, 0.0, 0.6, TRIM)
    diamond = [(0.0, -0.5, 0.7), (0.0, 0.0, 0.4), (0.0, 0.5, 0.7), (0.0, 0.0, 1.0)]
    return faces + [(AMBER, [(0.05, y, z) for _, y, z in diamond]), (AMBER, [(-0.08, y, z) for _, y, z in reversed(diamond)])]


def _signal_head() -> list[Face]:
    faces = _box(-0.5, 0.4, -0.42, 0.42, 0.02, 0.98, DARK) + [
        _front(-0.5, 0.5, 0.0, 1.0, DARK, 0.41),
        _back(-0.5, 0.5, 0.0, 1.0, DARK, 0.3),
    ]
    for height, slot in ((0.82, RED), (0.5, AMBER), (0.18, GREEN)):
        angles = np.arange(8) * np.pi / 4 + np.pi / 8
        faces.append((slot, [(0.5, 0.34 * float(np.cos(a)), height + 0.138 * float(np.sin(a))) for a in angles]))
    return faces


def _house() -> list[Face]:
    faces = _box(-0.5, 0.5, -0.5, 0.5, 0.0, 0.64, WALL)
    eave, ridge = 0.55, 1.0
    for side in (-1, 1):
        slope = [(-0.52, side * eave, 0.62), (0.52, side * eave, 0.62), (0.52, 0.0, ridge), (-0.52, 0.0, ridge)]
        faces.append((ROOF, slope if side < 0 else slope[::-1]))
    faces.append((BODY, [(0.5, -0.5, 0.64), (0.5, 0.5, 0.64), (0.5, 0.0, ridge)]))
    faces.append((BODY, [(-0.5, 0.5, 0.64), (-0.5, -0.5, 0.64), (-0.5, 0.0, ridge)]))
    return faces


_SHAPES = {
    "sedan": _car(0.2, (0.05, -0.25), -0.41),
    "wagon": _car(0.24, (0.1, -0.42), -0.48),
    "van": _van(),
    "truck": _truck(),
    "bus": _bus(),
    "pedestrian": _pedestrian(),
    "bicycle": _bicycle(),
    "cone": _cone(),
    "barrier": _barrier(),
    "sign": _sign(),
    "bin": _box(-0.5, 0.5, -0.5, 0.5, 0.0, 0.9, SECOND) + _box(-0.52, 0.52, -0.52, 0.52, 0.9, 1.0, DARK),
    "head": _signal_head(),
    "post": _box(-0.5, 0.5, -0.5, 0.5, 0.0, 1.0, TRIM),
    "trunk": _box(-0.5, 0.5, -0.5, 0.5, 0.0, 1.0, SECOND),
    "block": _box(-0.5, 0.5, -0.5, 0.5, 0.0, 1.0, WALL, ROOF),
    "house": _house(),
}
MESH_NAMES = tuple(_SHAPES)


def meshes() -> Meshes:
    """All meshes, in the order of MESH_NAMES."""
    faces = [face for shape in _SHAPES.values() for face in shape]
    corners = [points + [points[-1]] * (CORNERS - len(points)) for _, points in faces]
    return Meshes(
        faces=np.array(corners, dtype=np.float64),
        slots=np.array([slot for slot, _ in faces], dtype=np.int64),
        starts=np.cumsum([0] + [len(shape) for shape in _SHAPES.values()]),
    )
