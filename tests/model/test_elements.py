import math

import pytest
import torch

from irlvla.model.elements import (
    ElementConfig,
    ElementDecoder,
    box_codes,
    boxes_of,
    cell_centres,
    element_scores,
    first_lines,
    peaks,
    place_waves,
)

SMALL = ElementConfig(detections=3, lines=2, width=16, channels=5, cells=4, heads=2, proposal_width=8)


def decoder_and_inputs(config=SMALL, scenes=2):
    torch.manual_seed(0)
    decoder = ElementDecoder(config)
    for layer in decoder.layers:
        for last in (layer.box[-1], layer.line[-1], layer.mixed, layer.attention.out):
            torch.nn.init.normal_(last.weight, std=0.1)
    return decoder, torch.randn(scenes, config.cells, config.width), torch.randn(scenes, config.channels, 32, 32)


def test_a_fresh_decoder_guesses_cars_at_some_cells_and_straight_lines():
    torch.manual_seed(0)
    decoder = ElementDecoder(SMALL)
    torch.nn.init.zeros_(decoder.proposals.map.weight)
    found = decoder(torch.randn(2, 4, 16), torch.randn(2, 5, 32, 32))
    assert len(found) == 2
    for layer in found:
        # Standing at a cell's centre: an odd number of metres.
        assert (layer.boxes[..., :2] % 2 - 1).abs().max() < 1e-4
        torch.testing.assert_close(layer.boxes[..., 2:], torch.tensor([4.5, 1.9, 0, 0, 0]).expand(2, 3, -1), rtol=0.02, atol=1e-3)
        torch.testing.assert_close(layer.lines, first_lines(2).expand(2, -1, -1, -1))
        assert layer.detection_tokens.shape == (2, 3, 16) and layer.map_tokens.shape == (2, 2, 16)
        assert layer.class_logits.shape == (2, 3, 5) and layer.kind_logits.shape == (2, 2, 5)
        assert layer.object_map.shape == (2, 1024, 12)


def test_queries_are_the_highest_peaks_and_neighbours_come_last():
    heat = torch.full((1, 32, 32, 2), -9.0)
    heat[0, 4, 7, 1], heat[0, 4, 8, 1], heat[0, 20, 3, 0] = 2.0, 1.5, 0.0
    cells, classes = peaks(heat.flatten(1, 2), 2)
    assert cells.tolist() == [[4 * 32 + 7, 20 * 32 + 3]] and classes.tolist() == [[1, 0]]
    # Eleven cells have a higher neighbour; the second one's is the highest of them.
    cells, _ = peaks(heat.flatten(1, 2)[..., 1:], 1024)
    assert cells[0].tolist().index(4 * 32 + 8) == 1024 - 11


def test_cells_are_in_the_order_of_the_grid():
    centres = cell_centres()
    assert centres[0].tolist() == [-7.0, -31.0] and centres[1].tolist() == [-7.0, -29.0] and centres[32].tolist() == [-5.0, -31.0]


def test_the_first_lines_lie_all_over_the_area():
    lines = first_lines(24)
    places = lines.mean(1)
    assert (places[:, 0] >= -8).all() and (places[:, 0] < 56).all() and (places[:, 1] >= -32).all() and (places[:, 1] < 32).all()
    assert (torch.cdist(places, places) + 1e3 * torch.eye(24)).min() > 5.0
    torch.testing.assert_close(lines[:, -1] - lines[:, 0], torch.tensor([[15.0, 0.0]]).expand(24, -1))


def test_a_query_stands_where_its_peak_is():
    decoder, cells, grid = decoder_and_inputs()
    for layer in decoder.layers:
        for last in (layer.box[-1], layer.line[-1]):
            torch.nn.init.zeros_(last.weight)
    found = decoder(cells, grid)[0]
    places, _ = peaks(found.object_map[..., :4], 3)
    guess = found.object_map[torch.arange(2)[:, None], places][..., 4:]
    torch.testing.assert_close(found.boxes[..., :2], cell_centres()[places] + 10 * guess[..., :2])
    torch.testing.assert_close(found.box_codes[..., 2:], guess[..., 2:])


def test_a_box_and_its_code_are_the_same():
    boxes = torch.tensor([[12.0, -3.0, 4.5, 1.9, 2.5, -8.0, 1.0], [0.0, 0.0, 0.5, 0.6, -3.0, 0.0, 0.0]])
    torch.testing.assert_close(boxes_of(box_codes(boxes)), boxes)
    by_hand = [1.2, -0.3, math.log(4.5), math.log(1.9), math.cos(2.5), math.sin(2.5), -0.8, 0.1]
    torch.testing.assert_close(box_codes(boxes)[0], torch.tensor(by_hand))


def test_a_box_without_size_has_a_finite_code():
    assert torch.isfinite(box_codes(torch.zeros(7))).all() and (boxes_of(torch.full((8,), 1e4))[2:4] < 60).all()


def test_waves_tell_places_apart():
    torch.testing.assert_close(place_waves(torch.tensor([0.0, 0.0])), torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1] * 2))
    torch.testing.assert_close(place_waves(torch.tensor([32.0, 0.0]))[:3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_scenes_do_not_see_each_other():
    decoder, cells, grid = decoder_and_inputs()
    both, one = decoder(cells, grid)[-1], decoder(cells[1:], grid[1:])[-1]
    torch.testing.assert_close(both.boxes[1:], one.boxes, rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(both.map_tokens[1:], one.map_tokens, rtol=1e-3, atol=2e-2)


def test_the_grid_is_looked_up_where_box_and_line_are():
    decoder, cells, _ = decoder_and_inputs(scenes=1)
    layer = decoder.layers[0]
    # Queries that do not hear of each other: what stands at one changes it, what stands elsewhere does not.
    torch.nn.init.zeros_(layer.mixed.weight)
    values, codes = (
        torch.randn(1, 5, 16),
        box_codes(torch.tensor([[5.0, 1, 4, 2, 0, 0, 0], [25, 9, 4, 2, 1, 0, 0], [45, -9, 4, 2, 0, 0, 0]])),
    )
    lines = torch.tensor([[[40.0, 20.0]], [[1.0, -20.0]]]) + torch.linspace(-7.5, 7.5, 10)[:, None] * torch.tensor([1.0, 0.0])
    plain = layer(values, codes[None], lines[None], cells, torch.zeros(1, 5, 32, 32))
    for place, changed in (
        ((25.0, 9.0), 1),
        ((25.0 + 2.5 * math.cos(1.0), 9.0 + 2.5 * math.sin(1.0)), 1),
        ((47.5, 20.0), 3),
        ((15.0, 15.0), None),
    ):
        grid = torch.zeros(1, 5, 32, 32)
        grid[:, :, int((place[0] + 8) / 2), int((place[1] + 32) / 2)] = 4.0
        seen = layer(values, codes[None], lines[None], cells, grid)
        assert [index for index in range(5) if not torch.equal(seen[0, index], plain[0, index])] == ([] if changed is None else [changed])


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
    values += [(value * torch.randn_like(value)).sum() for value in (last[0].object_map,)]
    (sum(values) + (last[-1].detection_tokens * torch.randn(2, 3, 16)).sum()).backward()
    idle = [name for name, parameter in decoder.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert not idle and cells.grad.abs().sum() > 0 and grid.grad.abs().sum() > 0


def test_scores_leave_none_out():
    scores = element_scores(torch.log(torch.tensor([[[0.1, 0.2, 0.3, 0.15, 0.25]]])))
    assert scores.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.15], abs=1e-6)
