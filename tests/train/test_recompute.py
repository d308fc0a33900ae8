import torch
from torch import nn

from irlvla.train.recompute import recompute


def network():
    torch.manual_seed(0)
    block = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(nn.ModuleDict({"stages": nn.Sequential(*block)})["stages"], nn.Flatten(), nn.Linear(48, 1))


def learned(model):
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        model.train()(images).square().mean().backward()
    return {name: value.grad for name, value in model.named_parameters()}, model.state_dict()


def test_recomputed_blocks_have_the_same_gradients_and_batch_statistics():
    plain, saving = network(), network()
    assert recompute(saving) == 3
    (gradients, state), (again, state_again) = learned(plain), learned(saving)
    assert gradients.keys() == again.keys() and state.keys() == state_again.keys()
    for left, right in ((gradients, again), (state, state_again)):
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_blocks_are_found_inside_of_parts_and_single_layers_are_left_alone():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.TransformerEncoderLayer(2, 1)])

    assert recompute(nn.ModuleDict({"first": Part(), "second": Part()})) == 4


def test_fewer_activations_are_held():
    def held(model):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value.numel()) or value, lambda value: value):
            model.train()(torch.randn(5, 3, 4, 4))
        return sum(kept)

    saving = network()
    before = held(saving)
    recompute(saving)
    assert held(saving) < before / 2
