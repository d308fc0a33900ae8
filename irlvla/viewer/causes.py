"""Causes and their controls, drawn: what a policy was shown, with the plan that it made of the pictures as they were and of these."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from irlvla.model.cameras import NEAREST, projected
from irlvla.types import Rig

SCALE = 2
"""Pictures are drawn so much larger."""
BEFORE, AFTER = (255, 150, 20), (30, 120, 255)
GAP = 4
TITLE = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One version of a moment: its first views, and the plans of the original and of this version, in the ego frame."""

    title: str
    images: UInt8[np.ndarray, "views height width 3"]
    before: Float[np.ndarray, "8 3"]
    after: Float[np.ndarray, "8 3"]


def contact_sheet(rows: Sequence[tuple[Rig, Sequence[Panel]]], views: int = 2) -> Image.Image:
    """A picture with a row for each moment and a column for each of its versions; in each the first views, one below the other.

    Args:
        rows: the cameras of each moment, and its versions.
        views: so many of the first views are shown.
    """
    _, height, width, _ = rows[0][1][0].images.shape
    wide, tall = SCALE * width + GAP, TITLE + views * (SCALE * height + GAP)
    sheet = Image.new("RGB", (wide * max(len(panels) for _, panels in rows), tall * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (rig, panels) in enumerate(rows):
        for column, panel in enumerate(panels):
            draw.text((column * wide + 2, row * tall + 1), panel.title, fill="black")
            for view in range(views):
                image = Image.fromarray(panel.images[view]).resize((SCALE * width, SCALE * height), Image.Resampling.NEAREST)
                for poses, colour, thick in ((panel.before, BEFORE, 4), (panel.after, AFTER, 2)):
                    _draw_plan(image, poses, rig, view, colour, thick)
                sheet.paste(image, (column * wide, row * tall + TITLE + view * (SCALE * height + GAP)))
    return sheet


def _draw_plan(image: Image.Image, poses: np.ndarray, rig: Rig, view: int, colour: tuple[int, int, int], thick: int) -> None:
    """The plan as a line on the ground, as far as it lies ahead of the camera."""
    line = np.concatenate([np.zeros((1, 2)), poses[:, :2]])
    along = np.linspace(0.0, len(line) - 1, 8 * len(line))
    points = np.column_stack([*(np.interp(along, np.arange(len(line)), line[:, axis]) for axis in range(2)), np.zeros(len(along))])
    calibration = (torch.from_numpy(values[view : view + 1]).double() for values in (rig.intrinsics, rig.distortion, rig.ego_from_camera))
    places, depth, _ = projected(torch.from_numpy(points), *calibration)
    pixels = (places[0].numpy() * image.size)[depth[0].numpy() > NEAREST]
    draw = ImageDraw.Draw(image)
    if len(pixels) > 1:
        draw.line([tuple(pixel) for pixel in pixels.tolist()], fill=colour, width=thick)
        x, y = pixels[-1].tolist()
        draw.ellipse([x - thick, y - thick, x + thick, y + thick], fill=colour)
