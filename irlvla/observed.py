"""What a policy says that it sees: its text, its boxes and its map lines, for people to look at."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from irlvla.data.store import Indices, Store
from irlvla.model.policy import Policy
from irlvla.model.vision import sight_of
from irlvla.rationale import rationale


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a policy says of one moment, in its ego frame; empty where it has no part that says so. A malformed text is empty too.

    `boxes`: x, y, heading, length, width of objects that are more likely there than not. `kinds` of the lines: indexes into
    `irlvla.types.LINE_NAMES`.
    """

    text: str
    boxes: Float[np.ndarray, "boxes 5"]
    lines: Float[np.ndarray, "lines 10 2"]
    kinds: Int[np.ndarray, "lines"]


def observed(policy: Policy, store: Store, indices: Indices, batch: int = 64) -> list[Observed]:
    """What a policy says of some scenes' current moments.

    Args:
        policy: trained or not; one without perception says nothing.
        store: prepared scenes; annotations are not needed.
        indices: which of them.
        batch: scenes at a time.
    """
    indices, answer = np.asarray(indices), []
    if policy.perception is None:
        return [Observed(text="", **_elements(None, 0)) for _ in indices]
    for start in range(0, len(indices), batch):
        features = store.features(indices[start : start + batch])
        device = policy.scale.device
        status = (torch.from_numpy(values).float().to(device) for values in (features.ego_history, features.command))
        with torch.inference_mode():
            seen = policy.see(sight_of(features, device), *status)
        texts = [""] * len(features.command)
        if seen.semantics is not None:
            # By the facts, not by the words: every language model has its own, and a malformed text says nothing.
            texts = [rationale(facts) if (facts >= 0).all() else "" for facts in seen.semantics.facts.cpu().numpy()]
        last = None if seen.found is None else seen.found[-1]
        answer += [Observed(text=text, **_elements(last, row)) for row, text in enumerate(texts)]
    return answer


def _elements(found, row: int) -> dict[str, np.ndarray]:
    """Boxes and lines of one scene whose likeliest class is not the last one, "none"."""
    if found is None:
        return {"boxes": np.zeros((0, 5)), "lines": np.zeros((0, 10, 2)), "kinds": np.zeros(0, np.int64)}
    classes, kinds = (logits[row].argmax(1).cpu().numpy() for logits in (found.class_logits, found.kind_logits))
    boxes, lines = (values[row].cpu().numpy().astype(np.float64) for values in (found.boxes, found.lines))
    there, drawn = classes < found.class_logits.shape[-1] - 1, kinds < found.kind_logits.shape[-1] - 1
    return {"boxes": boxes[there][:, [0, 1, 4, 2, 3]], "lines": lines[drawn], "kinds": kinds[drawn]}
