"""What teaches detection and map queries: a one-to-one matching of queries and annotated elements, and losses of every layer.

Source: DETR (arXiv 2005.12872, section 3.1) for the matching and "none", DETR3D (arXiv 2110.06922) for the L1 over box codes, MapTR
(arXiv 2208.14437, section 3.3) for polylines whose order of points means nothing. Differs: softmax and a lighter "none" instead of
focal loss; lane centres keep their direction, which is the driving direction.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, GRID_SIDE, GRID_SIZE
from irlvla.model.elements import CELLS, CLASSES, PLACE_SCALE, Found, box_codes
from irlvla.types import LINE_NAMES, LINE_POINTS, OBJECT_GROUPS, Elements

CLOSED_GAP = 0.05
"""A polyline whose ends are nearer than this (m) is an outline: it may begin anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementWeights:
    """Weights of the losses, and of the same terms where queries are matched.

    `code`: of a box code's eight numbers (0.25 a metre as in DETR3D); velocity is no reason to match. `points`: of a polyline's mean
    distance |dx| + |dy| by 10 m. `directed`: kinds of which the order of points has a meaning. `heat`: of the heat map of centres; its
    first guesses weigh as much as a layer's answers.
    """

    matching_class: float = 2.0
    classes: float = 2.0
    none: float = 0.25
    code: tuple[float, float, float, float, float, float, float, float] = (2.5, 2.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    points: float = 2.5
    heat: float = 1.0
    directed: tuple[str, ...] = ("centre",)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.directed) - set(LINE_NAMES))
        if unknown:
            raise ValueError(f"directed names {unknown}, which are no kinds of line; known: {', '.join(LINE_NAMES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`Elements` as tensors: classes are indexes into OBJECT_GROUP_NAMES, -1 none; zeros stand where there is no element.

    Scenes that are not `annotated` teach nothing, not even "none".
    """

    boxes: Float[Tensor, "scenes 32 7"]
    classes: Int[Tensor, "scenes 32"]
    lines: Float[Tensor, "scenes 32 10 2"]
    kinds: Int[Tensor, "scenes 32"]
    annotated: Bool[Tensor, "scenes"]


def wanted_of(elements: Elements, annotated: Bool[np.ndarray, "scenes"], device: torch.device | str = "cpu") -> Wanted:
    """Elements of a batch of scenes as the loss wants them, on a device.

    Args:
        elements: of each scene; what they hold of scenes without annotations does not matter.
        annotated: which scenes have annotations.
        device: where the tensors go.
    """
    groups = np.append(np.array(OBJECT_GROUPS), -1)[elements.classes]
    return Wanted(
        boxes=torch.as_tensor(np.nan_to_num(elements.boxes), dtype=torch.float32, device=device),
        classes=torch.as_tensor(groups, dtype=torch.int64, device=device),
        lines=torch.as_tensor(np.nan_to_num(elements.lines), dtype=torch.float32, device=device),
        kinds=torch.as_tensor(np.asarray(elements.kinds), dtype=torch.int64, device=device),
        annotated=torch.as_tensor(annotated, dtype=torch.bool, device=device),
    )


def elements_loss(
    found: list[Found], wanted: Wanted, weights: ElementWeights = ElementWeights()
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Cross-entropy of classes and kinds, L1 of matched boxes and polylines, averaged over layers.

    A heat map of objects' centres is taught beside. Every layer is matched anew. Where a scene has more elements than queries, those are
    left out that fit worst. A scene without elements teaches "none"; regressions are averaged over all matched elements of the batch.

    Args:
        found: `ElementDecoder`'s answer.
        wanted: annotated elements of the same scenes.
        weights: of the terms.

    Returns:
        The loss, and the terms of the heat map and of the last layer, each weighted, by name: heat, guess, class, box, kind, line. All
        are 0 for a batch without annotations.

    Raises:
        ValueError: a query's answer is not finite, so that it cannot be matched.
    """
    first = dict(zip(("heat", "guess"), _proposal_terms(found[0], wanted, weights)))
    loss, parts = torch.stack(list(first.values())).sum(), {}
    for layer in found:
        parts = dict(zip(("class", "box"), _box_terms(layer, wanted, weights)))
        parts |= dict(zip(("kind", "line"), _line_terms(layer, wanted, weights)))
        loss = loss + torch.stack(list(parts.values())).sum() / len(found)
    return loss, {name: part.detach() for name, part in (first | parts).items()}


def matched(
    cost: Float[Tensor, "scenes queries targets"], present: Bool[Tensor, "scenes targets"]
) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """Pairs of queries and present targets of least total cost in each scene: indexes of scene, query and target.

    Raises:
        ValueError: a cost is not finite.
    """
    costs, chosen = cost.detach().float().cpu().numpy(), present.cpu().numpy()
    pairs = [np.zeros((3, 0), dtype=np.int64)]
    for scene in np.flatnonzero(chosen.any(axis=1)):
        columns = np.flatnonzero(chosen[scene])
        if not np.isfinite(costs[scene][:, columns]).all():
            raise ValueError(f"scene {scene} of the batch: a query's cost is not finite, so its answers were not either")
        rows, places = linear_sum_assignment(costs[scene][:, columns])
        pairs.append(np.stack([np.full_like(rows, scene), rows, columns[places]]))
    scenes, queries, targets = torch.from_numpy(np.concatenate(pairs, axis=1)).to(cost.device)
    return scenes, queries, targets


def orders(closed: bool, directed: bool) -> Int[Tensor, "orders 10"]:
    """Orders of a polyline's points that describe the same element.

    Args:
        closed: whether its first point is its last; then it may begin at any point and run either way round (18 orders).
        directed: whether an open one's direction has a meaning (1 order, else 2).

    Source: MapTR, section 3.2, permutation-equivalent modeling.
    """
    forward = torch.arange(LINE_POINTS)
    if closed:
        starts = torch.arange(LINE_POINTS - 1)[:, None]
        return torch.cat([starts + forward, starts - forward]) % (LINE_POINTS - 1)
    return forward[None] if directed else torch.stack([forward, forward.flip(0)])


def line_distances(
    found: Float[Tensor, "scenes queries 10 2"],
    wanted: Float[Tensor, "scenes targets 10 2"],
    closed: Bool[Tensor, "scenes targets"],
    directed: Bool[Tensor, "scenes targets"],
) -> Float[Tensor, "scenes queries targets"]:
    """Mean over points of |dx| + |dy| (m) between polylines, in the best of the orders that mean the same."""
    flat = found.flatten(2)
    distance = torch.cdist(flat, wanted.flatten(2), p=1.0)
    backward = torch.cdist(flat, wanted.flip(2).flatten(2), p=1.0)
    distance = torch.where(directed[:, None], distance, torch.minimum(distance, backward))
    scenes, targets = torch.nonzero(closed, as_tuple=True)
    if len(scenes):
        # Outlines are few, and each has 18 orders: only they are compared in all of them.
        turned = wanted[scenes, targets][:, orders(True, False).to(wanted.device)].flatten(2)
        distance[scenes, :, targets] = torch.cdist(flat[scenes], turned, p=1.0).amin(2)
    return distance / LINE_POINTS


def aligned(
    found: Float[Tensor, "pairs 10 2"], wanted: Float[Tensor, "pairs 10 2"], closed: Bool[Tensor, "pairs"], directed: Bool[Tensor, "pairs"]
) -> Float[Tensor, "pairs 10 2"]:
    """Wanted polylines with their points in the order that lies nearest the found ones'."""
    result = wanted.clone()
    for chosen, order in ((closed, orders(True, False)), (~closed & ~directed, orders(False, False))):
        turned = wanted[chosen][:, order.to(wanted.device)]
        best = (found[chosen].detach()[:, None] - turned).abs().sum((2, 3)).argmin(1)
        result[chosen] = turned[torch.arange(len(best), device=wanted.device), best]
    return result


def heat_targets(
    centres: Float[Tensor, "scenes targets 2"], classes: Int[Tensor, "scenes targets"], count: int
) -> Float[Tensor, "scenes 1024 classes"]:
    """Heat maps of centres: 1 in a centre's cell, a Gaussian of one cell's width in the eight cells around it, 0 elsewhere.

    Args:
        centres: m, within the grid's area; a centre outside it counts in the nearest cell.
        classes: which map, -1 for none.
        count: number of maps.
    """
    place = (centres - torch.tensor([GRID_BACK, GRID_SIDE], device=centres.device)) / GRID_SIZE * CELLS
    cell = place.floor().clamp(0, CELLS - 1)
    around = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).to(centres.device)
    cells = cell[:, :, None] + around
    height = torch.exp(-0.5 * (cells + 0.5 - place[:, :, None]).square().sum(-1))
    height = torch.where((around == 0).all(1), 1.0, height)
    shown = (classes >= 0)[..., None] & ((cells >= 0) & (cells < CELLS)).all(-1)
    scene, target, neighbour = torch.nonzero(shown, as_tuple=True)
    row, column = cells[scene, target, neighbour].long().unbind(-1)
    index = ((scene * CELLS + row) * CELLS + column) * count + classes[scene, target]
    heat = torch.zeros(len(classes) * count * CELLS * CELLS, device=centres.device)
    heat = heat.scatter_reduce(0, index, height[scene, target, neighbour], "amax")
    return heat.view(len(classes), CELLS**2, count)


def heat_loss(
    logits: Float[Tensor, "scenes 1024 classes"], targets: Float[Tensor, "scenes 1024 classes"], annotated: Bool[Tensor, "scenes"]
) -> Float[Tensor, ""]:
    """Focal loss of heat maps by centre, less for cells near one.

    Source: CenterNet (arXiv 1904.07850, eq. 1) with its alpha = 2, beta = 4.
    """
    share, centre = torch.sigmoid(logits), targets == 1
    found = functional.logsigmoid(logits) * (1 - share).square()
    empty = functional.logsigmoid(-logits) * share.square() * (1 - targets) ** 4
    each = -torch.where(centre, found, empty).sum((1, 2)) * annotated
    return each.sum() / (centre.sum((1, 2)) * annotated).sum().clamp(min=1)


def _proposal_terms(found: Found, wanted: Wanted, weights: ElementWeights) -> tuple[Tensor, Tensor]:
    """Heat of objects' centres, and first guesses in the cells of the centres."""
    centres, origin = wanted.boxes[..., :2], wanted.boxes.new_tensor([GRID_BACK, GRID_SIDE])
    heat = heat_loss(found.object_map[..., :CLASSES], heat_targets(centres, wanted.classes, CLASSES), wanted.annotated)
    chosen = (wanted.classes >= 0) & wanted.annotated[:, None]
    cell = ((centres[chosen] - origin) / GRID_SIZE * CELLS).floor().clamp(0, CELLS - 1)
    guess = found.object_map[torch.nonzero(chosen)[:, 0], (cell[:, 0] * CELLS + cell[:, 1]).long(), CLASSES:]
    codes = box_codes(wanted.boxes[chosen])
    codes = torch.cat([codes[:, :2] - ((cell + 0.5) / CELLS * GRID_SIZE + origin) / PLACE_SCALE, codes[:, 2:]], dim=1)
    difference = ((guess - codes) * guess.new_tensor(weights.code)).abs().sum()
    return weights.heat * heat, difference / max(len(guess), 1)


def _nature(
    lines: Float[Tensor, "*batch 10 2"], kinds: Int[Tensor, "*batch"], weights: ElementWeights
) -> tuple[Bool[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """Which lines are closed, and of which the direction has a meaning."""
    closed = (lines[..., 0, :] - lines[..., -1, :]).norm(dim=-1) < CLOSED_GAP
    known = torch.tensor([name in weights.directed for name in LINE_NAMES], device=kinds.device)
    return closed & (kinds >= 0), known[kinds.clamp(min=0)] & ~closed


def _box_terms(found: Found, wanted: Wanted, weights: ElementWeights) -> tuple[Tensor, Tensor]:
    scale = torch.tensor(weights.code, device=wanted.boxes.device)
    present = (wanted.classes >= 0) & wanted.annotated[:, None]
    codes = box_codes(torch.where(present[..., None], wanted.boxes, torch.ones_like(wanted.boxes))) * scale
    mine = found.box_codes * scale
    with torch.no_grad():
        distance = torch.cdist(mine[..., :6], codes[..., :6].to(mine.dtype), p=1.0)
        scenes, queries, targets = matched(distance + _class_cost(found.class_logits, wanted.classes, weights), present)
    classes = _class_term(found.class_logits, wanted.classes[scenes, targets], (scenes, queries), wanted.annotated, weights)
    difference = (mine[scenes, queries] - codes[scenes, targets]).abs().sum()
    return classes, difference / max(len(scenes), 1)


def _line_terms(found: Found, wanted: Wanted, weights: ElementWeights) -> tuple[Tensor, Tensor]:
    present = (wanted.kinds >= 0) & wanted.annotated[:, None]
    # What is absent would pass for closed, and be compared in 18 orders: it is neither.
    closed, directed = _nature(wanted.lines, wanted.kinds, weights)
    factor = weights.points / PLACE_SCALE
    with torch.no_grad():
        lines = wanted.lines.to(found.lines.dtype)
        distance = factor * line_distances(found.lines, lines, closed, directed)
        scenes, queries, targets = matched(distance + _class_cost(found.kind_logits, wanted.kinds, weights), present)
    kinds = _class_term(found.kind_logits, wanted.kinds[scenes, targets], (scenes, queries), wanted.annotated, weights)
    mine, pair = found.lines[scenes, queries], (scenes, targets)
    nearest = aligned(mine.detach(), wanted.lines[pair].to(mine.dtype), closed[pair], directed[pair])
    return kinds, factor * (mine - nearest).abs().sum() / (LINE_POINTS * max(len(scenes), 1))


def _class_cost(
    logits: Float[Tensor, "scenes queries classes_and_none"], classes: Int[Tensor, "scenes 32"], weights: ElementWeights
) -> Tensor:
    wanted = classes.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)
    return -weights.matching_class * torch.softmax(logits, dim=-1).gather(2, wanted)


def _class_term(
    logits: Float[Tensor, "scenes queries classes_and_none"],
    classes: Int[Tensor, "pairs"],
    place: tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]],
    annotated: Bool[Tensor, "scenes"],
    weights: ElementWeights,
) -> Float[Tensor, ""]:
    none = logits.shape[2] - 1
    labels = torch.full(logits.shape[:2], none, dtype=torch.int64, device=logits.device)
    labels[place] = classes
    weight = torch.where(labels == none, weights.none, 1.0) * annotated[:, None]
    entropy = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(weight)
    return weights.classes * (weight * entropy).sum() / weight.sum().clamp(min=1e-6)
