"""An exported policy is the policy, for any number of moments, and needs none of this code."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from irlvla.export import OUTPUTS, PROGRAM, Deployed, deployed, example, export_policy, rig_of
from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.model.vision import sight_of
from irlvla.rollout import load_policy
from irlvla.train.imitation import fresh_policy, save_policy

from .stand_in import HEIGHT, IMITATION, POLICY, WIDTH, MemoryStore

STORE = MemoryStore(8)
LOADING = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
images, ego_history, command = torch.load(sys.argv[2], weights_only=True)
torch.save(program(images, ego_history, command), sys.argv[3])
assert not any(name.startswith("irlvla") for name in sys.modules)
"""


def one_rig():
    return rig_of(STORE, 0)


def a_policy(config=POLICY):
    policy = fresh_policy(config, STORE.human(np.arange(8)), 0).eval()
    generator = torch.Generator().manual_seed(3)
    for layer in policy.layers:
        torch.nn.init.normal_(layer.residual.weight, std=0.02, generator=generator)
        torch.nn.init.normal_(layer.confidence[2].weight, std=0.5, generator=generator)
    return policy


def with_part(**part):
    return dataclasses.replace(POLICY, perception=dataclasses.replace(POLICY.perception, **part))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_policy(folder / "checkpoint", a_policy(), IMITATION, STORE)
    return export_policy(folder / "checkpoint", one_rig(), HEIGHT, WIDTH)


def test_it_loads_without_this_code_and_plans_as_the_policy_does(exported, tmp_path):
    given = example(one_rig(), HEIGHT, WIDTH, 5, seed=2)
    torch.save(given, tmp_path / "in.pt")
    arguments = [exported / PROGRAM, tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-I", "-c", LOADING, *map(str, arguments)], cwd=tmp_path, check=True)
    plan, trajectories, confidences = (torch.from_numpy(values) for values in outputs(tmp_path / "out.pt"))
    policy = load_policy(exported.parent / "checkpoint")
    features = dataclasses.replace(STORE.features(np.arange(5)), images=given[0].numpy())
    with torch.inference_mode():
        memory = policy.remember(policy.see(sight_of(features), *given[1:]).scene, *given[1:])
        expected = policy.deployed(memory)
    torch.testing.assert_close(trajectories, policy.in_metres(expected.clean), rtol=0, atol=0.02)
    torch.testing.assert_close(confidences, expected.confidence.softmax(1), rtol=0, atol=0.02)
    best = confidences.argmax(1)
    assert torch.equal(plan, trajectories[torch.arange(5), best])


def outputs(path):
    return [value.numpy() for value in torch.load(path, weights_only=True)]


def test_what_it_is_lies_beside_it(exported):
    values = json.loads((exported / "export.json").read_text())
    assert values["inputs"]["images"].startswith(f"uint8 (moments, 4, {HEIGHT}, {WIDTH}, 3)")
    assert set(values["outputs"]) == set(OUTPUTS) == set(values["largest_difference"])
    assert max(values["largest_difference"].values()) < 1e-3
    assert values["checkpoint"]["data_hash"] == STORE.key and len(values["rig"]["valid"]) == 4


def test_detection_and_map_tokens_lamps_and_local_corrections_are_exported_too(tmp_path):
    parts = with_part(elements=ElementConfig(layers=1), birds_eye=dataclasses.replace(POLICY.perception.birds_eye, lamps=True))
    save_policy(tmp_path / "checkpoint", a_policy(dataclasses.replace(parts, local=True)), IMITATION, STORE)
    values = json.loads((export_policy(tmp_path / "checkpoint", one_rig(), HEIGHT, WIDTH, tmp_path / "out") / "export.json").read_text())
    assert max(values["largest_difference"].values()) < 1e-2


@pytest.mark.parametrize(
    ("config", "change", "why"),
    [
        (dataclasses.replace(POLICY, perception=None), {}, "without perception looks at no pictures"),
        (with_part(language=LanguageConfig()), {}, "writes word by word"),
        (POLICY, {"valid": np.array([True, True, False, True])}, "all cameras of one moment must be there"),
    ],
)
def test_what_cannot_be_exported_says_so(config, change, why):
    with pytest.raises(ValueError, match=why):
        deployed(a_policy(config), dataclasses.replace(one_rig(), **change), HEIGHT, WIDTH)


def test_a_deployed_policy_is_a_module_of_three_inputs():
    module = deployed(a_policy(), one_rig(), HEIGHT, WIDTH)
    assert isinstance(module, Deployed) and [tuple(values.shape) for values in module(*example(one_rig(), HEIGHT, WIDTH, 1))] == [
        (1, 8, 3),
        (1, 4, 8, 3),
        (1, 4),
    ]
