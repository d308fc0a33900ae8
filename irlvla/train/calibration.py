"""The reward world model on scenes it did not learn from: a temperature a head, how good it then is, and what it costs."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from irlvla.acceptance import acceptance, calibration_error, enrichment
from irlvla.data.store import Store
from irlvla.files import json_mapping
from irlvla.halves import log_halves
from irlvla.model.diffusion import Exploration
from irlvla.model.policy import Policy
from irlvla.model.reward_world_model import HEADS, RewardWorldModel, expected, head_loss, lowered, mixed
from irlvla.rollout import exact_sub_scores, predicted_sub_scores, proposals
from irlvla.scene_cache import SceneCache, inputs, scene_cache
from irlvla.score.epdms import epdms
from irlvla.types import SUB_SCORE_NAMES, SubScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Proposals of a policy on annotated scenes with their exact sub-scores: what a reward world model is held against."""

    cache: SceneCache
    poses: Float[np.ndarray, "scenes proposals 8 3"]
    confidence: Float[np.ndarray, "scenes proposals"]
    scores: SubScores
    log_names: tuple[str, ...]


def judgement(policy: Policy, store: Store, exploration: Exploration, group: int, seed: int) -> Judgement:
    """A policy's deployed plan and `group` - 1 explored ones for every scene of a store, scored exactly."""
    every = np.arange(len(store))
    cache = scene_cache(policy, store, every)
    poses, confidence = proposals(policy, cache, exploration, group - 1, seed)
    scores = exact_sub_scores(store, every, poses)
    return Judgement(cache=cache, poses=poses, confidence=confidence, scores=scores, log_names=tuple(store.log_names))


@torch.no_grad()
def head_logits(model: RewardWorldModel, judged: Judgement) -> dict[str, Float[Tensor, "members scenes proposals classes"]]:
    """Logits of each sub-score by each member, before any temperature, on the CPU."""
    logits: dict[str, list[Tensor]] = {name: [] for name in HEADS}
    for rows in np.array_split(np.arange(len(judged.cache)), max(1, len(judged.cache) // 64)):
        scene, ego_history, command = inputs(judged.cache, rows, model.scale.device)
        poses = torch.from_numpy(judged.poses[rows]).float().to(command.device)
        for name, values in model.member_logits(scene, ego_history, command, poses).items():
            logits[name].append(values)
    return {name: torch.cat(values, dim=1).cpu() for name, values in logits.items()}


def temperatures(logits: dict[str, Float[Tensor, "members scenes proposals classes"]], scores: SubScores, rows: np.ndarray) -> list[float]:
    """For each head the temperature of a fixed ladder that has the least loss on the proposals of some scenes."""
    ladder = torch.logspace(-1, 1, 41, base=4.0)
    best = []
    for name in HEADS:
        values, labels = logits[name][:, rows], torch.from_numpy(getattr(scores, name)[rows]).float()
        losses = torch.stack([head_loss(mixed(values / temperature), labels) for temperature in ladder])
        best.append(float(ladder[losses.argmin()]))
    return best


def calibrate(model: RewardWorldModel, judged: Judgement) -> dict[str, Any]:
    """Sets each head's temperature to the best one on all these scenes, and tells what calibrating does to scenes left out of it.

    Returns:
        For each head a temperature found on half of the logs, and the calibration error on the other half with it and without
        any. Only counts where the logs cannot be halved.
    """
    logits = head_logits(model, judged)
    model.temperature.copy_(torch.tensor(temperatures(logits, judged.scores, np.arange(len(judged.cache)))))
    first, second = log_halves(judged.log_names)
    report: dict[str, Any] = {"scenes": len(second), "logs": len({judged.log_names[row] for row in second})}
    if len(first) and len(second):
        for name, temperature in zip(HEADS, temperatures(logits, judged.scores, first), strict=True):
            truth = np.asarray(getattr(judged.scores, name))[second].ravel()
            errors = {}
            for key, value in (("ece", temperature), ("ece_uncalibrated", 1.0)):
                guess = expected(mixed(logits[name][:, second] / value)).numpy().astype(np.float64).ravel()
                errors[key] = calibration_error(truth, guess)
            report[name] = {"temperature": temperature, **errors}
    return report


def accepted(model: RewardWorldModel, judged: Judgement) -> dict[str, Any]:
    """How good a reward world model is on proposals with known sub-scores, what it costs, and what its doubt is worth.

    Returns:
        `irlvla.acceptance.acceptance`; `gap`: predicted less true EPDMS (0-100) of all proposals and of the deployed plans;
        `cost`: parameters, and seconds per 1,000 trajectories from cached tokens; with several members `doubt`: see `doubt`.
    """
    count = len(judged.cache)
    true = epdms(judged.scores)
    parts = []
    begin = time.perf_counter()
    for rows in np.array_split(np.arange(count), max(1, count // 64)):
        parts.append(predicted_sub_scores(model, judged.cache, rows, torch.from_numpy(judged.poses[rows]).float()))
    seconds = time.perf_counter() - begin
    names = (*SUB_SCORE_NAMES, "ec_defined")
    predicted = SubScores(**{name: np.concatenate([getattr(part, name).cpu().numpy() for part in parts]) for name in names})
    guess = epdms(predicted)
    report = acceptance(judged.scores, predicted, true, guess, judged.confidence, judged.log_names)
    report["gap"] = {"all": 100 * float((guess - true).mean()), "deployed": 100 * float((guess - true)[:, 0].mean())}
    report["cost"] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds_per_1000_trajectories": 1000 * seconds / judged.poses[..., 0, 0].size,
    }
    if model.config.members > 1:
        report["doubt"] = doubt(member_rewards(model, judged.cache, np.arange(count), judged.poses), true)
    return report


def objection(checkpoint: Path) -> str | None:
    """What speaks against a reward world model by the acceptance that lies beside its checkpoint; None without either."""
    path = checkpoint.parent / "acceptance.json"
    low = (json_mapping(path).get("enrichment_ci95") or [None])[0] if path.exists() else None
    if low is None or low > 0:
        return None
    return f"{path}: what it chooses among proposals of val may be no better than their mean (enrichment's interval begins at {low:+.1f})"


@torch.no_grad()
def member_rewards(
    model: RewardWorldModel, cache: SceneCache, rows: np.ndarray, poses: Float[np.ndarray, "scenes proposals 8 3"], batch: int = 64
) -> Float[np.ndarray, "members scenes proposals"]:
    """EPDMS that each member predicts, EC left out; their spread is the model's doubt.

    `irlvla.model.reward_world_model.lowered` makes the pessimistic reward of them: mean less `pessimism` times the spread.
    """
    parts = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        scene, ego_history, command = inputs(cache, part, model.scale.device)
        plans = torch.from_numpy(poses[start : start + batch]).float().to(command.device)
        parts.append(epdms(model.member_sub_scores(scene, ego_history, command, plans)).cpu())
    return torch.cat(parts, dim=1).numpy().astype(np.float64)


def doubt(rewards: Float[np.ndarray, "members scenes proposals"], true: Float[np.ndarray, "scenes proposals"]) -> dict[str, float | None]:
    """Whether the members' spread tells where they are wrong, and what choosing by the pessimistic reward gains.

    Args:
        rewards: EPDMS predicted by each member.
        true: measured EPDMS.

    Returns:
        `spread`: mean standard deviation over members (0-100); `spearman_error`: rank correlation of spread and absolute error;
        `enrichment_pessimism_K`: of choosing by mean less K spreads (0-100).
    """
    mean, spread = rewards.mean(0), rewards.std(0)
    error = np.abs(mean - true)
    varies = np.ptp(spread) > 0 and np.ptp(error) > 0
    report: dict[str, float | None] = {
        "spread": 100 * float(spread.mean()),
        "spearman_error": float(spearmanr(spread.ravel(), error.ravel()).statistic) if varies else None,
    }
    for pessimism in (0.0, 0.5, 1.0, 2.0):
        chosen_by = lowered(torch.from_numpy(rewards), pessimism).numpy()
        report[f"enrichment_pessimism_{pessimism:g}"] = 100 * float(enrichment(true, chosen_by).mean())
    return report


def cost_text(report: dict[str, Any]) -> str:
    """One line on what a reward world model costs.

    Example:
        >>> cost_text({"cost": {"parameters": 1234567, "seconds_per_1000_trajectories": 0.25}})
        'reward world model: 1,234,567 parameters, 0.250 s per 1,000 trajectories'
    """
    cost = report["cost"]
    return f"reward world model: {cost['parameters']:,} parameters, {cost['seconds_per_1000_trajectories']:.3f} s per 1,000 trajectories"
