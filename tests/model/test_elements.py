import math

import pytest
import torch

from irlvla.model.elements import (
    AROUND,
    ElementConfig,
    ElementDecoder,
    box_codes,
    boxes_of,
    element_scores,
    first_codes,
    first_lines,
    place_waves,
    spread,
)

SMALL = ElementConfig(detections=3, lines=2, width=16, channels=5, cells=4, heads=2)


def decoder_and_inputs(config=SMALL, scenes=2):
    torch.manual_seed(0)
    decoder = ElementDecoder(config)
    for layer in decoder.layers:
        for last in (layer.box[-1], layer.line[-1], layer.mixed, layer.attention.out):
            torch.nn.init.normal_(last.weight, std=0.1)
    return decoder, torch.randn(scenes, config.cells, config.width), torch.randn(scenes, config.channels, 32, 32)


def test_a_fresh_decoder_answers_with_its_first_guesses():
    found = ElementDecoder(SMALL)(torch.randn(2, 4, 16), torch.randn(2, 5, 32, 32))
    assert len(found) == 2
    for layer in found:
        torch.testing.assert_close(layer.boxes, boxes_of(first_codes(3)).expand(2, -1, -1))
        torch.testing.assert_close(layer.lines, first_lines(2).expand(2, -1, -1, -1))
        assert layer.detection_tokens.shape == (2, 3, 16) and layer.map_tokens.shape == (2, 2, 16)
        assert layer.class_logits.shape == (2, 3, 5) and layer.kind_logits.shape == (2, 2, 5)


def test_a_box_and_its_code_are_the_same():
    boxes = torch.tensor([[12.0, -3.0, 4.5, 1.9, 2.5, -8.0, 1.0], [0.0, 0.0, 0.5, 0.6, -3.0, 0.0, 0.0]])
    torch.testing.assert_close(boxes_of(box_codes(boxes)), boxes)
    by_hand = [1.2, -0.3, math.log(4.5), math.log(1.9), math.cos(2.5), math.sin(2.5), -0.8, 0.1]
    torch.testing.assert_close(box_codes(boxes)[0], torch.tensor(by_hand))


def test_a_box_without_size_has_a_finite_code():
    assert torch.isfinite(box_codes(torch.zeros(7))).all() and (boxes_of(torch.full((8,), 1e4))[2:4] < 60).all()


def test_the_first_guesses_lie_all_over_the_area():
    places = spread(24)
    assert (places[:, 0] >= -8).all() and (places[:, 0] < 56).all() and (places[:, 1] >= -32).all() and (places[:, 1] < 32).all()
    apart = torch.cdist(places, places) + 1e3 * torch.eye(24)
    assert apart.min() > 5.0
    lines = first_lines(3)
    torch.testing.assert_close(lines.mean(1), spread(3))
    torch.testing.assert_close((lines[:, -1] - lines[:, 0]), torch.tensor([[15.0, 0.0]]).expand(3, -1))


def test_waves_tell_places_apart():
    torch.testing.assert_close(place_waves(torch.tensor([0.0, 0.0])), torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1] * 2))
    torch.testing.assert_close(place_waves(torch.tensor([32.0, 0.0]))[:3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_scenes_do_not_see_each_other():
    decoder, cells, grid = decoder_and_inputs()
    both, one = decoder(cells, grid)[-1], decoder(cells[1:], grid[1:])[-1]
    torch.testing.assert_close(both.boxes[1:], one.boxes, rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(both.map_tokens[1:], one.map_tokens, rtol=1e-3, atol=2e-2)


def test_the_grid_is_looked_up_where_the_box_stands():
    decoder, cells, _ = decoder_and_inputs(scenes=1)
    torch.nn.init.zeros_(decoder.layers[0].mixed.weight)
    empty = torch.zeros(1, 5, 32, 32)
    plain = decoder(cells, empty)[0].boxes[0, 1]
    x, y = decoder.first_codes[1, :2].tolist()
    row, column = int((10 * x + 8) / 2), int((10 * y + 32) / 2)
    reach = int(max(abs(number) for point in AROUND for number in point) / 2) + 2
    near, far = empty.clone(), torch.randn_like(empty)
    near[:, :, row, column] = 4.0
    far[:, :, max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = 0.0
    # Queries that do not hear of each other: what stands at a box changes it, what stands far from it does not.
    assert not torch.equal(decoder(cells, near)[0].boxes[0, 1], plain)
    assert torch.equal(decoder(cells, far)[0].boxes[0, 1], plain)


def test_a_later_layer_and_the_planner_do_not_bend_an_earlier_answer():
    decoder, cells, grid = decoder_and_inputs()
    found = decoder(cells, grid)
    (gradient,) = torch.autograd.grad(found[1].box_codes.sum(), decoder.layers[0].box[-1].weight, allow_unused=True, retain_graph=True)
    assert gradient is None
    for head in (decoder.layers[1].box, decoder.layers[1].line, decoder.layers[1].classes, decoder.layers[1].kinds):
        tokens = found[1].detection_tokens.sum() + found[1].map_tokens.sum()
        weight = head.weight if isinstance(head, torch.nn.Linear) else head[-1].weight
        assert torch.autograd.grad(tokens, weight, allow_unused=True, retain_graph=True)[0] is None


def test_every_parameter_learns_and_so_does_what_is_below():
    decoder, cells, grid = decoder_and_inputs()
    cells, grid = cells.requires_grad_(), grid.requires_grad_()
    last = decoder(cells, grid)
    values = [(value * torch.randn_like(value)).sum() for layer in last for value in (layer.box_codes, layer.lines, layer.class_logits)]
    values += [(value * torch.randn_like(value)).sum() for layer in last for value in (layer.kind_logits, layer.map_tokens)]
    (sum(values) + (last[-1].detection_tokens * torch.randn(2, 3, 16)).sum()).backward()
    idle = [name for name, parameter in decoder.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert not idle and cells.grad.abs().sum() > 0 and grid.grad.abs().sum() > 0


def test_scores_leave_none_out():
    scores = element_scores(torch.log(torch.tensor([[[0.1, 0.2, 0.3, 0.15, 0.25]]])))
    assert scores.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.15], abs=1e-6)
