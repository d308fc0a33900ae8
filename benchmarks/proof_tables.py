"""Tables of a proof from what docs/results holds: rows, paired differences, the bars and whether they are met, docs/results.md.

Every interval (95 %) comes from one set of resampled data sets for all rows: logs are drawn with replacement in each seed, then seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from proof_record import CAMERA_ONLY, Scores

from irlvla.evaluate import METRIC_NAMES
from irlvla.intervals import COVERAGE, RESAMPLES

SHOWN = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec")
FLOOR = {name: -1.0 if name in ("nc", "dac") else -2.0 for name in SHOWN}
"""No sub-score is worse when the lower end of its paired interval is above this."""
PPO_SECONDS, REWARD_SECONDS = 150.0, 90.0
ABOVE = ("imitation_continued", "best_of_g", "ppo_nearest", "ppo_no_camera_reward")
"""Rows that PPO has to beat beside imitation."""
BOUNDS = ("human", "pdm_closed", "selector_exact", "ppo_exact")
"""Rows that see annotations of the scene, or learned from an exact reward."""
PAIRS = (
    ("ppo", "imitation"), *(("ppo", name) for name in ABOVE), ("ppo", "ppo_exact"), ("ppo_exact", "imitation"), ("ppo_nearest", "imitation"),
    ("ppo_no_camera_reward", "imitation"), ("best_of_g", "imitation"), ("imitation_continued", "imitation"), ("selector", "imitation"),
    ("selector_exact", "imitation"), ("ppo_selector", "ppo"), ("ppo_selector", "selector"), ("ppo_by_predicted", "ppo"),
    ("imitation", "no_camera"), ("imitation", "ego_mlp"), ("imitation", "images_zeroed"),
)  # fmt: skip
BARE = f"{CAMERA_ONLY}/"
BARE_PAIRS = (
    ("ppo_all_logs", "ppo_annotated"), ("ppo_annotated", "imitation"), ("ppo_all_logs", "imitation"), ("ppo", "imitation"),
    ("ppo", "ppo_annotated"), ("ppo_annotated_model", "ppo_annotated"), ("ppo_all_logs", "ppo_annotated_model"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number and its values on resampled data sets."""

    value: float
    draws: np.ndarray

    @property
    def ci95(self) -> list[float]:
        """The interval."""
        tail = (1.0 - COVERAGE) / 2
        return [float(end) for end in np.nanquantile(self.draws, [tail, 1.0 - tail])]


Means = Mapping[tuple[str, str], Measure]
"""Means of a seed (0-100) by row and metric."""
Seeds = Mapping[int, Means]


def means_of(found: Scores, part: str | None = None, seed: int = 0) -> Means:
    """Means of all rows and metrics of a seed, those that are defined nowhere left out; all on the same resampled logs."""
    chosen = np.ones(len(found.log), dtype=bool) if part is None else found.parts[part]
    keys = [(row, metric) for row in found.values for metric in METRIC_NAMES if not np.isnan(found.values[row][metric][chosen]).all()]
    values = np.stack([found.values[row][metric][chosen] for row, metric in keys], axis=1)
    _, log = np.unique(found.log[chosen], return_inverse=True)
    logs = int(log.max()) + 1
    weights = np.random.default_rng([seed, 5]).multinomial(logs, np.full(logs, 1.0 / logs), size=RESAMPLES).astype(np.float64)
    sums, counts = np.zeros((logs, len(keys))), np.zeros((logs, len(keys)))
    np.add.at(sums, log, np.nan_to_num(values))
    np.add.at(counts, log, ~np.isnan(values))
    draws = 100 * (weights @ sums) / np.maximum(weights @ counts, 1.0)
    points = 100 * sums.sum(axis=0) / counts.sum(axis=0)
    return {key: Measure(value=float(points[place]), draws=draws[:, place]) for place, key in enumerate(keys)}


def over(seeds: Seeds, rows: Sequence[str], metric: str, expression: Callable[..., Any]) -> tuple[Measure, list[int]] | None:
    """An expression of some rows' means averaged over the seeds that have them all, and those seeds; None where there is none.

    Args:
        seeds: means of each.
        rows: whose means the expression takes, in this order.
        metric: of them.
        expression: of numbers, or of arrays of resampled numbers.
    """
    there = [seed for seed, means in seeds.items() if all((row, metric) in means for row in rows)]
    if not there:
        return None
    chosen = np.random.default_rng([len(there), 7]).integers(len(there), size=(RESAMPLES, len(there)))
    parts = [[seeds[seed][row, metric] for row in rows] for seed in there]
    draws = np.stack([expression(*(part.draws for part in some)) for some in parts], axis=1)
    value = float(np.mean([expression(*(part.value for part in some)) for some in parts]))
    return Measure(value=value, draws=np.take_along_axis(draws, chosen, axis=1).mean(axis=1)), there


def difference(seeds: Seeds, row: str, against: str, metric: str = "epdms") -> tuple[Measure, list[int]] | None:
    """One row's mean minus another's on the same scenes."""
    return over(seeds, (row, against), metric, lambda left, right: left - right)


def share(seeds: Seeds, row: str, of: str, start: str = "imitation") -> Measure | None:
    """One row's gain over another's, both over a start, from the same resampled data sets; None where the other gains nothing."""
    common = {seed: means for seed, means in seeds.items() if all((name, "epdms") in means for name in (row, of, start))}
    if not common:
        return None
    above, below = (difference(common, name, start)[0] for name in (row, of))
    if below.value == 0:
        return None
    return Measure(value=above.value / below.value, draws=above.draws / np.where(below.draws == 0, np.nan, below.draws))


def bar(text: str, found: Measure | None, is_met: Callable[[float, float], bool], note: str = "", digits: int = 1) -> dict[str, Any]:
    """One bar: what was asked, value, interval, and whether it is met by value and lower end (None: not measured)."""
    if found is None:
        return {"bar": text, "value": None, "ci95": None, "met": None, "note": note, "digits": digits}
    return {
        "bar": text, "value": found.value, "ci95": found.ci95, "met": bool(is_met(found.value, found.ci95[0])), "note": note, "digits": digits,
    }  # fmt: skip


def bars(
    seeds: Seeds, quality: Mapping[int, Mapping[str, Any]], stages: Mapping[int, Mapping[str, Any]], demo: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """All bars, in points of EPDMS or of a sub-score where they say nothing else; `demo`: wall seconds of a `make demo`."""

    def apart(row: str, against: str, metric: str = "epdms") -> Measure | None:
        found = difference(seeds, row, against, metric)
        return None if found is None else found[0]

    def positive(value: float, low: float) -> bool:
        return low > 0

    found = [bar("ppo - imitation >= 3, interval excluding 0", apart("ppo", "imitation"), lambda value, low: value >= 3 and low > 0)]
    found += [bar(f"ppo - {name}: interval above 0", apart("ppo", name), positive) for name in ABOVE]
    for name in SHOWN:
        floor = FLOOR[name]
        text = f"{name.upper()}, ppo - imitation: lower end above {floor:g}"
        found.append(bar(text, apart("ppo", "imitation", name), lambda value, low, floor=floor: low > floor))
    gain = apart("ppo_exact", "imitation")
    ratio = share(seeds, "ppo", "ppo_exact")
    note = "" if gain is None else f"ppo_exact gains {gain.value:+.1f}" + ("" if gain.value >= 3 else ", less than 3: not judged")
    found.append(bar("gain of ppo / gain of ppo_exact >= 0.8", ratio, lambda value, low: value >= 0.8, note, 2))
    if gain is not None and gain.value < 3:
        found[-1]["met"] = None
    picked = share(seeds, "selector", "selector_exact")
    low, high = (0.0, 0.0) if picked is None else picked.ci95
    note = "" if picked is None else f"{picked.value:.2f} ({low:.2f} .. {high:.2f}) of the exact selector's gain"
    found.append(bar("selector (G = 20) - confidence (imitation): interval above 0", apart("selector", "imitation"), positive, note))
    found.append(best_overall(seeds))
    text = "half the logs camera-only: ppo_all_logs - ppo_annotated: interval above 0"
    shares = {"all": "ppo_exact", "an 8th": "ppo_exact_8th", "a 32nd": "ppo_exact_32nd"}
    gains = [f"{gain.value:+.1f} on {part}" for part, row in shares.items() if (gain := apart(row, "imitation")) is not None]
    note = f"PPO with the exact reward gains {', '.join(gains)} of its logs" if len(gains) > 1 else ""
    found.append(bar(text, apart(f"{BARE}ppo_all_logs", f"{BARE}ppo_annotated"), positive, note))
    for name in ("nc", "dac", "tlc"):
        leads = [lead for one in quality.values() if (lead := camera_lead(one, f"auc_{name}")) is not None]
        value = float(np.mean([lead["difference"] for lead in leads])) if leads else None
        note = "each seed: " + ", ".join(f"{lead['difference']:.3f} ({lead['ci95'][0]:.3f} .. {lead['ci95'][1]:.3f})" for lead in leads)
        text = f"AUC of {name.upper()} above camera-less by 0.05 (imitation's samples)"
        met = None if value is None else value >= 0.05
        found.append({"bar": text, "value": value, "ci95": None, "met": met, "note": note if leads else "", "digits": 3})
    for name, limit in (("ppo", PPO_SECONDS), ("reward", REWARD_SECONDS)):
        beside = [marks[name]["seconds"] for marks in stages.values() if name in marks and not marks[name]["interrupted"]]
        value = max(beside) if beside else None
        note = "the longest of the seeds, whole process on one thread beside another stage"
        if demo is not None:
            value, note = demo[name], f"in `make demo` on an idle machine; {max(beside):.0f} s: {note}" if beside else "in `make demo`"
        text = f"{name}: at most {limit:g} s from cached tokens"
        met = None if value is None else value <= limit
        found.append({"bar": text, "value": value, "ci95": None, "met": met, "note": note, "digits": 0})
    return found


def best_overall(seeds: Seeds) -> dict[str, Any]:
    """ppo_selector against the best of all other rows that have nothing that it has not."""
    text = "ppo_selector best overall (of rows without annotations or an exact reward)"
    others = {row for means in seeds.values() for row, _ in means if not row.startswith(BARE)} - {"ppo_selector", *BOUNDS}
    found = {row: pair[0] for row in sorted(others) if (pair := difference(seeds, "ppo_selector", row)) is not None}
    if not found:
        return bar(text, None, lambda value, low: value > 0)
    best = min(found, key=lambda row: found[row].value)
    return bar(text, found[best], lambda value, low: value > 0, f"the best other is {best}")


def camera_lead(report: Mapping[str, Any], metric: str, kind: str = "imitation") -> Mapping[str, Any] | None:
    """The reward world model minus the one without a camera."""
    pairs = report["kinds"].get(kind, {"pairs": []})["pairs"]
    return next((pair for pair in pairs if pair["metric"] == metric and pair["against"] == "rwm_no_camera"), None)


def table_row(seeds: Seeds, row: str) -> dict[str, Any]:
    """One policy over the seeds that have it: EPDMS with its interval, sub-scores."""
    found = {metric: over(seeds, (row,), metric, lambda value: value) for metric in METRIC_NAMES}
    whole, there = found["epdms"]
    about: dict[str, Any] = {"policy": row, "seed": "all", "seeds": there, "epdms": whole.value, "ci95": whole.ci95}
    return about | {metric: None if one is None else one[0].value for metric, one in found.items() if metric != "epdms"}


def table_pairs(seeds: Seeds, pairs: Sequence[tuple[str, str]], prefix: str = "") -> list[dict[str, Any]]:
    """Paired differences in all metrics, of the pairs that there are."""
    found = []
    for policy, against in pairs:
        for metric in METRIC_NAMES:
            one = difference(seeds, prefix + policy, prefix + against, metric)
            if one is not None:
                about = {"policy": prefix + policy, "against": prefix + against, "metric": metric, "seeds": one[1]}
                found.append(about | {"difference": one[0].value, "ci95": one[0].ci95})
    return found
