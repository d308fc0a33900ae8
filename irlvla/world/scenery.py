"""What a camera can see of a town: the standing things (`Scenery`) and the moving ones at one frame (`Moment`), on disk and in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from irlvla.types import OBJECT_NAMES, Polygons
from irlvla.world.look import Look, look_from_values, look_values

GROUND_NAMES = ("grass", "asphalt", "pavement", "kerb", "white", "yellow", "bare")
"""Classes of ground; a ground polygon's class is its index here. Polygons are painted in order, later ones on top."""
LIGHT_NAMES = ("off", "red", "yellow", "green")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenery:
    """The standing things of one town. Positions are global minus `origin`, which keeps them small; headings are global.

    Buildings: x, y, heading, length (along the heading), width, height. Trees: x, y, height, crown radius.
    Poles carry traffic lights: x, y, heading (the direction that the lamps look in, against the traffic), arm length (of a
    mast arm that reaches to the left as the driver sees it, to the right if negative, 0 for none). `pole_groups` says which poles
    change together: `Moment.lights` has one state a group.
    """

    name: str
    origin: Float[np.ndarray, "2"]
    ground: Polygons
    ground_classes: Int[np.ndarray, "polygons"]
    buildings: Float[np.ndarray, "buildings 6"]
    building_seeds: Int[np.ndarray, "buildings"]
    trees: Float[np.ndarray, "trees 4"]
    poles: Float[np.ndarray, "poles 4"]
    pole_groups: Int[np.ndarray, "poles"]

    def __post_init__(self) -> None:
        if len(self.ground) != len(self.ground_classes):
            raise ValueError(f"town {self.name}: {len(self.ground)} ground polygons, {len(self.ground_classes)} classes")
        if len(self.ground_classes) and not 0 <= self.ground_classes.min() <= self.ground_classes.max() < len(GROUND_NAMES):
            raise ValueError(f"town {self.name}: a ground class lies outside 0..{len(GROUND_NAMES) - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The moving things at one frame, the ego left out.

    Boxes: x, y (global, centre), heading, length, width, height. `types` index OBJECT_NAMES; cars, vans, trucks and buses
    are told apart by their size. `seeds` choose colours (keep one an object over its life). `lights` is the state of each
    pole group, an index into LIGHT_NAMES.
    """

    types: Int[np.ndarray, "objects"]
    boxes: Float[np.ndarray, "objects 6"]
    seeds: Int[np.ndarray, "objects"]
    braking: Bool[np.ndarray, "objects"]
    lights: Int[np.ndarray, "groups"]

    def __post_init__(self) -> None:
        if len(self.types) and not 0 <= self.types.min() <= self.types.max() < len(OBJECT_NAMES):
            raise ValueError(f"an object's type lies outside 0..{len(OBJECT_NAMES) - 1}")
        if len(self.lights) and not 0 <= self.lights.min() <= self.lights.max() < len(LIGHT_NAMES):
            raise ValueError(f"a traffic light's state lies outside 0..{len(LIGHT_NAMES) - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """What the camera needs of one log beside its town: the light, and the moving things of each kept frame."""

    town: str
    look: Look
    tokens: tuple[str, ...]
    moments: tuple[Moment, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.moments):
            raise ValueError(f"footage of town {self.town}: {len(self.tokens)} tokens, {len(self.moments)} moments")


def save_scenery(path: Path, scenery: Scenery) -> None:
    """Write a town's standing things to one .npz file."""
    np.savez_compressed(
        path,
        name=np.array(scenery.name),
        origin=scenery.origin,
        vertices=scenery.ground.vertices.astype(np.float32),
        ring_start=scenery.ground.ring_start.astype(np.int32),
        polygon_start=scenery.ground.polygon_start.astype(np.int32),
        ground_classes=scenery.ground_classes.astype(np.int8),
        buildings=scenery.buildings.astype(np.float32),
        building_seeds=scenery.building_seeds.astype(np.int32),
        trees=scenery.trees.astype(np.float32),
        poles=scenery.poles.astype(np.float32),
        pole_groups=scenery.pole_groups.astype(np.int32),
    )


def load_scenery(path: Path) -> Scenery:
    """Read a town's standing things from the file that `save_scenery` wrote."""
    with np.load(path, allow_pickle=False) as file:
        rows = {name: file[name] for name in file.files}
    return Scenery(
        name=str(rows["name"]),
        origin=rows["origin"],
        ground=Polygons(
            vertices=rows["vertices"].astype(float),
            ring_start=rows["ring_start"].astype(np.int64),
            polygon_start=rows["polygon_start"].astype(np.int64),
        ),
        ground_classes=rows["ground_classes"].astype(np.int64),
        buildings=rows["buildings"].astype(float),
        building_seeds=rows["building_seeds"].astype(np.int64),
        trees=rows["trees"].astype(float),
        poles=rows["poles"].astype(float),
        pole_groups=rows["pole_groups"].astype(np.int64),
    )


def save_footage(path: Path, footage: Footage) -> None:
    """Write one log's light and moving things to one .npz file."""
    moments = footage.moments
    starts = np.cumsum([0] + [len(moment.types) for moment in moments])
    np.savez_compressed(
        path,
        town=np.array(footage.town),
        look=look_values(footage.look),
        tokens=np.array(footage.tokens, dtype="U"),
        starts=starts.astype(np.int32),
        types=np.concatenate([moment.types for moment in moments] + [np.zeros(0)]).astype(np.int8),
        boxes=np.concatenate([moment.boxes for moment in moments] + [np.zeros((0, 6))]),
        seeds=np.concatenate([moment.seeds for moment in moments] + [np.zeros(0)]).astype(np.int64),
        braking=np.concatenate([moment.braking for moment in moments] + [np.zeros(0)]).astype(bool),
        lights=np.array([moment.lights for moment in moments], dtype=np.int8).reshape(
            len(moments), len(moments[0].lights) if moments else 0
        ),
    )


def load_footage(path: Path) -> Footage:
    """Read one log's light and moving things from the file that `save_footage` wrote."""
    with np.load(path, allow_pickle=False) as file:
        rows = {name: file[name] for name in file.files}
    starts = rows["starts"]
    moments = tuple(
        Moment(
            types=rows["types"][start:end].astype(np.int64),
            boxes=rows["boxes"][start:end],
            seeds=rows["seeds"][start:end],
            braking=rows["braking"][start:end],
            lights=lights.astype(np.int64),
        )
        for start, end, lights in zip(starts[:-1], starts[1:], rows["lights"], strict=True)
    )
    return Footage(
        town=str(rows["town"]), look=look_from_values(rows["look"]), tokens=tuple(str(token) for token in rows["tokens"]), moments=moments
    )
