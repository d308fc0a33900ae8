"""Colours of things: each thing's colour for each slot of its mesh, chosen by its seed and its state."""

import numpy as np
from jaxtyping import Float, Int

from irlvla.types import OBJECT_NAMES
from irlvla.world.shapes import (
    AMBER,
    BODY,
    DARK,
    GLASS,
    GREEN,
    HEADLIGHT,
    MESH_NAMES,
    RED,
    ROOF,
    SECOND,
    SKIN,
    SLOTS,
    TAILLIGHT,
    TRIM,
    WALL,
    WHITE,
)

CAR = np.array(
    [
        [238, 238, 236],
        [225, 226, 228],
        [168, 172, 178],
        [120, 124, 130],
        [62, 64, 70],
        [34, 34, 38],
        [26, 28, 32],
        [168, 28, 30],
        [120, 22, 30],
        [32, 66, 140],
        [44, 92, 168],
        [26, 84, 66],
        [196, 168, 120],
        [214, 120, 34],
    ],
    dtype=float,
)
VAN = np.array([[240, 240, 238], [232, 232, 230], [206, 208, 212], [60, 84, 130], [226, 190, 60], [120, 124, 130]], dtype=float)
CARGO = np.array([[236, 236, 232], [224, 222, 214], [190, 196, 202], [70, 104, 150], [150, 60, 50], [96, 130, 96]], dtype=float)
BUS = np.array([[226, 226, 222], [206, 60, 48], [52, 104, 178], [232, 188, 62], [66, 140, 96]], dtype=float)
CLOTHES = np.array(
    [[196, 50, 46], [54, 92, 168], [232, 226, 214], [232, 186, 60], [70, 130, 90], [36, 38, 46], [142, 78, 142], [226, 128, 60]],
    dtype=float,
)
TROUSERS = np.array([[42, 46, 62], [30, 30, 34], [88, 80, 70], [66, 86, 120]], dtype=float)
SKINS = np.array([[232, 192, 164], [204, 156, 122], [150, 104, 76], [98, 66, 50]], dtype=float)
WALLS = np.array(
    [[198, 178, 152], [176, 108, 86], [158, 92, 74], [206, 200, 188], [164, 164, 166], [188, 170, 126], [140, 134, 130], [214, 196, 164]],
    dtype=float,
)
ROOFS = np.array([[126, 70, 56], [96, 62, 54], [92, 92, 96], [74, 78, 86]], dtype=float)
PLAIN = {
    BODY: (150, 150, 150),
    SECOND: (96, 76, 58),
    GLASS: (44, 54, 66),
    DARK: (26, 26, 28),
    HEADLIGHT: (250, 248, 232),
    TAILLIGHT: (138, 14, 16),
    WHITE: (236, 236, 232),
    SKIN: (204, 156, 122),
    WALL: (180, 160, 140),
    ROOF: (110, 104, 100),
    RED: (206, 40, 34),
    AMBER: (244, 124, 26),
    GREEN: (40, 140, 70),
    TRIM: (66, 68, 72),
}
BRAKE_LIGHT = (255.0, 32.0, 20.0, 1.0)
LAMPS = {RED: ((66, 12, 10), (255, 36, 22)), AMBER: ((70, 48, 6), (255, 190, 20)), GREEN: ((6, 46, 26), (40, 255, 130))}
"""Colour of each lamp of a traffic light: dark, lit."""


def fractions(seeds: Int[np.ndarray, "*things"], salts: int | Int[np.ndarray, "salts"]) -> Float[np.ndarray, "*numbers"]:
    """A number in [0, 1) for each seed, the same for ever; different salts give independent numbers."""
    offset = np.atleast_1d(salts).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = np.asarray(seeds).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + offset
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(11)).astype(float) / float(1 << 53)


CHOICES = (
    (("sedan", "wagon", "truck"), BODY, CAR),
    (("van",), BODY, VAN),
    (("van", "truck"), SECOND, CARGO),
    (("bus",), BODY, BUS),
    (("bus",), SECOND, VAN),
    (("pedestrian", "bicycle"), BODY, CLOTHES),
    (("pedestrian", "bicycle"), DARK, TROUSERS),
    (("pedestrian", "bicycle"), SKIN, SKINS),
    (("bicycle",), SECOND, CLOTHES),
    (("pedestrian",), TRIM, SKINS * 0.35),
    (("bin",), SECOND, CLOTHES * 0.6),
    (("block", "house"), WALL, WALLS),
    (("house",), ROOF, ROOFS),
)
"""Meshes whose slot has a choice of colours."""


def _tables() -> tuple[Float[np.ndarray, "meshes 14 16 3"], Int[np.ndarray, "meshes 14"]]:
    """Palette of each slot of each mesh, padded, and how many colours it has."""
    palettes = np.zeros((len(MESH_NAMES), len(SLOTS), 16, 3))
    counts = np.ones((len(MESH_NAMES), len(SLOTS)), np.int64)
    for slot, colour in PLAIN.items():
        palettes[:, slot, 0] = colour
    for names, slot, palette in CHOICES:
        for name in names:
            palettes[MESH_NAMES.index(name), slot, : len(palette)] = palette
            counts[MESH_NAMES.index(name), slot] = len(palette)
    return palettes, counts


_PALETTES, _COUNTS = _tables()
_SALTS = np.arange(5, 5 + len(SLOTS))


def paint(mesh: Int[np.ndarray, "things"], seeds: Int[np.ndarray, "things"]) -> Float[np.ndarray, "things 14 4"]:
    """R, G, B (0..255) and glow (0 or 1) of each slot of each thing; headlights glow."""
    slots = np.arange(len(SLOTS))
    counts = _COUNTS[mesh]
    chosen = (fractions(seeds[:, None], _SALTS) * counts).astype(np.int64)
    shade = np.where(counts > 1, 0.88 + 0.2 * fractions(seeds, 3)[:, None], 1.0)
    colours = np.zeros((len(mesh), len(SLOTS), 4))
    colours[:, :, :3] = np.minimum(_PALETTES[mesh[:, None], slots, chosen] * shade[:, :, None], 255.0)
    gables = mesh == MESH_NAMES.index("house")
    colours[gables, BODY] = colours[gables, WALL]
    colours[:, HEADLIGHT, 3] = 1
    return colours


def lit(states: Int[np.ndarray, "heads"]) -> Float[np.ndarray, "heads 14 4"]:
    """Colours of traffic light heads in their states (indices into LIGHT_NAMES): one lamp glows, the others are dark."""
    return _LIT[states]


def _lit() -> Float[np.ndarray, "states 14 4"]:
    colours = paint(np.full(4, MESH_NAMES.index("head")), np.zeros(4, np.int64))
    for state, slot in ((1, RED), (2, AMBER), (3, GREEN)):
        dark, bright = LAMPS[slot]
        colours[:, slot, :3] = dark
        colours[state, slot] = (*bright, 1)
    return colours


_LIT = _lit()


def mesh_of(
    types: Int[np.ndarray, "objects"], boxes: Float[np.ndarray, "objects 6"], seeds: Int[np.ndarray, "objects"]
) -> Int[np.ndarray, "objects"]:
    """Which mesh draws each object: its type, and for vehicles their size."""
    length, height = boxes[:, 3], boxes[:, 5]
    wagon = (length > 4.9) | (height > 1.6) | (fractions(seeds, 11) < 0.3)
    size = np.where(wagon, 1, 0)
    size[(height >= 1.9) & (length < 7.2)] = 2
    size[length >= 7.2] = 3
    size[length >= 10.8] = 4
    return np.where(types == OBJECT_NAMES.index("vehicle"), _VEHICLES[size], _MESH_OF_TYPE[types])


_VEHICLES = np.array([MESH_NAMES.index(name) for name in ("sedan", "wagon", "van", "truck", "bus")])
_OTHERS = {"pedestrian": "pedestrian", "bicycle": "bicycle", "traffic_cone": "cone", "barrier": "barrier", "czone_sign": "sign"}
_MESH_OF_TYPE = np.array([MESH_NAMES.index(_OTHERS.get(name, "bin")) for name in OBJECT_NAMES])
