"""Stages that are one of a recipe's but for what is changed: what the alternatives and ablations of the tables are. Adding one is a line here."""

from typing import Any

from irlvla.model.diffusion import full_diffusion, regression
from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.shifted import ShiftConfig

_BARE: dict[str, Any] = {"birds_eye": {"lamps": False}, "elements": None, "language": None}
_TELLING = _BARE | {"elements": ElementConfig(), "language": LanguageConfig()}
IMITATION_VARIANTS: dict[str, dict[str, Any]] = {
    "imitation_main": {"policy": {"local": False, "perception": _BARE}, "planner": {"regression": 8.0, "path": 0.0}, "colour": 0.1},
    "imitation_pictures": {
        "policy": {"perception": _BARE | {"birds_eye": {"lamps": False, "lift": False, "front_views": 4}}},
        "map_weight": 0.0,
        "ahead_weight": 0.0,
    },
    "imitation_birds_eye": {"policy": {"perception": _BARE}},
    "imitation_elements": {"policy": {"perception": _BARE | {"elements": ElementConfig()}}},
    "imitation_language": {"policy": {"perception": _TELLING}},
    "imitation_meta": {"policy": {"perception": _TELLING | {"language": LanguageConfig(hidden="meta")}}},
    "imitation_silent": {"policy": {"perception": _TELLING | {"language": LanguageConfig(write=False)}}},
    "imitation_lamps": {"policy": {"perception": _BARE | {"birds_eye": {"lamps": True}}}},
    "imitation_global": {"policy": {"local": False, "perception": _BARE}},
    "imitation_no_path": {"planner": {"path": 0.0}, "policy": {"perception": _BARE}},
    "imitation_regression": {"policy": {"diffusion": regression(), "anchors": 1, "perception": _BARE}},
    "imitation_anchored_regression": {"policy": {"diffusion": regression(), "perception": _BARE}},
    "imitation_full_diffusion": {"policy": {"diffusion": full_diffusion(), "perception": _BARE}},
    "imitation_deformable": {"policy": {"deformable": 3, "perception": _BARE}},
    "imitation_lite0": {"policy": {"perception": _BARE | {"vision": {"encoder": "efficientnet-lite0", "frozen": True}}}},
    "imitation_dinov2": {"policy": {"perception": _BARE | {"vision": {"encoder": "dinov2-s", "frozen": True}}}},
}
"""Stages that are the recipe's `ablated` but for what is changed here: the planner and parts of recipe `default`, parts added one after the
other, planners, encoders."""
REWARD_VARIANTS: dict[str, dict[str, Any]] = {
    "reward_no_camera": {"model": {"camera": False}},
    "reward_members": {"model": {"members": 4}},
    "reward_in_sample": {"half": "B"},
    "reward_no_denoised": {"candidates": {"deployed": 0}},
    "reward_no_explored": {"candidates": {"likely": 0, "even": 0}},
    "reward_no_vocabulary": {"candidates": {"near": 0, "far": 0}},
    "reward_shifted": {"candidates": {"shifted": ShiftConfig()}},
    "reward_vocabularies": {"candidates": {"vocabularies": (32, 256, 2048, 8192)}},
}
"""Stages that are the recipe's `reward` but for what is changed here."""
SAME_LABELS = ("reward_no_camera", "reward_members")
"""Those that learn from the labels of `reward`."""
_UNHELD = {"clone_weight": 0.0, "rate": 5e-4, "iterations": 60}
_UNGUARDED = {"guards": {"probe_every": 5, "gap_growth": 100.0, "below_imitation": 99}}
PPO_VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "ppo_exact": ({"reward": "exact"}, "reward"),
    "ppo_nearest": ({"reward": "nearest"}, "reward"),
    "ppo_no_camera_reward": ({"reward": "no_camera"}, "reward_no_camera"),
    "ppo_confidences": ({"learn": "confidences"}, "reward"),
    "ppo_trajectories": ({"learn": "trajectories"}, "reward"),
    "ppo_critic": ({"advantage": "critic"}, "reward"),
    "ppo_anchor": ({"advantage": "anchor"}, "reward"),
    "ppo_std": ({"normalisation": "std"}, "reward"),
    "ppo_clip": ({"clip_first": 0.05}, "reward"),
    "ppo_untempered": ({"temperature": 1.0}, "reward"),
    "ppo_light_steps": ({"trajectory_weight": 1.0}, "reward"),
    "ppo_little_cloning": ({"clone_weight": 0.1}, "reward"),
    "ppo_kl": ({"clone_weight": 0.0, "kl_weight": 0.5}, "reward"),
    "ppo_spread": ({"spread_share": 0.5}, "reward"),
    "ppo_no_ec": ({"with_ec": False}, "reward"),
    "ppo_no_gate": ({"gate_below": 0.0}, "reward"),
    "ppo_refit": ({"refit_every": 40}, "reward"),
    "ppo_pessimistic": ({"pessimism": 1.0}, "reward_members"),
    "ppo_in_sample": ({"logs": "judged"}, "reward_in_sample"),
    "ppo_no_denoised": ({}, "reward_no_denoised"),
    "ppo_no_explored": ({}, "reward_no_explored"),
    "ppo_no_vocabulary": ({}, "reward_no_vocabulary"),
    "ppo_shifted": ({}, "reward_shifted"),
    "ppo_vocabularies": ({}, "reward_vocabularies"),
    "ppo_unheld": (_UNHELD | _UNGUARDED, "reward"),
    "ppo_unheld_refit": (_UNHELD | _UNGUARDED | {"refit_every": 10}, "reward"),
    "ppo_unheld_pessimistic": (_UNHELD | _UNGUARDED | {"pessimism": 2.0}, "reward_members"),
    "ppo_unheld_guarded": (_UNHELD | {"guards": {"probe_every": 5}}, "reward"),
    "ppo_exact_8th": ({"reward": "exact", "log_share": 0.125}, "reward"),
    "ppo_exact_32nd": ({"reward": "exact", "log_share": 0.03125}, "reward"),
    "ppo_annotated": ({"reward": "exact", "logs": "annotated"}, "reward"),
    "ppo_annotated_model": ({"logs": "annotated"}, "reward"),
    "ppo_all_logs": ({"reward": "exact_or_model", "logs": "all"}, "reward"),
}
"""Stages that are the recipe's `ppo` but for what is changed here, and the stage of the reward world model that judges."""
STAGES = (
    "vision",
    "imitation",
    "no_camera",
    "ego_mlp",
    *IMITATION_VARIANTS,
    "reward",
    *REWARD_VARIANTS,
    "ppo",
    "imitation_continued",
    "best_of_g",
    *PPO_VARIANTS,
)
"""What can be trained, in an order in which everything that a stage needs comes before it; "vision" is imitation's first half."""
