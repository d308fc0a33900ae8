"""Plans drawn into camera pictures and onto the ground from above: one page a scene, or many scenes on a sheet.

A plan is the ribbon that the front bumper sweeps, as wide as the car, on flat ground: from where it is now to where it will be after
4 s. Bars across it stand 1 s apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from irlvla.data.features import human_poses
from irlvla.observed import Observed
from irlvla.types import COMMAND_NAMES, HISTORY, Camera, Scene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, WIDTH
from irlvla.viewer.lens import ground, pixels

FRONT = LENGTH / 2 + REAR_AXLE_TO_CENTER
"""The front bumper, ahead of the rear axle, m."""
AHEAD, BEHIND, ASIDE = 44.0, 10.0, 16.0
"""What is seen from above, m."""
FINE = 10
"""Points of a ribbon between two poses."""
SMOOTH = 3
"""Drawings are made this many times as large and then reduced."""
COLOURS = ((255, 122, 26), (58, 150, 255), (206, 90, 255), (64, 200, 120))
"""Of plans, in their order."""
FILL = 105
"""How opaque the first plan's ribbon is, of 255."""
DRIVEN = (255, 255, 255)
PROPOSAL = (255, 236, 150)
SHADE = (18, 20, 24)
PAPER, INK, FAINT = (24, 26, 31), (236, 238, 242), (150, 155, 165)
BOX, SEEN = (250, 214, 90), (80, 235, 150)
LINES = ((130, 190, 255), (235, 235, 235), (255, 236, 120), (255, 90, 90))
"""Of map lines that a policy sees, in the order of LINE_NAMES."""
MARGIN, HEADER = 10, 46
GRID = ("CAM_L1", "CAM_L0", "CAM_R0", "CAM_R1", "CAM_L2", "CAM_B0", "CAM_R2")
"""Small pictures of a page in their order; the front camera's is the large one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A scene and what shall be drawn into its pictures. Poses are in the ego frame of the moment, m and rad.

    `proposals` are thin lines, the more confident the stronger; `confidences` are shares, at most 1 together. `boxes`, x, y, heading,
    length and width of what is known to be around, are outlined from above; so are those that the policy says it sees (`seen`), and its
    map lines. `road`: height of the road in the ego frame, m: 0 in the embedded world and in converted PandaSet logs, about -0.4 in
    NAVSIM's, whose origin is the axle's middle.
    """

    title: str
    note: str
    cameras: tuple[Camera, ...]
    driven: Float[np.ndarray, "8 3"]
    plans: Mapping[str, Float[np.ndarray, "8 3"]]
    proposals: Float[np.ndarray, "proposals 8 3"] | None = None
    confidences: Float[np.ndarray, "proposals"] | None = None
    boxes: Float[np.ndarray, "boxes 5"] | None = None
    seen: Observed | None = None
    road: float = 0.0

    def __post_init__(self) -> None:
        if len(self.plans) > len(COLOURS):
            raise ValueError(f"{self.title}: {len(self.plans)} plans, there are colours for {len(COLOURS)}")
        if not self.cameras:
            raise ValueError(f"{self.title}: no camera to draw into")


def shown_scene(
    scene: Scene,
    plans: Mapping[str, Float[np.ndarray, "8 3"]],
    proposals: Float[np.ndarray, "proposals 8 3"] | None = None,
    confidences: Float[np.ndarray, "proposals"] | None = None,
    seen: Observed | None = None,
    note: str = "",
    road: float = 0.0,
) -> Shown:
    """A scene of any log, ready to be drawn; annotated objects are outlined, cameras without a picture on disk left out.

    Args:
        scene: with pictures on disk.
        plans: by name, in the ego frame.
        proposals: what else the policy thought of.
        confidences: of the proposals.
        seen: what the policy says that it sees; its text is written below the title.
        note: to be written beside the title, behind speed and command.
        road: height of the road in the ego frame, m.
    """
    boxes = None if scene.objects is None else scene.objects[HISTORY - 1].boxes[:, [0, 1, 6, 3, 4]].astype(np.float64)
    command = COMMAND_NAMES[int(np.argmax(scene.commands[HISTORY - 1]))]
    about = f"{np.hypot(*scene.ego_velocities[HISTORY - 1]):.1f} m/s, {command}"
    about += f", {note}" if note else ""
    return Shown(
        title=f"{scene.log_name}  {scene.token}",
        note=about + (f': "{seen.text}"' if seen is not None and seen.text else ""),
        cameras=tuple(camera for camera in scene.cameras[HISTORY - 1] if Path(camera.path).is_file()),
        driven=human_poses(scene),
        plans=plans,
        proposals=proposals,
        confidences=confidences,
        boxes=boxes,
        seen=seen,
        road=road,
    )


def page(shown: Shown, width: int = 1500) -> Image.Image:
    """One scene: the front picture large, the others small below, the ground from above beside them.

    Args:
        shown: the scene.
        width: of the page in pixels.
    """
    pictures = _pictures(shown.cameras)
    front = next((name for name in pictures if name == "CAM_F0"), next(iter(pictures)))
    small = [name for name in GRID if name in pictures and name != front]
    above_width = round(0.27 * width)
    large_width = width - above_width - 3 * MARGIN
    large = _view(shown, *pictures[front], large_width)
    below = (large_width - MARGIN * (len(small) - 1)) // max(len(small), 1)
    row = [_view(shown, *pictures[name], below) for name in small]
    height = large.height + (MARGIN + max(view.height for view in row) if row else 0)
    paper = Image.new("RGB", (width, HEADER + height + MARGIN), PAPER)
    paper.paste(large, (MARGIN, HEADER))
    for place, (name, view) in enumerate(zip(small, row)):
        corner = (MARGIN + place * (below + MARGIN), HEADER + large.height + MARGIN)
        paper.paste(view, corner)
        _write(ImageDraw.Draw(paper), (corner[0] + 6, corner[1] + 4), name.removeprefix("CAM_"), 13, INK)
    paper.paste(_above(shown, pictures, (above_width, height)), (large_width + 2 * MARGIN, HEADER))
    _head(paper, shown, width)
    return paper


def contact_sheet(scenes: Sequence[Shown], columns: int = 2, width: int = 1500) -> Image.Image:
    """Many scenes, the front picture and the ground from above of each.

    Args:
        scenes: at least one.
        columns: scenes side by side.
        width: of the sheet in pixels.

    Raises:
        ValueError: there is no scene.
    """
    if not scenes:
        raise ValueError("no scene to draw")
    cell = (width - MARGIN * (columns + 1)) // columns
    cells = [_cell(shown, cell) for shown in scenes]
    tall = max(one.height for one in cells) + MARGIN
    rows = -(-len(cells) // columns)
    paper = Image.new("RGB", (width, HEADER + rows * tall), PAPER)
    for place, one in enumerate(cells):
        paper.paste(one, (MARGIN + place % columns * (cell + MARGIN), HEADER + place // columns * tall))
    _legend(ImageDraw.Draw(paper), scenes[0], (MARGIN, 14))
    return paper


def _cell(shown: Shown, width: int) -> Image.Image:
    pictures = _pictures(shown.cameras)
    front = pictures.get("CAM_F0", next(iter(pictures.values())))
    above_width = round(0.24 * width)
    view = _view(shown, *front, width - above_width - 4)
    paper = Image.new("RGB", (width, view.height + 20), PAPER)
    _write(ImageDraw.Draw(paper), (0, 1), f"{shown.title}   {shown.note}", 13, INK)
    paper.paste(view, (0, 20))
    paper.paste(_above(shown, pictures, (above_width, view.height)), (view.width + 4, 20))
    return paper


def _pictures(cameras: Sequence[Camera]) -> dict[str, tuple[Camera, UInt8[np.ndarray, "_ _ 3"]]]:
    found = {}
    for camera in cameras:
        with Image.open(camera.path, formats=("JPEG", "PNG")) as picture:
            found[camera.name] = camera, np.asarray(picture.convert("RGB"))
    return found


def _view(shown: Shown, camera: Camera, picture: np.ndarray, width: int) -> Image.Image:
    """A camera's picture with the plans on the ground."""
    height = round(width * picture.shape[0] / picture.shape[1])
    scale = SMOOTH * width / picture.shape[1]

    def place(points: np.ndarray) -> np.ndarray:
        """Pixels of points on the ground, NaN where the lens does not show them."""
        found, seen = pixels(np.concatenate([points, np.full((*points.shape[:-1], 1), shown.road)], axis=-1), camera)
        return np.where(seen[..., None], found * scale, np.nan)

    image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    for layer in _layers(shown, place, (SMOOTH * width, SMOOTH * height), SMOOTH * width / 900):
        image.alpha_composite(layer.resize((width, height), Image.Resampling.BOX))
    return image.convert("RGB")


def _above(shown: Shown, pictures: Mapping[str, tuple[Camera, np.ndarray]], size: tuple[int, int]) -> Image.Image:
    """The ground from above, of a given size in pixels; what does not fit its shape is cut off in front and at the sides."""
    scale = max(size[0] / (2 * ASIDE), size[1] / (AHEAD + BEHIND))
    ahead, aside = size[1] / scale - BEHIND, size[0] / scale / 2
    colours, sharpness = ground(pictures, ahead, BEHIND, aside, scale, shown.road)
    # What is known by less than a pixel for 20 cm fades into the paper.
    known = np.clip(sharpness / 5.0, 0.0, 1.0)[..., None] * 0.8
    image = Image.fromarray((colours * known + np.array(PAPER) * (1 - known)).astype(np.uint8)).resize(size).convert("RGBA")

    def place(points: np.ndarray) -> np.ndarray:
        return np.stack([aside - points[..., 1], ahead - points[..., 0]], axis=-1) * scale * SMOOTH

    under = Image.new("RGBA", (SMOOTH * size[0], SMOOTH * size[1]))
    draw = ImageDraw.Draw(under)
    for distance in range(10, 60, 10):
        turn = np.linspace(-np.pi, np.pi, 241)
        circle = place(distance * np.stack([np.cos(turn), np.sin(turn)], axis=1))
        draw.line(_flat(circle), fill=(255, 255, 255, 46), width=SMOOTH)
    for box in np.zeros((0, 5)) if shown.boxes is None else shown.boxes:
        corners = place(_corners(box))
        draw.line(_flat([*corners, corners[0], corners[1]]), fill=(*BOX, 235), width=round(1.4 * SMOOTH), joint="curve")
    for box in np.zeros((0, 5)) if shown.seen is None else shown.seen.boxes:
        corners = place(_corners(box))
        draw.line(_flat([*corners, corners[0], corners[1]]), fill=(*SEEN, 235), width=round(1.8 * SMOOTH), joint="curve")
    if shown.seen is not None:
        for line, kind in zip(shown.seen.lines, shown.seen.kinds):
            draw.line(_flat(place(line)), fill=(*LINES[kind], 200), width=round(1.2 * SMOOTH), joint="curve")
    ego = place(_corners(np.array((REAR_AXLE_TO_CENTER, 0.0, 0.0, LENGTH, WIDTH))))
    draw.polygon(_flat(ego), fill=(*SHADE, 150), outline=(*INK, 255), width=round(1.6 * SMOOTH))
    layers = [under, *_layers(shown, place, under.size, SMOOTH * scale / 9)]
    for layer in layers:
        image.alpha_composite(layer.resize(size, Image.Resampling.BOX))
    draw = ImageDraw.Draw(image)
    for distance in range(10, int(ahead), 10):
        _write(draw, (3, round((ahead - distance) * scale) - 13), f"{distance} m", 11, FAINT)
    return image.convert("RGB")


def _layers(shown: Shown, place, size: tuple[int, int], thick: float) -> list[Image.Image]:
    """Drawings to be laid over a picture one after the other; `place` takes points on the ground (m) to pixels."""
    layers = []
    if shown.proposals is not None and shown.confidences is not None:
        layer = Image.new("RGBA", size)
        draw = ImageDraw.Draw(layer)
        for index in np.argsort(shown.confidences):
            share = float(np.sqrt(shown.confidences[index]))
            line = place(_swept(shown.proposals[index])[0])
            for piece in _pieces(line):
                draw.line(
                    _flat(piece),
                    fill=(*PROPOSAL, round(60 + 190 * share)),
                    width=max(1, round(thick * (0.8 + 2.2 * share))),
                    joint="curve",
                )
        layers.append(layer)
    for number, (poses, colour) in enumerate(zip(shown.plans.values(), COLOURS)):
        # Only the first is filled: plans often lie upon each other, and mixed colours are nobody's.
        layers.append(_ribbon(poses, colour, place, size, thick, FILL if number == 0 else 0))
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    middle = _swept(shown.driven)[0]
    for width, colour in ((5.0, SHADE), (2.4, DRIVEN)):
        for piece in _pieces(place(middle)):
            draw.line(_flat(piece), fill=(*colour, 235), width=round(thick * width), joint="curve")
        for point in place(middle[2 * FINE :: 2 * FINE]):
            if np.isfinite(point).all():
                radius = thick * (width + 3.0)
                draw.ellipse([*(point - radius), *(point + radius)], fill=(*colour, 255))
    return [*layers, layer]


def _ribbon(poses: np.ndarray, colour: tuple[int, int, int], place, size: tuple[int, int], thick: float, fill: int) -> Image.Image:
    middle, left, right = _swept(poses)
    layer = Image.new("RGBA", size)
    # Without mixing: neighbouring pieces must not shine through where they touch.
    draw = ImageDraw.Draw(layer)
    left, right = place(left), place(right)
    quads = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)
    for quad in quads[np.isfinite(quads).all((1, 2))]:
        draw.polygon(_flat(quad), fill=(*colour, fill))
    for edge in (left, right):
        for piece in _pieces(edge):
            draw.line(_flat(piece), fill=(*colour, 240), width=max(1, round(2.2 * thick)), joint="curve")
    for step in range(2, len(poses) + 1, 2):
        bar = np.stack([left[step * FINE], right[step * FINE]])
        if np.isfinite(bar).all():
            draw.line(_flat(bar), fill=(*colour, 255), width=max(1, round((5.0 if step == len(poses) else 2.2) * thick)))
    return layer


def _swept(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The middle, the left and the right end of the front bumper along a plan from now on, FINE points a pose."""
    knots = np.concatenate([np.zeros((1, 3)), poses])
    knots[:, 2] = np.unwrap(knots[:, 2])
    share = np.linspace(0.0, 1.0, FINE, endpoint=False)[None, :, None]
    start, end = knots[:-1, None, :2], knots[1:, None, :2]
    # A cubic that leaves and arrives along the headings; the rear axle does not slip.
    chord = np.linalg.norm(end - start, axis=-1, keepdims=True)
    leaving, arriving = (chord * np.stack([np.cos(turn), np.sin(turn)], axis=-1)[:, None] for turn in (knots[:-1, 2], knots[1:, 2]))
    square, cube = share**2, share**3
    curve = (2 * cube - 3 * square + 1) * start + (cube - 2 * square + share) * leaving
    curve = curve + (3 * square - 2 * cube) * end + (cube - square) * arriving
    heading = knots[:-1, None, 2:] + share * (knots[1:, None, 2:] - knots[:-1, None, 2:])
    centre = np.concatenate([curve.reshape(-1, 2), knots[-1:, :2]])
    turn = np.concatenate([heading.ravel(), knots[-1:, 2]])
    ahead, aside = np.stack([np.cos(turn), np.sin(turn)], axis=1), np.stack([-np.sin(turn), np.cos(turn)], axis=1)
    middle = centre + FRONT * ahead
    return middle, middle + WIDTH / 2 * aside, middle - WIDTH / 2 * aside


def _corners(box: np.ndarray) -> np.ndarray:
    """Corners of x, y, heading, length, width; the front ones first."""
    x, y, heading, length, width = box
    corners = np.array([[length, width], [length, -width], [-length, -width], [-length, width]]) / 2
    cos, sin = np.cos(heading), np.sin(heading)
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def _pieces(line: np.ndarray) -> list[np.ndarray]:
    """A line's parts between points that are not shown (NaN)."""
    shown = np.isfinite(line).all(axis=1)
    parts = np.split(np.arange(len(line)), np.flatnonzero(~shown))
    found = [line[part[shown[part]]] for part in parts]
    return [piece for piece in found if len(piece) > 1]


def _flat(points) -> list[tuple[float, float]]:
    """Points as Pillow wants them, within what it can draw."""
    return [(float(x), float(y)) for x, y in np.clip(points, -20_000, 20_000)]


def _head(paper: Image.Image, shown: Shown, width: int) -> None:
    draw = ImageDraw.Draw(paper)
    _write(draw, (MARGIN, 4), shown.title, 18, INK)
    _write(draw, (MARGIN, 26), shown.note, 13, FAINT)
    long = sum(40 + _length(name) for name, _, _ in _entries(shown))
    _legend(draw, shown, (max(width - long, MARGIN), 14))


def _entries(shown: Shown) -> list[tuple[str, tuple[int, int, int], int]]:
    """Names, colours and heights of the legend's marks."""
    entries = [(name, colour, 12) for name, colour in zip(shown.plans, COLOURS)] + [("driven", DRIVEN, 4)]
    entries += [("proposals", PROPOSAL, 4)] if shown.proposals is not None else []
    entries += [("annotated", BOX, 2)] if shown.boxes is not None else []
    return entries + ([("seen", SEEN, 2)] if shown.seen is not None and len(shown.seen.boxes) else [])


def _legend(draw: ImageDraw.ImageDraw, shown: Shown, corner: tuple[int, int]) -> None:
    x, y = corner
    for name, colour, tall in _entries(shown):
        draw.rectangle([x, y + 8 - tall // 2, x + 20, y + 8 + tall // 2], fill=colour)
        _write(draw, (x + 26, y), name, 14, INK)
        x += 40 + _length(name)


def _length(text: str) -> int:
    return round(ImageFont.load_default(14).getlength(text))


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> None:
    draw.text(corner, text, font=ImageFont.load_default(size), fill=colour)
