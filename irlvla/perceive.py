"""How well a policy's perception tells what is there: objects, lines of the map, and every fact that it states, on prepared scenes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from irlvla.data.store import Indices, Store
from irlvla.element_quality import detection_matches, detection_numbers, map_matches, map_numbers, resampled_intervals
from irlvla.fact_quality import fact_quality, statements
from irlvla.feature_cache import sights
from irlvla.model.elements import element_scores
from irlvla.model.policy import Policy
from irlvla.model.vision import on_device

FOUND = ("boxes", "class_scores", "lines", "kind_scores")


def perception_quality(policy: Policy, store: Store, indices: Indices, seed: int = 0, batch: int = 64) -> dict[str, Any]:
    """Numbers of what a policy says of some scenes' current moments, with intervals that resample logs.

    Args:
        policy: with a perception.
        store: prepared scenes; those without annotations are left out.
        indices: which of them.
        seed: of the resampling.
        batch: scenes at a time.

    Returns:
        "scenes", "logs"; where the policy has such parts "detection" and "map" (average precisions, 0-100, and velocity errors, m/s; each
        with "value" and "ci95") and "facts" (`irlvla.fact_quality.fact_quality`).

    Raises:
        ValueError: the policy has no perception, or none of the scenes has annotations.
    """
    if policy.perception is None:
        raise ValueError("the policy has no perception whose quality could be told")
    indices = np.asarray(indices)
    indices = indices[store.annotated[indices]]
    if not len(indices):
        raise ValueError("none of the scenes has annotations to compare with")
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*FOUND, "facts")}
    look = sights(policy, store)
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        status = (torch.from_numpy(values).float().to(policy.scale.device) for values in (store.histories(part), store.commands(part)))
        with torch.inference_mode():
            seen = policy.see(on_device(look(part, False), policy.scale.device), *status)
        if seen.found is not None:
            last = seen.found[-1]
            values = (last.boxes, element_scores(last.class_logits), last.lines, element_scores(last.kind_logits))
            for name, value in zip(FOUND, values, strict=True):
                found[name].append(value.float().cpu().numpy())
        if seen.semantics is not None:
            found["facts"].append(seen.semantics.facts.cpu().numpy())
    log_names = [store.log_names[index] for index in indices]
    report: dict[str, Any] = {"scenes": len(indices), "logs": len(set(log_names))}
    if found["boxes"]:
        boxes, classes, lines, kinds = (np.concatenate(found[name]) for name in FOUND)
        elements = store.elements(indices)
        objects, drawn = detection_matches(boxes, classes, elements), map_matches(lines, kinds, elements)
        report["detection"] = _with_intervals(lambda weights: detection_numbers(objects, weights), log_names, seed)
        report["map"] = _with_intervals(lambda weights: map_numbers(drawn, weights), log_names, seed)
    if found["facts"]:
        report["facts"] = fact_quality(statements(np.concatenate(found["facts"]), store.facts(indices), log_names), seed)
    return report


def _with_intervals(
    numbers: Callable[[np.ndarray | None], dict[str, float | None]], log_names: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    ends = resampled_intervals(numbers, log_names, seed=seed)
    return {name: {"value": value, "ci95": None if ends[name] is None else list(ends[name])} for name, value in numbers(None).items()}
