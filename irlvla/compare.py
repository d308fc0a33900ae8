"""Two per-scene CSVs on the same scenes: what differs, how surely, and where most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.evaluate import METRIC_NAMES, SceneTable, pair, read_table

WORST = 10


def comparison(first: Path, second: Path, worst: int = WORST) -> dict[str, Any]:
    """Paired differences (first minus second, 0-100) with intervals that resample logs, and the scenes that lost most.

    Args:
        first: a CSV of `irlvla evaluate`.
        second: another one, of the same scenes in any order.
        worst: how many scenes to list.

    Returns:
        `pairs` as in results.json, `worst` (token, log, both EPDMS), `definition`, `scenes`, `logs`.

    Raises:
        ValueError: the files are not of the same scenes or not of the same definition, or lack columns.
    """
    left, right = read_table(first), read_table(second)
    if sorted(left.tokens) != sorted(right.tokens):
        only = sorted(set(left.tokens) ^ set(right.tokens))
        raise ValueError(f"{first} and {second} are not of the same scenes: {len(only)} are in one file only, such as {only[0]}")
    if left.definition != right.definition:
        raise ValueError(f"{first} holds scores of definition {left.definition}, {second} of {right.definition}")
    right = _reordered(right, left.tokens)
    pairs = [found for metric in METRIC_NAMES if (found := pair(left, right, metric)) is not None]
    change = left.values["epdms"] - right.values["epdms"]
    order = [int(index) for index in np.argsort(change, kind="stable")[:worst] if change[index] < 0]
    rows = [
        {
            "token": left.tokens[index],
            "log_name": left.log_names[index],
            "first": 100 * float(left.values["epdms"][index]),
            "second": 100 * float(right.values["epdms"][index]),
        }
        for index in order
    ]
    return {"pairs": pairs, "worst": rows, "definition": left.definition, "scenes": len(left.tokens), "logs": len(set(left.log_names))}


def _reordered(table: SceneTable, tokens: Sequence[str]) -> SceneTable:
    place = {token: index for index, token in enumerate(table.tokens)}
    order = np.array([place[token] for token in tokens])
    return SceneTable(
        policy=table.policy,
        tokens=tuple(tokens),
        log_names=tuple(table.log_names[index] for index in order),
        values={name: values[order] for name, values in table.values.items()},
        definition=table.definition,
    )
