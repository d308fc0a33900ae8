import numpy as np
import pytest
import torch

from irlvla.model.diffusion import (
    DiffusionConfig,
    ExplorationConfig,
    alphas_cumprod,
    exploration_log_prob,
    exploration_noise,
    exploration_of,
    k_means,
    noisy,
    normaliser_of,
    previous_mean,
)


def straight(length):
    poses = torch.zeros(8, 3)
    poses[:, 0] = torch.linspace(length / 8, length, 8)
    return poses


def test_the_noise_at_the_deployed_start_has_std_003():
    alphas = alphas_cumprod(DiffusionConfig())
    assert float((1 - alphas[8]).sqrt()) == pytest.approx(0.031, abs=0.002)
    assert float(alphas[999]) < 0.01 and bool((torch.diff(alphas) < 0).all())


def test_a_ddim_step_with_the_true_clean_trajectory_takes_noise_away_and_nothing_else():
    alphas = alphas_cumprod(DiffusionConfig())
    clean, noise = torch.randn(5, 8, 3), torch.randn(5, 8, 3)
    level = torch.tensor([10]).expand(5)
    mean = previous_mean(noisy(clean, noise, alphas[level]), clean, alphas[level], alphas[level * 0])
    torch.testing.assert_close(mean, noisy(clean, noise, alphas[level * 0]), atol=1e-4, rtol=1e-4)


def test_k_means_finds_separate_clumps_and_is_ordered_and_repeatable():
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(place, 0.1, (20, 2)) for place in (9.0, 1.0, 5.0)])
    centres = k_means(points, 3, seed=1)
    np.testing.assert_allclose(centres, [[1, 1], [5, 5], [9, 9]], atol=0.2)
    np.testing.assert_array_equal(centres, k_means(points, 3, seed=1))
    with pytest.raises(ValueError, match="5 centres asked of 2 trajectories"):
        k_means(points[:2], 5, seed=0)


def test_the_normaliser_takes_all_trajectories_into_minus_one_to_one():
    poses = np.random.default_rng(0).normal(0, 10, (50, 8, 3))
    offset, scale = normaliser_of(poses)
    assert (np.abs((poses - offset) / scale) <= 1).all() and offset[1:] == [0.0, 0.0]


def exploration(config=None, lengths=(4.0, 40.0)):
    scale = torch.tensor([30.0, 20.0, 1.0])
    return exploration_of(torch.stack([straight(length) for length in lengths]), scale, config or ExplorationConfig()), scale


def test_exploration_scales_with_the_length_and_is_smooth_in_time():
    config = ExplorationConfig(floor=0.0)
    made, scale = exploration(config)
    anchor = torch.tensor([[0], [1]]).expand(2, 4000)
    noise = exploration_noise(made, anchor, torch.Generator().manual_seed(0)) * scale
    spread = noise[:, :, -1].std(1)
    assert float(spread[1, 0]) == pytest.approx(config.along * 40, rel=0.05)
    assert float(spread[0, 1]) == pytest.approx(config.across * config.shortest, rel=0.05)
    jerk = torch.diff(noise[1, :, :, 0], n=3, dim=1).abs().max() / noise[1, :, :, 0].abs().max()
    assert float(jerk) < 0.05


def test_the_density_is_the_gaussian_that_was_sampled_from():
    made, _ = exploration(ExplorationConfig(density_floor=0.0, floor=0.02))
    anchor = torch.tensor([0, 1, 1])
    covariance = made.sampling[anchor].double() @ made.sampling[anchor].double().transpose(1, 2)
    mean = torch.randn(3, 8, 3)
    value = mean + exploration_noise(made, anchor, torch.Generator().manual_seed(1))
    expected = torch.distributions.MultivariateNormal(mean.flatten(1).double(), covariance).log_prob(value.flatten(1).double()) / 24
    torch.testing.assert_close(exploration_log_prob(made, anchor, mean, value).double(), expected, rtol=1e-3, atol=1e-3)
