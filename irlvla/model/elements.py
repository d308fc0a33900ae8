"""Detection tokens and map tokens: queries that find objects' boxes and the map's polylines in the bird's-eye view.

Each query holds a box or a polyline, guessed at first, and betters it layer by layer: it attends to the other queries and to the
coarse cells, and looks the fine grid up around its box or at its polyline's points. Boxes and polylines share the layers, so that
a vehicle may be explained by the lane it drives on. `irlvla.model.element_loss` teaches.

Source: Deformable DETR (arXiv 2010.04159, section 4.1) for the refinement of reference points, DETR3D (arXiv 2110.06922) for looking
features up at them, MapTR (arXiv 2208.14437) for polylines of evenly spaced points. Differs: one query a polyline, not one a point.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, GRID_SIDE, GRID_SIZE, CrossAttention, feed_forward, footprints, grid_lookup, squashed
from irlvla.types import LINE_NAMES, LINE_POINTS, OBJECT_GROUP_NAMES

CLASSES = len(OBJECT_GROUP_NAMES) + 1
"""Logits of a detection query: OBJECT_GROUP_NAMES, then "none"."""
KINDS = len(LINE_NAMES) + 1
"""Logits of a map query: LINE_NAMES, then "none"."""
PLACE_SCALE = 10.0
"""Places in m and velocities in m/s are divided by it where layers compute with them."""
LOG_SIZE_RANGE = (-3.0, 4.0)
"""Log of a box's length and width in m: 5 cm to 55 m."""
AROUND = ((0.0, 0.0), (3.0, 0.0), (-3.0, 0.0), (0.0, 3.0), (0.0, -3.0), (7.0, 0.0), (-7.0, 0.0), (0.0, 7.0), (0.0, -7.0))
"""Where a box's surroundings are looked up (m, ahead and left of its centre): within it, beside it, and where it may be instead."""
WAVES = (1.0, 2.0, 4.0, 8.0)
"""Waves over the grid's side by which a layer tells places apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementConfig:
    """The element decoder: numbers of queries and layers; `width` and `channels` are the bird's-eye view's."""

    detections: int = 24
    lines: int = 24
    layers: int = 2
    width: int = 96
    channels: int = 24
    cells: int = 64
    heads: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one layer has found around a moment, in the ego frame.

    `boxes`: centre x, y, length, width (m), heading (rad), velocity x, y (m/s), as in `Elements`; `box_codes` are the same as the layers
    hold them (`box_codes()`). Tokens are what the planner sees: what a query knows, and its box or polyline itself.
    """

    detection_tokens: Float[Tensor, "scenes detections width"]
    boxes: Float[Tensor, "scenes detections 7"]
    box_codes: Float[Tensor, "scenes detections 8"]
    class_logits: Float[Tensor, "scenes detections 5"]
    map_tokens: Float[Tensor, "scenes lines width"]
    lines: Float[Tensor, "scenes lines 10 2"]
    kind_logits: Float[Tensor, "scenes lines 5"]


class ElementLayer(nn.Module):
    """One round: where am I, who is near me, what is in the cells, what is in the grid right here; then a better answer."""

    def __init__(self, config: ElementConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.box_place = nn.Linear(8 + 4 * len(WAVES), width)
        self.line_place = nn.Linear(2 * LINE_POINTS + 12 * len(WAVES), width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.attention = CrossAttention(width, width, config.heads)
        self.around = nn.Linear(len(AROUND) * config.channels, width)
        self.along = nn.Linear(LINE_POINTS * config.channels, width)
        self.mixer_norm = nn.LayerNorm(width)
        self.mixer = feed_forward(width, 2 * width, width)
        self.out_norm = nn.LayerNorm(width)
        self.box = feed_forward(width, width, 8)
        self.line = feed_forward(width, width, 2 * LINE_POINTS)
        self.classes = nn.Linear(width, CLASSES)
        self.kinds = nn.Linear(width, KINDS)
        self.register_buffer("offsets", torch.tensor(AROUND), persistent=False)
        for last in (self.mixed, self.box[-1], self.line[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self,
        values: Float[Tensor, "scenes queries width"],
        codes: Float[Tensor, "scenes detections 8"],
        lines: Float[Tensor, "scenes lines 10 2"],
        cells: Float[Tensor, "scenes cells width"],
        grid: Float[Tensor, "scenes channels rows columns"],
    ) -> Float[Tensor, "scenes queries width"]:
        """Values of the queries after looking, where boxes (`codes`) and `lines` (m) are so far; detections first."""
        ends = torch.stack([lines[:, :, 0], lines[:, :, LINE_POINTS // 2], lines[:, :, -1]], dim=2)
        shape = torch.cat([lines.flatten(2) / PLACE_SCALE, place_waves(ends).flatten(2)], dim=2)
        place = torch.cat([codes, place_waves(codes[..., :2] * PLACE_SCALE)], dim=2)
        values = values + torch.cat([self.box_place(place), self.line_place(shape)], dim=1)
        poses = torch.cat([codes[..., :2] * PLACE_SCALE, torch.atan2(codes[..., 5:6], codes[..., 4:5])], dim=2)
        around = footprints(poses[:, :, None], self.offsets)
        with torch.autocast(values.device.type, torch.bfloat16):
            values = values + self._mixed(self.norm(values))
            values = self.attention(values, cells)
            # One lookup for both: its backward pass goes through the whole grid.
            points = torch.cat([around.flatten(1, 2), lines.flatten(1, 2)], dim=1)
            seen = grid_lookup(grid, points[:, :, None]).split([around.shape[1] * len(AROUND), lines.shape[1] * LINE_POINTS], dim=1)
            seen = (
                self.around(seen[0].unflatten(1, around.shape[1:3]).flatten(2)),
                self.along(seen[1].unflatten(1, lines.shape[1:3]).flatten(2)),
            )
            values = values + torch.cat(seen, dim=1)
            return (values + self.mixer(self.mixer_norm(values))).float()

    def _mixed(self, values: Float[Tensor, "scenes queries width"]) -> Float[Tensor, "scenes queries width"]:
        """Self-attention among the queries."""
        query, key, value = self.mix(values).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # On a CPU the fused kernel's backward pass is several times slower than these two products.
        weights = torch.softmax(query @ key.transpose(2, 3) * query.shape[-1] ** -0.5, dim=-1).to(value.dtype)
        return self.mixed((weights @ value).transpose(1, 2).flatten(2))


class ElementDecoder(nn.Module):
    """Bird's-eye cells and grid to detection and map tokens."""

    def __init__(self, config: ElementConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.values = nn.Parameter(0.1 * torch.randn(config.detections + config.lines, width))
        self.first_codes = nn.Parameter(first_codes(config.detections))
        self.first_lines = nn.Parameter(first_lines(config.lines))
        self.cell_places = nn.Parameter(0.1 * torch.randn(config.cells, width))
        self.layers = nn.ModuleList(ElementLayer(config) for _ in range(config.layers))
        self.box_token = nn.Linear(8 + CLASSES, width)
        self.line_token = nn.Linear(2 * LINE_POINTS + KINDS, width)

    def forward(self, cells: Float[Tensor, "scenes cells width"], grid: Float[Tensor, "scenes channels 32 32"]) -> list[Found]:
        """What each layer finds, the last one's being the answer.

        Args:
            cells: coarse bird's-eye tokens.
            grid: fine bird's-eye features as `SceneTokens` holds them.

        Returns:
            One `Found` a layer; queries keep their order.
        """
        scenes, detections = len(cells), self.config.detections
        cells, grid = functional.layer_norm(cells.float(), cells.shape[-1:]) + self.cell_places, squashed(grid)
        values = self.values.expand(scenes, -1, -1)
        codes, lines = self.first_codes.expand(scenes, -1, -1), self.first_lines.expand(scenes, -1, -1, -1)
        outputs = []
        for layer in self.layers:
            values = layer(values, codes, lines, cells, grid)
            seen = layer.out_norm(values)
            objects, roads = seen[:, :detections], seen[:, detections:]
            # Each layer answers for its own step: the next one starts from here without teaching this one.
            codes = codes + layer.box(objects)
            lines = lines + PLACE_SCALE * layer.line(roads).unflatten(2, (LINE_POINTS, 2))
            outputs.append(self._found(objects, codes, layer.classes(objects), roads, lines, layer.kinds(roads)))
            codes, lines = codes.detach(), lines.detach()
        return outputs

    def _found(self, objects: Tensor, codes: Tensor, class_logits: Tensor, roads: Tensor, lines: Tensor, kind_logits: Tensor) -> Found:
        # What a planner wants of the tokens must not bend boxes and lines: they answer to the annotations alone.
        boxes = torch.cat([codes, torch.softmax(class_logits, dim=-1)], dim=2).detach()
        shapes = torch.cat([lines.flatten(2) / PLACE_SCALE, torch.softmax(kind_logits, dim=-1)], dim=2).detach()
        return Found(
            detection_tokens=objects + self.box_token(boxes),
            boxes=boxes_of(codes),
            box_codes=codes,
            class_logits=class_logits,
            map_tokens=roads + self.line_token(shapes),
            lines=lines,
            kind_logits=kind_logits,
        )


def box_codes(boxes: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 8"]:
    """Boxes as layers and losses hold them: x, y (10 m), log length, log width, cos and sin of the heading, velocity (10 m/s)."""
    x, y, length, width, heading, velocity_x, velocity_y = boxes.unbind(-1)
    size = (torch.log(length).clamp(*LOG_SIZE_RANGE), torch.log(width).clamp(*LOG_SIZE_RANGE))
    place, speed = (x / PLACE_SCALE, y / PLACE_SCALE), (velocity_x / PLACE_SCALE, velocity_y / PLACE_SCALE)
    return torch.stack([*place, *size, torch.cos(heading), torch.sin(heading), *speed], dim=-1)


def boxes_of(codes: Float[Tensor, "*batch 8"]) -> Float[Tensor, "*batch 7"]:
    """The inverse of `box_codes`: x, y, length, width (m), heading in (-pi, pi], vx, vy (m/s)."""
    size, heading = torch.exp(codes[..., 2:4].clamp(*LOG_SIZE_RANGE)), torch.atan2(codes[..., 5:6], codes[..., 4:5])
    return torch.cat([codes[..., :2] * PLACE_SCALE, size, heading, codes[..., 6:] * PLACE_SCALE], dim=-1)


def element_scores(logits: Float[Tensor, "scenes queries classes_and_none"]) -> Float[Tensor, "scenes queries classes"]:
    """Probability of each class (or kind) for each query, "none" left out: by what `irlvla.element_quality` ranks."""
    return torch.softmax(logits.float(), dim=-1)[..., :-1]


def place_waves(places: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch features"]:
    """Sines and cosines of places (m) with 1, 2, 4 and 8 half waves over the grid's side."""
    angles = (torch.pi / GRID_SIZE * torch.tensor(WAVES, device=places.device)) * places[..., None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(-2)


def spread(count: int) -> Float[Tensor, "count 2"]:
    """Points spread evenly over the grid's area (m): the plastic number's additive recurrence."""
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    shares = (0.5 + torch.arange(1, count + 1, dtype=torch.float64)[:, None] * steps) % 1.0
    return (shares * GRID_SIZE + torch.tensor([GRID_BACK, GRID_SIDE])).float()


def first_codes(count: int) -> Float[Tensor, "count 8"]:
    """Codes of boxes that stand all over the area, of a car's size, heading ahead: where detection queries start."""
    size = torch.tensor([4.5, 1.9, 0.0, 0.0, 0.0]).expand(count, -1)
    return box_codes(torch.cat([spread(count), size], dim=1))


def first_lines(count: int) -> Float[Tensor, "count 10 2"]:
    """Polylines (m) of 15 m that lie all over the area along the driving direction: where map queries start."""
    along = torch.stack([torch.linspace(-7.5, 7.5, LINE_POINTS), torch.zeros(LINE_POINTS)], dim=1)
    return spread(count)[:, None] + along
