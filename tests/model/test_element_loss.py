import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from irlvla.model.element_loss import (
    ElementWeights,
    Wanted,
    aligned,
    elements_loss,
    heat_loss,
    heat_targets,
    line_distances,
    matched,
    orders,
    wanted_of,
)
from irlvla.model.elements import ElementConfig, ElementDecoder, Found, box_codes
from irlvla.types import Elements

BOX = torch.tensor([10.0, 2.0, 4.0, 2.0, 0.5, 3.0, 0.0])
STRAIGHT = torch.stack([torch.linspace(0, 9, 10), torch.zeros(10)], dim=1)
SQUARE = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [2, 2], [1, 2], [0, 2], [0, 0]])


def wanted(scenes=1, boxes=(), lines=(), annotated=True):
    """Each scene holds `boxes` (box, class) and `lines` (points, kind)."""
    result = Wanted(
        boxes=torch.zeros(scenes, 32, 7),
        classes=torch.full((scenes, 32), -1),
        lines=torch.zeros(scenes, 32, 10, 2),
        kinds=torch.full((scenes, 32), -1),
        annotated=torch.full((scenes,), annotated),
    )
    for place, (box, group) in enumerate(boxes):
        result.boxes[:, place], result.classes[:, place] = box, group
    for place, (line, kind) in enumerate(lines):
        result.lines[:, place], result.kinds[:, place] = line, kind
    return result


def found(codes, lines, class_logits=None, kind_logits=None, object_map=None):
    scenes = len(codes)
    return Found(
        detection_tokens=torch.zeros(scenes, codes.shape[1], 1),
        boxes=torch.zeros(scenes, codes.shape[1], 7),
        box_codes=codes,
        class_logits=torch.zeros(scenes, codes.shape[1], 5, dtype=codes.dtype) if class_logits is None else class_logits,
        map_tokens=torch.zeros(scenes, lines.shape[1], 1),
        lines=lines,
        kind_logits=torch.zeros(scenes, lines.shape[1], 5, dtype=codes.dtype) if kind_logits is None else kind_logits,
        object_map=torch.zeros(scenes, 1024, 12, dtype=codes.dtype) if object_map is None else object_map,
    )


def random_case(seed, scenes=3, queries=4, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    boxes, lines = torch.zeros(scenes, 32, 7), torch.zeros(scenes, 32, 10, 2)
    classes, kinds = torch.full((scenes, 32), -1), torch.full((scenes, 32), -1)
    for scene in range(scenes):
        for labels, values in ((classes, boxes), (kinds, lines)):
            count = int(torch.randint(0, 8, (1,), generator=random))
            labels[scene, :count] = torch.randint(0, 4, (count,), generator=random)
            values[scene, :count] = 5 * torch.randn(values[scene, :count].shape, generator=random)
        if kinds[scene, 0] >= 0:
            lines[scene, 0, -1] = lines[scene, 0, 0]
    boxes[..., 2:4] = boxes[..., 2:4].abs() + 0.3
    draw = [torch.randn(scenes, queries, *shape, generator=random, dtype=dtype) for shape in ((8,), (10, 2), (5,), (5,))]
    maps = torch.randn(scenes, 1024, 12, generator=random, dtype=dtype)
    leaves = [value.requires_grad_() for value in (draw[0], 5 * draw[1], draw[2], draw[3], maps)]
    target = Wanted(boxes=boxes, classes=classes, lines=lines, kinds=kinds, annotated=torch.rand(scenes, generator=random) < 0.8)
    return leaves, target


def test_the_matching_is_the_cheapest_and_skips_what_is_absent():
    cost = torch.tensor([[[1.0, 2.0, -9.0], [1.5, 9.0, -9.0]], [[5.0, 1.0, 2.0], [4.0, 3.0, 1.0]]])
    present = torch.tensor([[True, True, False], [False, False, False]])
    scenes, queries, targets = matched(cost, present)
    assert (scenes.tolist(), queries.tolist(), targets.tolist()) == ([0, 0], [0, 1], [1, 0])


def test_where_elements_outnumber_queries_the_worst_are_left_out():
    scenes, queries, targets = matched(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.ones(1, 3, dtype=torch.bool))
    assert (scenes.tolist(), queries.tolist(), targets.tolist()) == ([0], [0], [1])


def test_what_cannot_be_matched_is_named():
    with pytest.raises(ValueError, match="scene 1 of the batch: a query's cost is not finite"):
        matched(torch.tensor([[[1.0]], [[math.nan]]]), torch.ones(2, 1, dtype=torch.bool))


def test_orders_of_lines_by_hand():
    assert orders(False, True).tolist() == [list(range(10))]
    assert orders(False, False).tolist() == [list(range(10)), list(range(9, -1, -1))]
    closed = orders(True, False)
    assert closed.shape == (18, 10) and closed[3].tolist() == [3, 4, 5, 6, 7, 8, 0, 1, 2, 3]
    assert closed[9].tolist() == [0, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert (closed[:, 0] == closed[:, -1]).all()


def test_distances_of_lines_by_hand():
    shifted = STRAIGHT + torch.tensor([0.0, 2.0])
    every = torch.stack([STRAIGHT, STRAIGHT, SQUARE])[None]
    closed, directed = torch.tensor([[False, False, True]]), torch.tensor([[True, False, False]])
    distances = line_distances(torch.stack([shifted, shifted.flip(0), SQUARE.roll(0, 0)])[None], every, closed, directed)[0]
    # Turned round, its points lie 9, 7, 5, 3, 1, 1, 3, 5, 7, 9 m away: 5 m on average, and 2 m aside.
    assert distances[0, :2].tolist() == pytest.approx([2.0, 2.0]) and distances[1, :2].tolist() == pytest.approx([7.0, 2.0])
    assert distances[2, 2] == 0.0


def test_an_outline_may_begin_anywhere_and_run_either_way():
    yes, no = torch.tensor([[True]]), torch.tensor([[False]])
    for order in orders(True, False):
        turned = SQUARE[order][None, None]
        assert line_distances(turned, SQUARE[None, None], yes, no).item() == 0.0
        torch.testing.assert_close(aligned(turned[0], SQUARE[None], yes[0], no[0]), turned[0])


def test_lines_are_aligned_as_their_kind_demands():
    lines = torch.stack([STRAIGHT, STRAIGHT])
    result = aligned(lines.flip(1), lines, torch.tensor([False, False]), torch.tensor([True, False]))
    assert torch.equal(result[0], STRAIGHT) and torch.equal(result[1], STRAIGHT.flip(0))


def test_the_loss_by_hand():
    far = torch.stack([BOX + torch.tensor([0.0, 30.0, 0, 0, 0, 0, 0]), BOX + torch.tensor([2.0, 0, 0, 0, 0, 5.0, 0])])
    # The second query and the second line are nearest; a line 2 m aside and turned round, a boundary, has no direction.
    lines = torch.stack([STRAIGHT + 20.0, STRAIGHT.flip(0) + torch.tensor([0.0, 2.0])])
    loss, parts = elements_loss([found(box_codes(far)[None], lines[None])], wanted(boxes=[(BOX, 1)], lines=[(STRAIGHT, 1)]))
    assert parts["box"].item() == pytest.approx(2.5 * 0.2 + 0.5 * 0.5, abs=1e-5)
    assert parts["line"].item() == pytest.approx(2.5 * 0.2, abs=1e-5)
    # Logits of 0: every entropy is ln 5, whatever its weight.
    assert parts["class"].item() == pytest.approx(2 * math.log(5)) == parts["kind"].item()
    assert loss.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-5)


def test_a_lane_centre_keeps_its_direction():
    layer, target = found(box_codes(BOX[None, None]), STRAIGHT.flip(0)[None, None]), wanted(lines=[(STRAIGHT, 0)])
    assert elements_loss([layer], target)[1]["line"].item() == pytest.approx(2.5 * 0.5)
    assert elements_loss([layer], target, ElementWeights(directed=()))[1]["line"].item() == 0.0


def test_none_weighs_less_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.1, 0.1, 0.1, 0.2], [0.1, 0.1, 0.1, 0.2, 0.5]]]))
    codes = box_codes(torch.stack([BOX, BOX + torch.tensor([0.0, 30.0, 0, 0, 0, 0, 0])]))[None]
    parts = elements_loss([found(codes, STRAIGHT[None, None], class_logits=logits)], wanted(boxes=[(BOX, 0)]))[1]
    assert parts["class"].item() == pytest.approx(2 * (1.25 * math.log(2)) / 1.25)


def test_layers_are_averaged_and_the_parts_are_the_last_ones():
    near, off = (found(box_codes(BOX[None, None] + shift), STRAIGHT[None, None]) for shift in (0.0, torch.tensor([4.0, 0, 0, 0, 0, 0, 0])))
    target = wanted(boxes=[(BOX, 0)])
    alone = [elements_loss([layer], target)[0].item() for layer in (near, off)]
    both, parts = elements_loss([off, near], target)
    assert both.item() == pytest.approx(sum(alone) / 2, rel=1e-5) and parts["box"].item() == 0.0


def test_scenes_without_annotations_teach_nothing():
    leaves, target = random_case(3)
    some_annotated = dataclasses.replace(target, annotated=torch.tensor([True, False, True]))
    gradients = torch.autograd.grad(elements_loss([found(*leaves)], some_annotated)[0], leaves)
    assert all((gradient[1] == 0).all() for gradient in gradients) and any((gradient[0] != 0).any() for gradient in gradients)
    chosen = torch.tensor([0, 2])
    kept = Wanted(**{field.name: getattr(some_annotated, field.name)[chosen] for field in dataclasses.fields(Wanted)})
    without = elements_loss([found(*(leaf[chosen] for leaf in leaves))], kept)[0]
    torch.testing.assert_close(elements_loss([found(*leaves)], some_annotated)[0], without)
    loss, parts = elements_loss([found(*leaves)], dataclasses.replace(target, annotated=torch.zeros(3, dtype=torch.bool)))
    assert loss.item() == 0.0 and all(part.item() == 0.0 for part in parts.values())
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, leaves))


def test_scenes_without_elements_teach_none_alone():
    leaves, _ = random_case(0)
    loss, parts = elements_loss([found(*leaves)], wanted(scenes=3))
    codes, lines, classes, kinds, objects = torch.autograd.grad(loss, leaves)
    assert parts["box"].item() == parts["line"].item() == 0.0 and (codes == 0).all() and (lines == 0).all()
    assert (objects[..., :4] > 0).all() and (objects[..., 4:] == 0).all()
    assert (classes[..., -1] < 0).all() and (classes[..., :-1] > 0).all() and (kinds[..., -1] < 0).all()


def test_heat_targets_by_hand():
    # x = -7.5 lies a quarter of a cell from the centre of the first row, y = -31 at that of the first column.
    heat = heat_targets(torch.tensor([[[-7.5, -31.0], [15.0, 1.0], [0.0, 0.0]]]), torch.tensor([[1, 0, -1]]), 2).unflatten(1, (32, 32))[0]
    assert heat[0, 0, 1] == 1.0 and heat[11, 16, 0] == 1.0 and (heat == 1).sum() == 2
    assert heat[1, 0, 1].item() == pytest.approx(math.exp(-(1.25**2) / 2)) and heat[0, 1, 1].item() == pytest.approx(
        math.exp(-(1 + 1 / 16) / 2)
    )
    assert heat[10, 15, 0].item() == pytest.approx(math.exp(-1)) and (heat > 0).sum() == 4 + 9


def test_heat_loss_by_hand():
    targets, logits = torch.zeros(2, 1024, 1), torch.full((2, 1024, 1), -50.0)
    targets[0, 3, 0], targets[0, 4, 0], logits[0, 3:5, 0] = 1.0, 0.5, 0.0
    annotated = torch.tensor([True, False])
    # A centre and its neighbour, both at 1/2: (1/2)^2 ln 2, and (1 - 0.5)^4 (1/2)^2 ln 2.
    assert heat_loss(logits, targets, annotated).item() == pytest.approx(0.25 * math.log(2) * (1 + 1 / 16))
    assert heat_loss(logits + 9, targets, ~annotated).item() == 0.0


def test_first_guesses_answer_for_the_cell_of_the_centre_by_hand():
    # The box at (10, 2) lies on edges: its cell is the one around (11, 3).
    objects, code = torch.zeros(1, 1024, 12), box_codes(BOX)
    # Its code but for the place, which is counted from the cell's centre; 2 m too far left.
    objects[0, 9 * 32 + 17, 4:] = torch.cat([torch.tensor([-0.1, -0.1 + 0.2]), code[2:]])
    layer = found(code[None, None], STRAIGHT[None, None], object_map=objects)
    assert elements_loss([layer], wanted(boxes=[(BOX, 0)]))[1]["guess"].item() == pytest.approx(2.5 * 0.2, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(some.integers(0, 10_000))
def test_the_order_of_elements_changes_nothing(seed):
    leaves, target = random_case(seed)
    turn = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
    turned = Wanted(
        boxes=target.boxes[:, turn],
        classes=target.classes[:, turn],
        lines=target.lines[:, turn],
        kinds=target.kinds[:, turn],
        annotated=target.annotated,
    )
    losses = [elements_loss([found(*leaves)], case)[0] for case in (target, turned)]
    torch.testing.assert_close(*losses)
    for one, other in zip(*(torch.autograd.grad(loss, leaves) for loss in losses)):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(some.integers(0, 10_000))
def test_the_order_of_queries_changes_nothing(seed):
    leaves, target = random_case(seed)
    turn = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    losses = [elements_loss([found(*values)], target)[0] for values in (leaves, [*(leaf[:, turn] for leaf in leaves[:4]), *leaves[4:]])]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_finite_differences(seed):
    leaves, target = random_case(seed, scenes=2, queries=3, dtype=torch.float64)
    loss, direction = elements_loss([found(*leaves)], target)[0], torch.Generator().manual_seed(seed)
    gradients = torch.autograd.grad(loss, leaves)
    for place, (leaf, gradient) in enumerate(zip(leaves, gradients)):
        step = torch.randn(leaf.shape, generator=direction, dtype=leaf.dtype)
        ends = [elements_loss([found(*leaves[:place], leaf + size * step, *leaves[place + 1 :])], target)[0] for size in (1e-5, -1e-5)]
        assert ((ends[0] - ends[1]) / 2e-5).item() == pytest.approx((gradient * step).sum().item(), rel=1e-3, abs=1e-4)


def test_elements_become_tensors_without_nan_and_with_groups():
    boxes, lines = np.full((2, 32, 7), np.nan, dtype=np.float32), np.full((2, 32, 10, 2), np.nan, dtype=np.float32)
    classes, kinds = np.full((2, 32), -1), np.full((2, 32), -1)
    boxes[0, :3], classes[0, :3], lines[1, 0], kinds[1, 0] = BOX.numpy(), [0, 3, 6], STRAIGHT.numpy(), 3
    target = wanted_of(Elements(boxes=boxes, classes=classes, lines=lines, kinds=kinds), np.array([True, False]))
    assert target.classes[0, :4].tolist() == [0, 3, 3, -1] and target.kinds[1, :2].tolist() == [3, -1]
    assert torch.equal(target.boxes[0, 1], BOX) and not target.boxes[1].any() and torch.equal(target.lines[1, 0], STRAIGHT)
    assert target.annotated.tolist() == [True, False]


def test_directed_kinds_must_be_known():
    with pytest.raises(ValueError, match=r"directed names \['kerb'\]"):
        ElementWeights(directed=("kerb",))


def test_four_scenes_are_learned_by_heart():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    boxes = torch.rand(4, 4, 7, generator=random) * torch.tensor([50.0, 40, 3, 1, 3, 10, 2]) + torch.tensor([-5.0, -20, 2, 1, -1.5, 0, -1])
    lines = torch.rand(4, 4, 1, 2, generator=random) * torch.tensor([40.0, 40]) + torch.tensor([0.0, -20]) + STRAIGHT
    target = wanted(scenes=4)
    target.boxes[:, :4], target.lines[:, :4] = boxes, lines
    target.classes[:, :4], target.kinds[:, :4] = torch.arange(4), torch.arange(4)
    decoder = ElementDecoder(ElementConfig(detections=8, lines=8, width=32, channels=6, cells=4, heads=2, proposal_width=16))
    cells, grid = torch.randn(4, 4, 32), torch.randn(4, 6, 32, 32)
    # The grid shows the objects, as a trained one does.
    grid[:, :4] = 6 * heat_targets(boxes[..., :2], torch.arange(4).expand(4, -1), 4).transpose(1, 2).unflatten(2, (32, 32)) - 3
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(100):
        loss, parts = elements_loss(decoder(cells, grid), target)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
    assert parts["class"] < 0.1 and parts["kind"] < 0.1 and parts["box"] < 0.5 and parts["line"] < 0.3
