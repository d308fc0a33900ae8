"""Two processes on the CPU, started by torchrun, against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from irlvla import run
from irlvla.train import distributed
from irlvla.train.imitation import fresh_policy
from irlvla.train.moments import humans, moments

from ..stand_in import MemoryStore
from . import together

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)]
    threads = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=os.environ | threads)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of what two processes made and of what one made."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    answer = torchrun("-m", "tests.train.together", "train", two)
    assert answer.returncode == 0, answer.stderr
    for name, config in (("seeing", together.CONFIG), ("blind", together.BLIND)):
        together.fit(config, one / name)
    return two, one


def weights(folder):
    return {name: value.double() for name, value in run.load(folder / "checkpoint").weights["policy"].items()}


def distance(left, right):
    return sum(float((left[name] - right[name]).square().sum()) for name in left) ** 0.5


def start(config):
    store = MemoryStore()
    return {name: value.double() for name, value in fresh_policy(config.policy, humans(store, moments(store)), 0).state_dict().items()}


def values(folder):
    return {(step, name): value for step, name, value in run.metrics(folder / "metrics.csv")}


@pytest.mark.parametrize("name", ["blind", "sharded_blind"])
def test_two_processes_with_two_micro_batches_each_end_where_one_process_does(both, name):
    two, one = both
    ends = weights(one / "blind")
    assert distance(weights(two / name), ends) < 1e-3 * distance(start(together.BLIND), ends)
    measured, expected = values(two / name), values(one / "blind")
    assert measured.keys() == expected.keys()
    assert all(measured[key] == pytest.approx(value, rel=1e-4, abs=1e-4) for key, value in expected.items())


@pytest.mark.parametrize("name", ["seeing", "sharded"])
def test_with_pictures_they_differ_by_the_rounding_of_bfloat16(both, name):
    two, one = both
    ends = weights(one / "seeing")
    assert distance(weights(two / name), ends) < 0.02 * distance(start(together.CONFIG), ends)
    measured, expected = values(two / name), values(one / "seeing")
    assert measured.keys() == expected.keys()
    assert all(measured[key] == pytest.approx(value, rel=0.02, abs=0.02) for key, value in expected.items() if key[1] != "val/epdms")


def test_interrupted_and_resumed_two_processes_end_with_the_same_bits(both):
    two, _ = both
    whole, halves = weights(two / "seeing"), weights(two / "interrupted")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert values(two / "seeing") == values(two / "interrupted")


def test_batch_statistics_are_those_of_all_processes(both):
    two, _ = both
    expected = together.normalised(together.a_layer(), together.values_of_a_batch(), slice(None))
    parts = [load_file(two / f"norm-{rank}.safetensors") for rank in range(2)]
    for name in ("answer", "gradient"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), expected[name], rtol=1e-4, atol=1e-5)
    # DistributedDataParallel adds up what the processes' own gradients are.
    torch.testing.assert_close(parts[0]["weight_gradient"] + parts[1]["weight_gradient"], expected["weight_gradient"], rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(parts[0][name], expected[name])
        assert torch.equal(parts[0][name], parts[1][name])


def test_an_error_of_one_process_ends_all_with_its_message(tmp_path):
    answer = torchrun("-m", "tests.train.together", "fail", tmp_path)
    assert answer.returncode != 0 and "ValueError: scene0007 is missing" in answer.stderr


def test_one_process_takes_the_whole_batch_in_micro_batches_as_even_as_may_be():
    assert distributed.own_parts(8, 3) == [slice(0, 2), slice(2, 5), slice(5, 8)]
    assert distributed.processes() == 1 and distributed.rank() == 0
    with distributed.joined(), distributed.first_alone():
        distributed.wait()
    with pytest.raises(ValueError, match="a batch of 2 scenes cannot be cut into 1 processes x 3 micro-batches"):
        distributed.own_parts(2, 3)


def test_an_unknown_way_to_share_weights_is_an_error():
    with pytest.raises(ValueError, match="parallel is 'fsdp', known are: replicated, sharded"):
        distributed.spread(torch.nn.Linear(1, 1), "fsdp")
