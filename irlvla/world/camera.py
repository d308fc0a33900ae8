"""Any camera's picture of a driving scene from any pose: a z-buffered rasteriser over a town's scenery and one moment."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from irlvla.types import CAMERA_NAMES
from irlvla.world import raster, shapes
from irlvla.world.ground import CELL, SHARES, Ground, ground
from irlvla.world.look import Look
from irlvla.world.paint import BRAKE_LIGHT, fractions, lit, mesh_of, paint
from irlvla.world.scenery import Moment, Scenery

REACH = 320.0
"""Things farther away than this are not drawn, m."""
JPEG_QUALITY = 88
"""Of pictures on disk."""
EGO_FROM_LIDAR = (1.0, 0.0, 1.8)
"""The lidar frame is the ego frame (rear axle, on the ground) moved by this much, m."""
LENSES = {
    "CAM_F0": (384, 216, 64.0, 0.0, (1.65, 0.0, 1.6)),
    "CAM_L0": (192, 108, 76.0, 55.0, (1.55, 0.5, 1.6)),
    "CAM_R0": (192, 108, 76.0, -55.0, (1.55, -0.5, 1.6)),
    "CAM_L1": (192, 108, 76.0, 105.0, (1.2, 0.6, 1.6)),
    "CAM_R1": (192, 108, 76.0, -105.0, (1.2, -0.6, 1.6)),
    "CAM_L2": (192, 108, 76.0, 145.0, (0.4, 0.6, 1.6)),
    "CAM_R2": (192, 108, 76.0, -145.0, (0.4, -0.6, 1.6)),
    "CAM_B0": (192, 108, 64.0, 180.0, (-0.4, 0.0, 1.6)),
}
"""Width, height, horizontal field of view and yaw in degrees, place in the ego frame in m, placed like NAVSIM's eight cameras."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounting:
    """One camera of the ego: its picture size, and how it is mounted (camera points -> lidar frame, as in OpenScene)."""

    name: str
    width: int
    height: int
    intrinsics: Float[np.ndarray, "3 3"]
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A town made ready for drawing: its ground from above, and everything that stands on it, relative to the ground's origin."""

    name: str
    ground: Ground
    mesh: Int[np.ndarray, "things"]
    rows: Float[np.ndarray, "things 7"]
    colours: Float[np.ndarray, "things 14 4"]
    crowns: Float[np.ndarray, "trees 6"]
    heads: Float[np.ndarray, "heads 7"]
    head_groups: Int[np.ndarray, "heads"]


def mounting(name: str) -> Mounting:
    """The default mounting of one of CAMERA_NAMES."""
    if name not in LENSES:
        raise ValueError(f"unknown camera {name!r}; known: {', '.join(CAMERA_NAMES)}")
    width, height, view, yaw, place = LENSES[name]
    focal = width / 2 / np.tan(np.radians(view) / 2)
    cosine, sine = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    return Mounting(
        name=name,
        width=width,
        height=height,
        intrinsics=np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]),
        rotation=np.array([[sine, 0.0, cosine], [-cosine, 0.0, sine], [0.0, -1.0, 0.0]]),
        translation=np.array(place) - np.array(EGO_FROM_LIDAR),
    )


def camera_pose(ego_pose: Float[np.ndarray, "3"], mounting: Mounting) -> Float[np.ndarray, "4 4"]:
    """Camera points -> global, for an ego at x, y, heading (rear axle, global)."""
    cosine, sine = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    global_from_ego = np.array([[cosine, -sine, 0, ego_pose[0]], [sine, cosine, 0, ego_pose[1]], [0, 0, 1, 0], [0, 0, 0, 1]])
    ego_from_camera = np.eye(4)
    ego_from_camera[:3, :3] = mounting.rotation
    ego_from_camera[:3, 3] = mounting.translation + np.array(EGO_FROM_LIDAR)
    return global_from_ego @ ego_from_camera


def stage(scenery: Scenery) -> Stage:
    """A town made ready for drawing; do this once a town, `picture` once a frame."""
    mesh: list[str] = []
    rows: list[list[float]] = []
    seeds: list[int] = []
    heads: list[list[float]] = []
    head_groups: list[int] = []
    for (x, y, heading, length, width, height), seed in zip(scenery.buildings, scenery.building_seeds, strict=True):
        mesh.append("house" if height < 8 and max(length, width) < 22 else "block")
        rows.append([x, y, 0.0, heading, length, width, height])
        seeds.append(int(seed))
    for index, (x, y, height, radius) in enumerate(scenery.trees):
        mesh.append("trunk")
        rows.append([x, y, 0.0, index, 0.14 * radius + 0.08, 0.14 * radius + 0.08, 0.6 * height])
        seeds.append(index)
    for (x, y, heading, arm), group in zip(scenery.poles, scenery.pole_groups, strict=True):
        mesh.append("post")
        rows.append([x, y, 0.0, heading, 0.2, 0.2, 6.4 if arm != 0 else 4.4])
        forward, right = np.array([np.cos(heading), np.sin(heading)]), np.array([np.sin(heading), -np.cos(heading)])
        places = [(0.0, 2.5)]
        if arm != 0:
            mesh.append("post")
            rows.append([*(np.array([x, y]) + right * arm / 2), 6.2, heading, 0.14, abs(arm), 0.14])
            places.append((arm, 4.4))
        for out, bottom in places:
            heads.append([*(np.array([x, y]) + right * out + forward * 0.3), bottom, heading, 0.4, 0.8, 1.95])
            head_groups.append(int(group))
        seeds += [0] * (len(mesh) - len(seeds))
    names = np.array([shapes.MESH_NAMES.index(name) for name in mesh], dtype=np.int64)
    trees = scenery.trees
    half = (trees[:, 2] - 1.8) / 2
    bright = 0.8 + 0.4 * fractions(np.arange(len(trees)), 1)
    return Stage(
        name=scenery.name,
        ground=ground(scenery),
        mesh=names,
        rows=np.array(rows, float).reshape(-1, 7),
        colours=paint(names, np.array(seeds, dtype=np.int64)),
        crowns=np.column_stack([trees[:, :2], 1.8 + half, trees[:, 3], half, bright]).reshape(-1, 6),
        heads=np.array(heads, float).reshape(-1, 7),
        head_groups=np.array(head_groups, dtype=np.int64),
    )


_MESHES = shapes.meshes()
_SHADOW = np.array([name not in ("head", "post") for name in shapes.MESH_NAMES])
_HEAD = shapes.MESH_NAMES.index("head")


def _noise() -> Float[np.ndarray, "128 128"]:
    """A fixed, tiling texture of mean 0 in about -1..1: grain of asphalt, grass and leaves."""
    random = np.random.default_rng(42)
    total = np.zeros((128, 128))
    for size, strength in ((128, 0.45), (64, 0.35), (16, 0.2)):
        coarse = random.uniform(-1, 1, (size, size))
        total += strength * np.kron(coarse, np.ones((128 // size, 128 // size)))
    return total


_NOISE = _noise()


def picture(
    stage: Stage,
    moment: Moment,
    camera_pose: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
    look: Look,
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """What a pinhole camera sees.

    Args:
        stage: The town, made ready by `stage`.
        moment: The moving things, and the state of each group of traffic lights.
        camera_pose: Camera points (x right, y down, z forward) -> global; the camera hangs above the ground.
        intrinsics: Pinhole matrix for pictures of `width` x `height` pixels, no skew.
        width: Columns of the picture.
        height: Rows of the picture.
        look: Light and colours.

    Returns:
        The RGB picture; the same inputs give the same bytes.

    Raises:
        ValueError: The camera lies below the ground, or the moment knows fewer light groups than the town has.
    """
    if camera_pose[2, 3] <= 0:
        raise ValueError(f"town {stage.name}: the camera lies {camera_pose[2, 3]} m above the ground; it must hang above 0")
    if len(stage.head_groups) and stage.head_groups.max() >= len(moment.lights):
        raise ValueError(f"town {stage.name} has light groups up to {stage.head_groups.max()}, the moment only {len(moment.lights)}")
    image = np.empty((height, width, 3), np.uint8)
    depth = np.zeros((height, width), np.float32)
    shade = np.ones((height, width), np.float32)
    lens = np.array([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2], width, height], float)
    rotation = np.ascontiguousarray(camera_pose[:3, :3].T)
    eye = camera_pose[:3, 3] - np.array([*stage.ground.origin, 0.0])
    light = np.concatenate([look.sun, [look.sun_strength, look.ambient], look.tint])
    haze = np.concatenate([[look.haze], look.sky_horizon])
    sky = np.stack([look.sky_top, look.sky_horizon])
    paints = np.array([[226.0, 226.0, 222.0], [228.0, 176.0, 44.0]])
    materials = np.concatenate([[look.asphalt, look.pavement], paints, [look.grass]])
    drift = -look.sun[:2] / max(look.sun[2], 0.35) * min(1.0, look.sun_strength / 0.5)
    darkness = np.float32(max(0.52, look.ambient / (look.ambient + look.sun_strength * look.sun[2]) * 0.85))

    seeds = moment.seeds
    mesh = mesh_of(moment.types, moment.boxes, seeds)
    boxes = moment.boxes
    rows = np.column_stack([boxes[:, :2] - stage.ground.origin, np.zeros(len(boxes)), boxes[:, 2:]])
    heads = lit(moment.lights[stage.head_groups])
    moving = (np.concatenate([mesh, np.full(len(heads), _HEAD)]), np.concatenate([rows, stage.heads]))
    painted = paint(mesh, seeds)
    painted[moment.braking, shapes.TAILLIGHT] = BRAKE_LIGHT
    colours = np.concatenate([painted, heads])
    scene = (lens, eye, rotation)
    for things, paints in ((moving, colours), ((stage.mesh, stage.rows), stage.colours)):
        raster.draw_things(image, depth, *scene, light, haze, REACH, *_MESHES, *things, paints)
        raster.draw_shadows(shade, *scene, drift, REACH, _SHADOW, *things, darkness)
    raster.draw_crowns(image, depth, *scene, light, haze, REACH, stage.crowns, look.leaves, _NOISE)
    floor = stage.ground
    patches = (floor.mixtures, SHARES, floor.cells, floor.starts, floor.shapes, CELL)
    raster.draw_ground(image, depth, shade, *scene, light, haze, sky, materials, *patches, _NOISE)
    return image
