"""What watches over a PPO run: probes of true and predicted EPDMS on val, the candidates they choose, and the rules that stop a run early."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irlvla.data.store import Store
from irlvla.model.policy import Policy
from irlvla.rollout import cached_plans
from irlvla.run import write_json
from irlvla.score.epdms import epdms
from irlvla.train.imitation import save_policy
from irlvla.train.loop import probe_values
from irlvla.train.rewards import Judge, Scenes
from irlvla.types import SUB_SCORE_NAMES

Probe = dict[str, float]
"""Values of one probe by name: true EPDMS and sub-scores (0-100), `predicted`, and every `gap` (predicted - true)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """When to look, and when to stop.

    `probe_every`: probes between the candidates, every so many iterations (0: none); they are logged and guarded but no candidates,
    whose number is that of the controls. `gap_growth`: stop when predicted - true EPDMS has grown by more than so many points since
    the start (from 0 if it was negative): the policy then exploits its reward. `below_imitation`: stop when so many probes in a row are
    below the start's true EPDMS.
    """

    probe_every: int = 20
    gap_growth: float = 15.0
    below_imitation: int = 3


def guarded_probe(policy: Policy, judge: Judge, scenes: Scenes, batch: int = 64) -> Probe:
    """True and predicted EPDMS of a policy's deployed plans in all of some annotated scenes, and the gaps between the two.

    Args:
        policy: to be probed.
        judge: the reward function.
        scenes: annotated ones.
        batch: scenes judged at a time.
    """
    policy.eval()
    rows = np.arange(len(scenes.now))
    plans, earlier = cached_plans(policy, scenes.now), cached_plans(policy, scenes.before)
    probed = probe_values(scenes.store, rows, plans, earlier)
    totals, defined, said = dict.fromkeys(SUB_SCORE_NAMES, 0.0), 0.0, 0.0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        scores = judge(scenes, part, torch.from_numpy(plans[part])[:, None].float().to(policy.scale.device), earlier[part])
        said += float(epdms(scores).sum())
        defined += float(scores.ec_defined.sum())
        for name in SUB_SCORE_NAMES:
            totals[name] += float(getattr(scores, name).sum())
    gaps = {f"gap_{name}": 100 * totals[name] / (defined if name == "ec" else len(rows)) - probed[name] for name in SUB_SCORE_NAMES[:-1]}
    if defined:
        gaps["gap_ec"] = 100 * totals["ec"] / defined - probed["ec"]
    predicted = 100 * said / len(rows)
    return probed | {"predicted": predicted, "gap": predicted - probed["epdms"]} | gaps


def reason_to_stop(config: GuardConfig, probes: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a run should stop, None if it should go on.

    Args:
        config: the bounds.
        probes: so far, the first one of the policy that PPO started from; each with `step`, `epdms` and `gap`.

    Example:
        >>> probes = [{"step": 0, "epdms": 70.0, "gap": 1.0}, {"step": 9, "epdms": 66.0, "gap": 12.0}]
        >>> reason_to_stop(GuardConfig(gap_growth=10.0), probes)
        'predicted - true EPDMS grew from +1.0 to +12.0, by more than 10 points: the policy exploits its reward'
    """
    first, last = probes[0], probes[-1]
    if last["gap"] - max(first["gap"], 0.0) > config.gap_growth:
        return (
            f"predicted - true EPDMS grew from {first['gap']:+.1f} to {last['gap']:+.1f}, by more than {config.gap_growth:g} points: "
            "the policy exploits its reward"
        )
    recent = probes[1:][-config.below_imitation :]
    if len(recent) == config.below_imitation and all(probe["epdms"] < first["epdms"] for probe in recent):
        return f"true EPDMS was below imitation's {first['epdms']:.1f} in {len(recent)} probes in a row, last {last['epdms']:.1f}"
    return None


def not_finite(measures: Mapping[str, float]) -> str | None:
    """Why a run should stop after an iteration whose measures are these: one of them is not finite."""
    wrong = sorted(name for name, value in measures.items() if not math.isfinite(value))
    return f"{wrong[0]} is {measures[wrong[0]]}" if wrong else None


def keep_candidate(
    probes: list[dict[str, Any]], probed: dict[str, Any], policy: Policy, config: object, store: Store, folder: Path
) -> None:
    """Adds a probe to those so far; a candidate that is the best yet by true EPDMS is saved, as is the best by predicted EPDMS.

    Args:
        probes: so far; `probed` is added in place.
        probed: the new one, with `step`, and with `candidate` where it may be chosen.
        policy: that was probed.
        config: of its training, for the checkpoint.
        store: training scenes, likewise.
        folder: of the stage; the second choice goes to `by_predicted` in it.
    """
    earlier = [probe for probe in probes if probe["candidate"]]
    probes.append(probed)
    for name, place in (("epdms", folder), ("predicted", folder / "by_predicted")):
        if probed["candidate"] and all(probed[name] > probe[name] for probe in earlier):
            save_policy(place / "checkpoint", policy, config, store)


def finish(
    probes: Sequence[Mapping[str, Any]], step: int, stopped: str | None, start: Policy, config: object, store: Store, folder: Path
) -> None:
    """Writes all probes and which candidates were chosen; a run that was stopped early says so, and keeps the start if that is better.

    Args:
        probes: of the whole run.
        step: the last iteration.
        stopped: why it was stopped early, if it was.
        start: the policy that PPO started from.
        config: of the run, for the checkpoint.
        store: training scenes, likewise.
        folder: of the stage; gets `probes.json`.
    """
    candidates = [probe for probe in probes if probe["candidate"]]
    known = candidates if candidates and stopped is None else [*candidates, probes[0]]
    steps = {f"by_{name}": max(known, key=lambda probe, by=name: probe[by])["step"] for name in ("epdms", "predicted")}
    write_json(folder / "probes.json", {"probes": probes, "chosen": steps, "stopped": stopped})
    for name, place in (("epdms", folder), ("predicted", folder / "by_predicted")):
        if steps[f"by_{name}"] == probes[0]["step"]:
            save_policy(place / "checkpoint", start, config, store)
    if stopped is not None:
        kept = "the policy it started from" if steps["by_epdms"] == probes[0]["step"] else f"the candidate of iteration {steps['by_epdms']}"
        print(f"{folder.name}: stopped after iteration {step}: {stopped}; kept is {kept}")
