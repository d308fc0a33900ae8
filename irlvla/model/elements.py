"""Detection tokens and map tokens: queries that find objects' boxes and the map's polylines in the bird's-eye view.

A heat map over the grid says where objects' centres may be, with a first guess of each box; its highest peaks become detection queries.
Roads look alike, so map queries are learned, each with a polyline to start from. A query betters its box or polyline layer by layer: it
attends to the other queries and to the coarse cells, and looks the fine grid up around its box or at its polyline's points. Both kinds
share the layers, so that a vehicle may be explained by the lane it drives on. `irlvla.model.element_loss` teaches.

Source: TransFusion (arXiv 2203.11496, section 3.2) for queries from a heat map's peaks, Deformable DETR (arXiv 2010.04159, section 4.1)
for the refinement of reference points, DETR3D (arXiv 2110.06922) for looking features up at them, MapTR (arXiv 2208.14437) for polylines
of evenly spaced points. Differs: one query a polyline, not one a point.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, GRID_SIDE, GRID_SIZE, CrossAttention, feed_forward, footprints, grid_lookup, squashed
from irlvla.types import LINE_NAMES, LINE_POINTS, OBJECT_GROUP_NAMES

CLASSES, KINDS = len(OBJECT_GROUP_NAMES), len(LINE_NAMES)
"""Logits of a query have one more: "none", the last."""
PLACE_SCALE = 10.0
"""Places in m and velocities in m/s are divided by it where layers compute with them."""
LOG_SIZE_RANGE = (-3.0, 4.0)
"""Log of a box's length and width in m: 5 cm to 55 m."""
AROUND = ((0.0, 0.0), (2.5, 0.0), (-2.5, 0.0), (0.0, 2.5), (0.0, -2.5))
"""Where a box's surroundings are looked up: m ahead and left of its centre."""
CELLS = 32
"""Cells of the grid a side."""
RARE = -3.0
"""Logit of a centre before anything is learned: most cells have none."""
FIRST_BOX = (0.0, 0.0, 4.5, 1.9, 0.0, 0.0, 0.0)
"""A car that stands, heading ahead: the guess before anything is learned."""
LOOKED_UP = (0, 2, 5, 7, 9)
"""Points of a polyline at which the grid is looked up."""
WAVES = (1.0, 2.0, 4.0, 8.0)
"""Waves over the grid's side by which a layer tells places apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementConfig:
    """The element decoder: numbers of queries and layers; `width` and `channels` are the bird's-eye view's."""

    detections: int = 24
    lines: int = 32
    proposal_width: int = 32
    layers: int = 2
    width: int = 96
    channels: int = 24
    cells: int = 64
    heads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one layer has found around a moment, in the ego frame.

    `boxes`: centre x, y, length, width (m), heading (rad), velocity x, y (m/s), as in `Elements`; `box_codes` are the same as the layers
    hold them (`box_codes()`). Tokens are what the planner sees: what a query knows, and its box or polyline itself. `object_map` is
    what detection queries came from, the same in every layer: by grid cell the logits of each class's centres, then the first guess of a
    box code, its place counted from the cell's centre.
    """

    detection_tokens: Float[Tensor, "scenes detections width"]
    boxes: Float[Tensor, "scenes detections 7"]
    box_codes: Float[Tensor, "scenes detections 8"]
    class_logits: Float[Tensor, "scenes detections 5"]
    map_tokens: Float[Tensor, "scenes lines width"]
    lines: Float[Tensor, "scenes lines 10 2"]
    kind_logits: Float[Tensor, "scenes lines 5"]
    object_map: Float[Tensor, "scenes 1024 12"]


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
        self.along = nn.Linear(len(LOOKED_UP) * config.channels, width)
        self.mixer_norm = nn.LayerNorm(width)
        self.mixer = feed_forward(width, 2 * width, width)
        self.out_norm = nn.LayerNorm(width)
        self.box = feed_forward(width, width, 8)
        self.line = feed_forward(width, width, 2 * LINE_POINTS)
        self.classes = nn.Linear(width, CLASSES + 1)
        self.kinds = nn.Linear(width, KINDS + 1)
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
        along = lines.shape[1] * len(LOOKED_UP)
        with torch.autocast(values.device.type, torch.bfloat16):
            values = values + self._mixed(self.norm(values))
            values = self.attention(values, cells)
            # One lookup for both: its backward pass goes through the whole grid.
            points = torch.cat([around.flatten(1, 2), lines[:, :, LOOKED_UP].flatten(1, 2)], dim=1)
            seen = grid_lookup(grid, points[:, :, None]).split([points.shape[1] - along, along], dim=1)
            around, along = (part.reshape(part.shape[0], count, -1) for part, count in zip(seen, (codes.shape[1], lines.shape[1])))
            values = values + torch.cat([self.around(around), self.along(along)], dim=1)
            return (values + self.mixer(self.mixer_norm(values))).float()

    def _mixed(self, values: Float[Tensor, "scenes queries width"]) -> Float[Tensor, "scenes queries width"]:
        """Self-attention among the queries."""
        query, key, value = self.mix(values).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # On a CPU the fused kernel's backward pass is several times slower than these two products.
        weights = torch.softmax(query @ key.transpose(2, 3) * query.shape[-1] ** -0.5, dim=-1).to(value.dtype)
        return self.mixed((weights @ value).transpose(1, 2).flatten(2))


class Proposals(nn.Module):
    """A heat map of objects' centres with first guesses, and the queries at its peaks."""

    def __init__(self, config: ElementConfig) -> None:
        super().__init__()
        self.count = config.detections
        self.hidden = nn.Linear(config.channels, config.proposal_width)
        self.map = nn.Linear(config.proposal_width, CLASSES + 8)
        self.content = nn.Linear(config.proposal_width, config.width)
        self.classes = nn.Parameter(0.5 * torch.randn(CLASSES, config.width))
        self.register_buffer("centres", cell_centres(), persistent=False)
        nn.init.normal_(self.map.weight, std=0.01)
        with torch.no_grad():
            self.map.bias.copy_(torch.cat([torch.full((CLASSES,), RARE), box_codes(torch.tensor(FIRST_BOX))]))

    def forward(
        self, grid: Float[Tensor, "scenes channels 32 32"]
    ) -> tuple[Float[Tensor, "scenes detections width"], Float[Tensor, "scenes detections 8"], Float[Tensor, "scenes 1024 12"]]:
        """Values of the queries, codes of their boxes, and the map as `Found` holds it."""
        # Cells side by side: a peak's numbers are then one row.
        with torch.autocast(grid.device.type, torch.bfloat16):
            hidden = functional.gelu(self.hidden(grid.flatten(2).transpose(1, 2)))
            proposed = self.map(hidden).float()
        cells, classes = peaks(proposed[..., :CLASSES], self.count)
        rows = (torch.arange(grid.shape[0], device=grid.device)[:, None], cells)
        guess = proposed.detach()[rows][..., CLASSES:]
        codes = torch.cat([guess[..., :2] + self.centres[cells] / PLACE_SCALE, guess[..., 2:]], dim=2)
        return self.content(hidden[rows].float()) + self.classes[classes], codes, proposed


class ElementDecoder(nn.Module):
    """Bird's-eye cells and grid to detection and map tokens."""

    def __init__(self, config: ElementConfig) -> None:
        super().__init__()
        self.config = config
        self.proposals = Proposals(config)
        self.line_values = nn.Parameter(0.1 * torch.randn(config.lines, config.width))
        self.first_lines = nn.Parameter(first_lines(config.lines))
        self.cell_places = nn.Parameter(0.1 * torch.randn(config.cells, config.width))
        self.layers = nn.ModuleList(ElementLayer(config) for _ in range(config.layers))
        self.box_token = nn.Linear(8 + CLASSES + 1, config.width)
        self.line_token = nn.Linear(2 * LINE_POINTS + KINDS + 1, config.width)

    def forward(self, cells: Float[Tensor, "scenes cells width"], grid: Float[Tensor, "scenes channels 32 32"]) -> list[Found]:
        """What each layer finds, the last one's being the answer.

        Args:
            cells: coarse bird's-eye tokens.
            grid: fine bird's-eye features as `SceneTokens` holds them.

        Returns:
            One `Found` a layer; a query has the same place in all of them.
        """
        detections = self.config.detections
        cells, grid = functional.layer_norm(cells.float(), cells.shape[-1:]) + self.cell_places, squashed(grid)
        objects, codes, object_map = self.proposals(grid)
        values = torch.cat([objects, self.line_values.expand(grid.shape[0], -1, -1)], dim=1)
        lines = self.first_lines.expand(grid.shape[0], -1, -1, -1)
        outputs = []
        for layer in self.layers:
            values = layer(values, codes, lines, cells, grid)
            seen = layer.out_norm(values)
            mine, ways = seen[:, :detections], seen[:, detections:]
            # Each layer answers for its own step: the next one starts from here without teaching this one.
            codes = codes + layer.box(mine)
            lines = lines + PLACE_SCALE * layer.line(ways).unflatten(2, (LINE_POINTS, 2))
            class_logits, kind_logits = layer.classes(mine), layer.kinds(ways)
            outputs.append(
                Found(
                    detection_tokens=mine + self.box_token(_shown(codes, class_logits)),
                    boxes=boxes_of(codes),
                    box_codes=codes,
                    class_logits=class_logits,
                    map_tokens=ways + self.line_token(_shown(lines.flatten(2) / PLACE_SCALE, kind_logits)),
                    lines=lines,
                    kind_logits=kind_logits,
                    object_map=object_map,
                )
            )
            codes, lines = codes.detach(), lines.detach()
        return outputs


def _shown(codes: Tensor, logits: Tensor) -> Tensor:
    """What tokens tell of an element. What a planner wants of them must not bend boxes and lines: these answer to annotations alone."""
    return torch.cat([codes, torch.softmax(logits, dim=-1)], dim=2).detach()


def peaks(heat: Float[Tensor, "scenes 1024 classes"], count: int) -> tuple[Int[Tensor, "scenes count"], Int[Tensor, "scenes count"]]:
    """The highest cells of heat maps (logits), the highest first: their places among the cells, and which class's map it is.

    Cells with a higher neighbour in their class's map come after all others, lest one element take several queries.
    """
    maps = heat.detach().float().transpose(1, 2).unflatten(2, (CELLS, CELLS))
    # Two passes of maxima are several times faster than a pooling layer, which also says where they were.
    around = functional.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    around = torch.maximum(torch.maximum(around[..., :-2], around[..., 1:-1]), around[..., 2:])
    around = torch.maximum(torch.maximum(around[..., :-2, :], around[..., 1:-1, :]), around[..., 2:, :])
    order = (torch.sigmoid(maps) + (maps == around)).flatten(1).topk(count, dim=1).indices
    return order % CELLS**2, order // CELLS**2


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


def first_lines(count: int) -> Float[Tensor, "count 10 2"]:
    """Polylines (m) of 15 m along the driving direction, spread evenly over the area: where map queries start before they learn.

    Source: the plastic number's additive recurrence, a sequence of low discrepancy.
    """
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    shares = (0.5 + torch.arange(1, count + 1, dtype=torch.float64)[:, None] * steps) % 1.0
    middles = (shares * GRID_SIZE + torch.tensor([GRID_BACK, GRID_SIDE])).float()
    return middles[:, None] + torch.stack([torch.linspace(-7.5, 7.5, LINE_POINTS), torch.zeros(LINE_POINTS)], dim=1)


def cell_centres() -> Float[Tensor, "cells 2"]:
    """Centres of the grid's cells (m), x first, y fastest."""
    places = (torch.arange(CELLS) + 0.5) / CELLS * GRID_SIZE
    return torch.cartesian_prod(places + GRID_BACK, places + GRID_SIDE)
