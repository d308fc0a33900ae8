"""Feature maps to a bird's-eye view: 3D reasoning, supervised by the log's annotations.

Each cell of the grid is looked up in the pictures of whatever cameras show it (`irlvla.model.lift`). Convolutions over the grid then
tell road from wall and near from far. A few queries ask the front views about what is too small for that: the light ahead, the
vehicle ahead.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, CrossAttention
from irlvla.model.cameras import ray_features, rays
from irlvla.model.lift import GEOMETRY, cell_places, gathered, lookup
from irlvla.model.vision import PER_VIEW, ImageEncoder, ImageFeatures, Sight, VisionConfig

TARGET_CHANNELS = 4
"""Drivable area, lanes of the route, objects, red-light area."""


AHEAD_EDGES = (0.0, 6.0, 12.0, 18.0, 26.0, 36.0, 56.0)
"""Edges (m, forward) of the distance classes of the red light and of the vehicle ahead; one more class is "none"."""
LAMP_WIDTHS = (32, 64, 128)
"""Widths of the encoder that looks for lamps."""
FRONT_POOLED = 2
"""Image tokens of the front views are averaged over squares of so many a side before they become scene tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BirdsEyeConfig:
    """The bird's-eye view: `cells` a side, `heights` (m) looked up above each, widths of the grid, `width` of tokens.

    Image tokens come from `front_views` views: with default sensors the front camera and its enlarged middle half. Without `lift` there is
    no bird's-eye view: no cells, and a grid of zeros (a control: pictures without 3D reasoning). `lamps`: the front views are searched for
    one small place that tells of a red light, see `Lamps`.
    """

    width: int = 96
    cells: int = 32
    heights: tuple[float, ...] = (0.0, 1.2)
    fine_width: int = 32
    coarse_width: int = 64
    channels: int = 24
    queries: int = 4
    front_views: int = 2
    lift: bool = True
    lamps: bool = False


@dataclass(frozen=True, slots=True)
class SceneTokens:
    """What the vision part says about a moment: all that planner and reward world model see of the pictures.

    `tokens`: coarse bird's-eye cells, pooled front-view image tokens, answers to the queries; then detection, map and semantic tokens where
    there are any. `grid`: fine bird's-eye features; its first TARGET_CHANNELS channels are the logits of the supervised maps.
    """

    tokens: Float[Tensor, "scenes tokens width"]
    grid: Float[Tensor, "scenes channels 32 32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BirdsEyeView:
    """What the bird's-eye view says: tokens of its coarse cells, of the front views' pictures and of the answers to its queries (the last
    of them what `Lamps` found), the fine grid, and what is supervised: distance classes of the red light and of the object ahead, and the
    logit that there is a red light."""

    cells: Float[Tensor, "scenes cells width"]
    images: Float[Tensor, "scenes images width"]
    answers: Float[Tensor, "scenes queries width"]
    grid: Float[Tensor, "scenes channels 32 32"]
    ahead: Float[Tensor, "scenes 2 classes"]
    lamp: Float[Tensor, "scenes"] | None


class Lamps(nn.Module):
    """Searches pictures for the one place that tells of a red light on the way.

    A lamp is a few pixels, and no log says where: only whether some light is red for the ego. So each place of the fine maps gives a score of
    its own, and the whole answers by their log-sum-exp: a picture is red because of a place, and learning goes to that place (multiple-instance
    learning). The planner's token is what is seen there, where that is, and the answer.

    It has an encoder of its own: with the common one it either learned nothing (its pixels weigh too little there) or took from all else.
    """

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        inputs = LAMP_WIDTHS[1]
        self.eye = ImageEncoder(VisionConfig(widths=LAMP_WIDTHS))
        self.hidden = nn.Linear(inputs, 32)
        self.score = nn.Linear(32, 1)
        self.seen = nn.Linear(inputs, width)
        self.place = nn.Linear(places, width)
        self.answer = nn.Linear(1, width)
        nn.init.constant_(self.score.bias, -3.0)

    def look(
        self, sight: Sight, views: Int[Tensor, "scenes chosen"]
    ) -> tuple[Float[Tensor, "scenes chosen rows columns inputs"], Bool[Tensor, "scenes chosen"]]:
        """Fine maps of some views of each scene, and which of them are valid."""
        scene = torch.arange(views.shape[0], device=views.device)[:, None]
        looked = Sight(**{name: getattr(sight, name)[scene, views] for name in PER_VIEW})
        return self.eye(looked).fine.permute(0, 1, 3, 4, 2), looked.valid

    def forward(
        self,
        fine: Float[Tensor, "scenes chosen rows columns inputs"],
        valid: Bool[Tensor, "scenes chosen"],
        directions: Float[Tensor, "scenes chosen rows columns places"],
    ) -> tuple[Float[Tensor, "scenes width"], Float[Tensor, "scenes"]]:
        """The token, and the logit that there is a red light; views that are not valid have no say. `directions`: where each place looks."""
        score = self.score(functional.relu(self.hidden(fine)))[..., 0].float()
        score = torch.where(valid[..., None, None], score, torch.full_like(score, -30.0)).flatten(1)
        logit = torch.logsumexp(score, dim=1)
        weights = torch.exp(score - logit[:, None])
        found, place = ((weights[:, None] @ values.float().flatten(1, 3))[:, 0] for values in (fine, directions))
        return self.seen(found) + self.place(place) + self.answer(logit[:, None] / 4), logit


class BirdsEye(nn.Module):
    """Feature maps to tokens and the fine grid."""

    def __init__(self, config: BirdsEyeConfig, vision: VisionConfig) -> None:
        super().__init__()
        self.config = config
        places = cell_places(config.cells)
        if config.lift:
            fine, coarse = config.fine_width, config.coarse_width
            self.register_buffer("places", places, persistent=False)
            self.lift = nn.Linear(vision.widths[1], len(config.heights) * fine)
            self.showing = nn.Linear(GEOMETRY, 2 * fine)
            self.place = nn.Linear(places.shape[1], fine)
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (fine, coarse, coarse, fine))
            self.first = nn.Conv2d(fine, fine, 3, padding=1)
            self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
            self.context = nn.Conv2d(coarse, coarse, 3, padding=2, dilation=2)
            self.wider = nn.Conv2d(coarse, coarse, 3, padding=4, dilation=4)
            self.up = nn.Conv2d(coarse, fine, 1)
            self.last = nn.Conv2d(fine, fine, 3, padding=1)
            self.maps = nn.Conv2d(fine, config.channels, 1)
            self.cell_token = nn.Linear(coarse, config.width)
        self.image = nn.Linear(vision.widths[2], config.width)
        self.image_norm = nn.LayerNorm(config.width)
        self.ray = nn.Linear(places.shape[1], config.width)
        self.missing = nn.Parameter(torch.randn(config.width) * 0.5)
        self.questions = nn.Parameter(torch.randn(config.queries, config.width) * 0.5)
        self.answer = CrossAttention(config.width, config.width)
        self.ahead = nn.ModuleList(nn.Linear(config.width, len(AHEAD_EDGES)) for _ in range(2))
        self.lamps = Lamps(places.shape[1], config.width) if config.lamps else None

    def forward(self, features: ImageFeatures, sight: Sight) -> BirdsEyeView:
        """Tokens and grid from the encoder's feature maps of some pictures and the calibration of their cameras."""
        with torch.autocast(features.fine.device.type, torch.bfloat16):
            below, grid = self._below(features.fine, sight)
            views = front_views(sight, self.config.front_views)
            front = self._front(features.coarse, sight, views)
            answers = self.answer(self.questions.expand(front.shape[0], -1, -1), front.flatten(1, 3))
            ahead = torch.stack([head(answers[:, index]) for index, head in enumerate(self.ahead)], dim=1)
            pooled = functional.avg_pool2d(front.flatten(0, 1).permute(0, 3, 1, 2), FRONT_POOLED, ceil_mode=True)
            pooled = pooled.unflatten(0, front.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)
            lamp = None
            if self.lamps is not None:
                token, lamp = self._searched(self.lamps, sight, views)
                answers = torch.cat([answers, token[:, None].to(answers.dtype)], dim=1)
        return BirdsEyeView(
            cells=below.float(), images=pooled.float(), answers=answers.float(), grid=grid.float(), ahead=ahead.float(), lamp=lamp
        )

    def lamp(self, sight: Sight) -> Float[Tensor, "scenes"]:
        """`BirdsEyeView.lamp` alone, of a view that has a lamp detector.

        Raises:
            ValueError: it has none.
        """
        if self.lamps is None:
            raise ValueError("there is no lamp detector: BirdsEyeConfig(lamps=False)")
        with torch.autocast(sight.images.device.type, torch.bfloat16):
            return self._searched(self.lamps, sight, front_views(sight, self.config.front_views))[1]

    def _searched(
        self, lamps: Lamps, sight: Sight, views: Int[Tensor, "scenes chosen"]
    ) -> tuple[Float[Tensor, "scenes token_width"], Float[Tensor, "scenes"]]:
        """Token and logit of what the lamp detector finds in some views."""
        fine, valid = lamps.look(sight, views)
        return lamps(fine, valid, self._directions(sight, views, *fine.shape[2:4]))

    def _below(
        self, features: Float[Tensor, "scenes views width rows columns"], sight: Sight
    ) -> tuple[Float[Tensor, "scenes cells token_width"], Float[Tensor, "scenes channels 32 32"]]:
        """Tokens of the coarse cells, and the fine grid; without a lift no tokens, and a grid of zeros."""
        if not self.config.lift:
            scenes, side = features.shape[0], self.config.cells
            return features.new_zeros(scenes, 0, self.config.width), features.new_zeros(scenes, self.config.channels, side, side)
        cells = self._lifted(features, sight)
        fine = cells + self.first(functional.relu(self.norms[0](cells)))
        coarse = self.down(functional.relu(fine))
        coarse = coarse + self.context(functional.relu(self.norms[1](coarse)))
        coarse = coarse + self.wider(functional.relu(self.norms[2](coarse)))
        fine = fine + functional.interpolate(self.up(coarse), scale_factor=2, mode="nearest")
        fine = functional.relu(fine + self.last(functional.relu(self.norms[3](fine))))
        return self.cell_token(functional.avg_pool2d(coarse, 2).flatten(2).transpose(1, 2)), self.maps(fine)

    def _lifted(
        self, fine: Float[Tensor, "scenes views width rows columns"], sight: Sight
    ) -> Float[Tensor, "scenes fine_width cells cells"]:
        """Pictures looked up at the grid's cells, averaged over the views that show them."""
        scenes, _, _, rows, columns = fine.shape
        side, heights = self.config.cells, self.config.heights
        found = lookup(sight, rows, columns, side, heights)
        # A lookup is linear, and so is the lift: lifted first, a pixel is lifted once.
        pixels = self.lift(fine.permute(0, 1, 3, 4, 2)).view(-1, self.config.fine_width).float()
        shown = gathered(pixels, found.pixels, found.weights)
        scale, shift = self.showing(found.geometry).float().chunk(2, dim=1)
        shown = shown * (1 + scale) + shift
        views = torch.zeros(scenes * side * side, device=fine.device).index_add(0, found.cells, torch.ones_like(found.weights[:, 0]))
        seen = torch.zeros(scenes * side * side, self.config.fine_width, device=fine.device).index_add(0, found.cells, shown)
        cells = self.place(self.places).float() + (seen / views.clamp(min=1)[:, None]).unflatten(0, (scenes, -1))
        return cells.to(fine.dtype).transpose(1, 2).unflatten(2, (side, side))

    def _front(
        self, coarse: Float[Tensor, "scenes views width rows columns"], sight: Sight, views: Int[Tensor, "scenes chosen"]
    ) -> Float[Tensor, "scenes front rows columns token_width"]:
        """Image tokens of the views ahead; where there are fewer valid views than wanted, a learned token says so."""
        scenes, count = coarse.shape[0], self.config.front_views
        rows, columns = coarse.shape[3:]
        scene = torch.arange(scenes, device=views.device)[:, None]
        tokens = self.image_norm(self.image(coarse[scene, views].permute(0, 1, 3, 4, 2)))
        tokens = tokens + self.ray(self._directions(sight, views, rows, columns)).view_as(tokens)
        tokens = torch.where(sight.valid[scene, views][..., None, None, None], tokens, self.missing.to(tokens.dtype))
        lacking = count - views.shape[1]
        if lacking:
            tokens = torch.cat([tokens, self.missing.to(tokens.dtype).expand(scenes, lacking, rows, columns, -1)], dim=1)
        return tokens

    def _directions(
        self, sight: Sight, views: Int[Tensor, "scenes chosen"], rows: int, columns: int
    ) -> Float[Tensor, "scenes chosen rows columns places"]:
        """Where each place of some views' feature maps looks."""
        scene = torch.arange(views.shape[0], device=views.device)[:, None]
        calibration = [values[scene, views].flatten(0, 1) for values in (sight.intrinsics, sight.distortion, sight.ego_from_camera)]
        with torch.no_grad(), torch.autocast(views.device.type, enabled=False):
            directions = ray_features(rays(rows, columns, *calibration), calibration[2])
        return directions.view(*views.shape, rows, columns, -1)


def front_views(sight: Sight, count: int) -> Int[Tensor, "scenes front"]:
    """The views that look most nearly straight ahead, of two that look the same way the wider one first; those that are not valid last."""
    axis = sight.ego_from_camera[:, :, :2, 2]
    # Left before right, so that the order in which cameras are given never decides.
    ahead = axis[..., 0] + 0.001 * axis[..., 1] - 0.01 * sight.intrinsics[:, :, 0]
    return torch.where(sight.valid, ahead, torch.full_like(ahead, -100.0)).argsort(dim=1, descending=True)[:, :count]


def map_loss(
    grid: Float[Tensor, "scenes channels 32 32"], targets: Float[Tensor, "scenes 4 32 32"], weights: tuple[float, float, float, float]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the supervised maps; `weights` of their positive cells balance rare ones."""
    positive = torch.tensor(weights, device=grid.device).view(1, -1, 1, 1)
    return functional.binary_cross_entropy_with_logits(grid[:, :TARGET_CHANNELS], targets, pos_weight=positive)


def ahead_classes(targets: Float[Tensor, "scenes 4 32 32"]) -> Int[Tensor, "scenes 2"]:
    """Distance classes that follow from the bird's-eye targets: nearest red-light area, nearest object on the route ahead."""
    red = targets[:, 3] > 0
    lead = (targets[:, 2] > 0) & (targets[:, 1] > 0)
    distance = GRID_BACK + (torch.arange(32, device=targets.device) + 0.5) * 2
    edges = torch.tensor(AHEAD_EDGES[1:-1], device=targets.device)
    classes = []
    for area in (red, lead):
        row = area.any(2) & (distance > 4.0)
        nearest = torch.where(row, distance, torch.tensor(1e3, device=targets.device)).amin(1)
        classes.append(torch.where(nearest > 100, len(AHEAD_EDGES) - 1, torch.bucketize(nearest, edges)))
    return torch.stack(classes, dim=1)


def ahead_loss(ahead: Float[Tensor, "scenes 2 classes"], targets: Float[Tensor, "scenes 4 32 32"]) -> Float[Tensor, ""]:
    """Cross-entropy of the distance classes."""
    return functional.cross_entropy(ahead.flatten(0, 1), ahead_classes(targets).flatten())


def red_ahead(targets: Float[Tensor, "scenes 4 32 32"]) -> Bool[Tensor, "scenes"]:
    """Whether there is a red light on the way, wherever it is."""
    return ahead_classes(targets)[:, 0] < len(AHEAD_EDGES) - 1


def lamp_loss(lamp: Float[Tensor, "scenes"], targets: Float[Tensor, "scenes 4 32 32"], positive: float = 4.0) -> Float[Tensor, ""]:
    """Binary cross-entropy of the red light on the way, wherever it is; `positive` weighs the scenes that have one."""
    return functional.binary_cross_entropy_with_logits(
        lamp, red_ahead(targets).float(), pos_weight=torch.tensor(positive, device=lamp.device)
    )
