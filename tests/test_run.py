import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from irlvla import run


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Config:
    inner: Inner = Inner()
    rate: float = 0.1
    range: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None


def trained(folder, steps, stop_after=None, resume=False):
    """A toy loop with everything that has state: weights, momentum, dropout-like noise, shuffling."""
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(0.5), model.bias.fill_(0.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    noise, order = torch.Generator().manual_seed(1), np.random.default_rng(2)
    start = 0
    if resume:
        start = run.load_state(folder / "state", {"model": model}, {"main": optimiser}, {"noise": noise, "order": order})["step"]
    with run.metrics_writer(folder, resume_step=start if resume else None) as write:
        for step in range(start + 1, steps + 1):
            loss = (model(torch.randn(4, 3, generator=noise)) - float(order.normal())).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            write(step, loss=loss.item())
            if step == stop_after:
                generators = {"noise": noise, "order": order}
                run.save_state(folder / "state", {"model": model.state_dict()}, {"main": optimiser}, generators, {"step": step})
    return model.weight.detach().clone()


def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(tmp_path):
    whole = trained(tmp_path / "whole", 9)
    trained(tmp_path / "cut", 6, stop_after=4)
    resumed = trained(tmp_path / "cut", 9, resume=True)
    assert torch.equal(whole, resumed)


def test_metrics_of_lost_steps_are_dropped_on_resume(tmp_path):
    with run.metrics_writer(tmp_path) as write:
        for step in range(5):
            write(step, loss=step * 0.1)
    with run.metrics_writer(tmp_path, resume_step=2) as write:
        write(3, loss=7.0)
    assert run.metrics(tmp_path / "metrics.csv") == [(0, "loss", 0.0), (1, "loss", 0.1), (2, "loss", 0.2), (3, "loss", 7.0)]


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    model = torch.nn.Linear(2, 2)
    run.save(tmp_path / "c", {"policy": model.state_dict()}, Config(limit=3), {"low": np.zeros(2)}, run.provenance("abc", 1))
    run.save(tmp_path / "c", {"policy": model.state_dict()}, Config(limit=3), {"low": np.zeros(2)}, run.provenance("abc", 1))
    loaded = run.load(tmp_path / "c")
    assert torch.equal(loaded.weights["policy"]["weight"], model.weight)
    assert run.config_of(Config, loaded.config) == Config(limit=3)
    assert loaded.normaliser == {"low": [0.0, 0.0]} and loaded.provenance["data_hash"] == "abc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no such checkpoint"):
        run.load(tmp_path)


def test_a_missing_module_is_named(tmp_path):
    run.save(tmp_path / "c", {"policy": torch.nn.Linear(1, 1).state_dict()}, {}, {}, {})
    (tmp_path / "c" / "policy.safetensors").unlink()
    with pytest.raises(ValueError, match="policy.safetensors does not exist"):
        run.load(tmp_path / "c")


def test_a_missing_optimiser_or_generator_is_named(tmp_path):
    run.save_state(tmp_path / "s", {}, {}, {}, {"step": 1})
    optimiser = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no optimiser 'main'"):
        run.load_state(tmp_path / "s", {}, {"main": optimiser}, {})
    with pytest.raises(ValueError, match="no generator 'noise'"):
        run.load_state(tmp_path / "s", {}, {}, {"noise": torch.Generator()})


def test_a_config_of_another_version_is_named():
    with pytest.raises(ValueError, match="has no fields \\['depth'\\]"):
        run.config_of(Config, {"depth": 3})


def saved(folder, value):
    run.save(folder, {"policy": {"weight": torch.full((4, 5), value)}}, {"rate": 0.5}, {"scale": np.array([1.0, 2.0])}, {"commit": None})


@pytest.mark.parametrize("name", ["policy.safetensors", "checkpoint.json"])
def test_one_changed_bit_of_a_checkpoint_is_known(tmp_path, name):
    saved(tmp_path / "checkpoint", 1.0)
    assert run.load(tmp_path / "checkpoint").normaliser == {"scale": [1.0, 2.0]}
    path = tmp_path / "checkpoint" / name
    content = bytearray(path.read_bytes())
    place = len(content) - 3 if name.endswith("safetensors") else content.index(b"0.5")
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*damaged: (it is )?not what was written"):
        run.load(tmp_path / "checkpoint")


def test_one_changed_bit_of_a_training_state_is_known(tmp_path):
    trained(tmp_path, 4, stop_after=4)
    for path in sorted((tmp_path / "state").iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
            trained(tmp_path, 6, resume=True)
        path.write_bytes(whole)
    trained(tmp_path, 6, resume=True)


def test_checkpoints_without_sums_are_read(tmp_path):
    saved(tmp_path / "checkpoint", 1.0)
    path = tmp_path / "checkpoint" / "checkpoint.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in ("sum", "sums")}))
    assert run.load(tmp_path / "checkpoint").config == {"rate": 0.5}


@pytest.mark.parametrize("killed_before", ["first", "second"])
def test_a_checkpoint_is_there_even_after_a_kill_between_the_two_renames_of_its_replacement(tmp_path, monkeypatch, killed_before):
    folder = tmp_path / "checkpoint"
    saved(folder, 1.0)
    renamed, original = [], os.rename

    def killed(old, new):
        renamed.append(old)
        if len(renamed) == {"first": 1, "second": 2}[killed_before]:
            raise KeyboardInterrupt
        original(old, new)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        saved(folder, 2.0)
    assert folder.exists() == (killed_before == "first")
    assert run.load(folder).weights["policy"]["weight"][0, 0] == {"first": 1.0, "second": 2.0}[killed_before]
    saved(folder, 3.0)
    assert run.load(folder).weights["policy"]["weight"][0, 0] == 3.0 and [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_state_whose_replacement_was_killed_is_gone_on_from(tmp_path):
    trained(tmp_path, 4, stop_after=4)
    (tmp_path / "state").rename(tmp_path / ".state.old")
    assert run.has_state(tmp_path / "state") and not run.has_state(tmp_path / "other")


def test_metrics_are_never_gone_while_a_run_goes_on(tmp_path, monkeypatch):
    with run.metrics_writer(tmp_path) as write:
        write(0, loss=1.0)
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), run.metrics_writer(tmp_path, resume_step=0):
        pass
    assert run.metrics(tmp_path / "metrics.csv") == [(0, "loss", 1.0)]
