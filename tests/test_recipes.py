import dataclasses

import pytest

from irlvla.recipes import default, judge_of, stage_config
from irlvla.variants import PPO_VARIANTS, REWARD_VARIANTS, STAGES


def differing(left, right):
    return [field.name for field in dataclasses.fields(left) if getattr(left, field.name) != getattr(right, field.name)]


def test_every_variant_of_ppo_differs_in_what_it_says_or_in_its_judge_alone():
    plain = default().ppo
    for name, (change, judge) in PPO_VARIANTS.items():
        assert sorted(differing(plain, stage_config(name, default()))) == sorted(change), name
        assert (change or judge != "reward") and judge_of(name) == judge and STAGES.index(judge) < STAGES.index(name)
    assert judge_of("ppo") == judge_of("best_of_g") == "reward"


def test_every_variant_of_the_reward_world_model_differs_in_one_part():
    plain = default().reward
    for name in REWARD_VARIANTS:
        config = stage_config(name, default())
        assert len(differing(plain, config)) == 1, name
    assert stage_config("reward_members", default()).model.members == 4
    assert stage_config("reward_no_explored", default()).candidates.even == 0


def test_a_stage_that_nobody_knows_is_an_error_that_lists_those_there_are():
    with pytest.raises(ValueError, match="unknown stage 'ppo_luck'; there are: vision, imitation"):
        stage_config("ppo_luck", default())
