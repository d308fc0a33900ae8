"""Low-rank adapters beside frozen matrices."""

import pytest
import torch
from torch import nn

from irlvla.model.adapters import LowRank, adapt


def decoder():
    torch.manual_seed(0)
    layers = [nn.ModuleDict({"q_proj": nn.Linear(4, 6), "o_proj": nn.Linear(6, 4), "up_proj": nn.Linear(4, 4)}) for _ in range(2)]
    return nn.ModuleList(layers)


def test_an_adapter_worked_by_hand():
    adapter = LowRank(nn.Linear(2, 2, bias=False), rank=1, scale=2.0)
    with torch.no_grad():
        adapter.frozen.weight.copy_(torch.eye(2))
        adapter.down.copy_(torch.tensor([[1.0, 1.0]]))
        adapter.up.copy_(torch.tensor([[1.0], [-1.0]]))
    # (3, 4) itself, plus twice 7 along (1, -1).
    assert adapter(torch.tensor([3.0, 4.0])).tolist() == [17.0, -10.0]


def test_at_first_an_adapter_changes_nothing():
    plain = nn.Linear(5, 3)
    values = torch.randn(2, 7, 5)
    assert torch.equal(LowRank(plain, rank=2, scale=2.0)(values), plain(values))


def test_only_matrices_of_attention_are_adapted_and_only_adapters_learn():
    made = decoder()
    parameters = adapt(made, rank=3)
    assert len(parameters) == 8 and sum(parameter.numel() for parameter in parameters) == 4 * 3 * (4 + 6)
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in made.parameters() if parameter.requires_grad}
    assert all(isinstance(layer["up_proj"], nn.Linear) and isinstance(layer["q_proj"], LowRank) for layer in made)


def test_half_precision_stays_half_precision():
    adapter = LowRank(nn.Linear(4, 4).bfloat16(), rank=2, scale=2.0)
    assert adapter(torch.randn(3, 4).bfloat16()).dtype == torch.bfloat16 and adapter.down.dtype == torch.float32


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="adapters of rank 0: at least 1 is needed"):
        adapt(decoder(), rank=0)
    with pytest.raises(ValueError, match="Linear has no linear layers named q_proj"):
        adapt(nn.Linear(2, 2), rank=1)
