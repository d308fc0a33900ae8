"""Comfort: six bounds on the past and the simulated future (HC), and agreement of two consecutive plans (EC).

Source: autonomousvision/navsim at 0a380a9, pdm_planner/scoring/pdm_comfort_metrics.py, pdm_scorer.py (656-700) and
scene_aggregator.py (49-77). The smoothing is scipy's `savgol_filter` in its mode "interp".
"""

from math import factorial
from typing import no_type_check

import numpy as np
from jaxtyping import Float
from numba import njit

from irlvla.geometry import frozen, wrapped
from irlvla.types import PreparedScene
from irlvla.vehicle import AX, AY, HEADING, INTERVAL, REAR_AXLE_TO_CENTER, YAW_ACCELERATION, YAW_RATE

MINIMUM_ACCELERATION, MAXIMUM_ACCELERATION = -4.05, 2.40
MAXIMUM_LATERAL_ACCELERATION = 4.89
MAXIMUM_JERK, MAXIMUM_LONGITUDINAL_JERK = 8.37, 4.13
MAXIMUM_YAW_ACCELERATION, MAXIMUM_YAW_RATE = 1.93, 0.95
"""HC: strict bounds at every sample, m/s2, m/s3, rad/s2, rad/s."""
EXTENDED_BOUNDS = (0.7, 0.5, 0.1, 0.1)
"""EC: largest RMS difference of acceleration, jerk, yaw rate and yaw acceleration; m/s2, m/s3, rad/s, rad/s2."""


def savgol_weights(window: int, degree: int, derivative: int) -> Float[np.ndarray, "rows window"]:
    """The rows of a Savitzky-Golay filter that fits a polynomial at both ends.

    The first window // 2 rows make the first samples out of the first window, the middle row every inner sample (evaluated
    at the window's middle, which lies between two samples if the window is even), the other rows the last samples.
    """
    fit = np.linalg.pinv(np.vander(np.arange(window, dtype=np.float64), degree + 1, increasing=True))
    half = window // 2
    places = [*range(half), (window - 1) / 2, *range(window - half, window)]
    rows = []
    for place in places:
        powers = range(derivative, degree + 1)
        rows.append(sum(factorial(p) / factorial(p - derivative) * place ** (p - derivative) * fit[p] for p in powers))
    return np.array(rows) / INTERVAL**derivative


_SMOOTH = frozen(savgol_weights(8, 2, 0), np.float64)
_JERK = frozen(savgol_weights(15, 2, 1), np.float64)
_RATE = frozen(savgol_weights(5, 2, 1), np.float64)
_CUBIC_RATE_CHANGE = frozen(savgol_weights(5, 3, 2), np.float64)
_RATE_CHANGE = frozen(savgol_weights(5, 2, 2), np.float64)


@no_type_check
@njit(cache=True, nogil=True)
def _filtered(values, weights):
    """Filtered values, rounded to 8 decimals as the devkit does."""
    count, window = len(values), weights.shape[1]
    half, left = window // 2, (window - 1) // 2
    result = np.empty(count)
    for i in range(count):
        row, first = half, i - left
        if i < half:
            row, first = i, 0
        elif i >= count - half:
            row, first = 2 * half + 1 - (count - i), count - window
        total = 0.0
        for k in range(window):
            total += weights[row, k] * values[first + k]
        result[i] = np.round(total, 8)
    return result


@no_type_check
@njit(cache=True, nogil=True)
def _unwrap(headings):
    """Remove jumps of full turns in place."""
    turns = 0.0
    last = headings[0]
    for i in range(1, len(headings)):
        turns += np.round((headings[i] - last) / (2.0 * np.pi))
        last = headings[i]
        headings[i] -= 2.0 * np.pi * turns


@no_type_check
@njit(cache=True, nogil=True)
def _within(values, low, high):
    for value in values:
        if not low < value < high:
            return False
    return True


@no_type_check
@njit(cache=True, nogil=True)
def _is_comfortable(headings, along, across, magnitudes, smooth, jerk, rate, rate_change):
    acceleration = _filtered(along, smooth)
    if not _within(acceleration, MINIMUM_ACCELERATION, MAXIMUM_ACCELERATION):
        return False
    if not _within(_filtered(acceleration, jerk), -MAXIMUM_LONGITUDINAL_JERK, MAXIMUM_LONGITUDINAL_JERK):
        return False
    if not _within(_filtered(across, smooth), -MAXIMUM_LATERAL_ACCELERATION, MAXIMUM_LATERAL_ACCELERATION):
        return False
    if not _within(_filtered(_filtered(magnitudes, smooth), jerk), -MAXIMUM_JERK, MAXIMUM_JERK):
        return False
    if not _within(_filtered(headings, rate), -MAXIMUM_YAW_RATE, MAXIMUM_YAW_RATE):
        return False
    return _within(_filtered(headings, rate_change), -MAXIMUM_YAW_ACCELERATION, MAXIMUM_YAW_ACCELERATION)


@no_type_check
@njit(cache=True, nogil=True)
def _fill_history_comfort(past, states, smooth, jerk, rate, rate_change, scores):
    """Write 1 or 0 per proposal; `past` (samples, 3) holds heading, ax, ay of the samples before t0."""
    before = len(past)
    count = before + states.shape[1]
    headings, along, across, magnitudes = np.empty(count), np.empty(count), np.empty(count), np.empty(count)
    for proposal in range(len(states)):
        for i in range(before):
            headings[i], along[i], across[i] = past[i]
            magnitudes[i] = np.hypot(along[i], across[i])
        for i in range(states.shape[1]):
            state = states[proposal, i]
            headings[before + i] = state[HEADING]
            along[before + i] = state[AX] + REAR_AXLE_TO_CENTER * (state[YAW_RATE] ** 2 + state[YAW_ACCELERATION])
            across[before + i] = state[AY]
            magnitudes[before + i] = np.hypot(state[AX], state[AY])
        _unwrap(headings)
        comfortable = _is_comfortable(headings, along, across, magnitudes, smooth, jerk, rate, rate_change)
        scores[proposal] = 1.0 if comfortable else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _root_mean_square(first, second):
    total = 0.0
    for i in range(len(first)):
        total += (first[i] - second[i]) ** 2
    return np.sqrt(total / len(first))


@no_type_check
@njit(cache=True, nogil=True)
def _fill_extended_comfort(states, previous, shift, smooth, jerk, rate, rate_change, bounds, scores):
    """Write 1 or 0 per proposal: do the plan and the one made `shift` steps earlier feel alike where they overlap?"""
    count = states.shape[1] - shift
    magnitudes, headings = np.empty((2, count)), np.empty((2, count))
    for proposal in range(len(states)):
        for i in range(count):
            now, before = states[proposal, i], previous[proposal, i + shift]
            magnitudes[0, i], magnitudes[1, i] = np.hypot(now[AX], now[AY]), np.hypot(before[AX], before[AY])
            headings[0, i], headings[1, i] = now[HEADING], before[HEADING]
        _unwrap(headings[0])
        _unwrap(headings[1])
        now, before = _filtered(magnitudes[0], smooth), _filtered(magnitudes[1], smooth)
        alike = _root_mean_square(now, before) <= bounds[0]
        alike = alike and _root_mean_square(_filtered(now, jerk), _filtered(before, jerk)) <= bounds[1]
        alike = alike and _root_mean_square(_filtered(headings[0], rate), _filtered(headings[1], rate)) <= bounds[2]
        now, before = _filtered(headings[0], rate_change), _filtered(headings[1], rate_change)
        scores[proposal] = 1.0 if alike and _root_mean_square(now, before) <= bounds[3] else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _fill_past(times_us, known_us, known, past):
    """Write heading, ax, ay at some times, linear between the known states."""
    for i in range(len(times_us)):
        time = min(max(times_us[i], known_us[0]), known_us[-1])
        low = 0
        while low < len(known_us) - 2 and time > known_us[low + 1]:
            low += 1
        share = (time - known_us[low]) / (known_us[low + 1] - known_us[low])
        past[i, 0] = known[low, 2] + share * wrapped(known[low + 1, 2] - known[low, 2])
        for column in range(1, 3):
            past[i, column] = known[low, column + 4] + share * (known[low + 1, column + 4] - known[low, column + 4])


def sampled_past(scene: PreparedScene) -> Float[np.ndarray, "samples 3"]:
    """Heading (rad), ax and ay (m/s2) of the logged past every 0.1 s, as HC puts it in front of the simulated states.

    The last sample is dropped: with stamps exactly 0.5 s apart the past ends at -0.2 s (14 samples), with the last stamp a
    little late it ends at -0.1 s (15 samples). Times are float seconds, whose resolution decides which.
    """
    start, end = scene.past_time_us[0] * 1e-6, scene.past_time_us[-1] * 1e-6
    times_us = (np.arange(start, end, INTERVAL)[:-1] * 1e6).astype(np.int64)
    past = np.empty((len(times_us), 3))
    _fill_past(frozen(times_us, np.int64), frozen(scene.past_time_us, np.int64), frozen(scene.past_states, np.float64), past)
    return past


def history_comfort(scene: PreparedScene, states: Float[np.ndarray, "proposals 41 11"]) -> Float[np.ndarray, "proposals"]:
    """1 where past and simulated states together stay within all six comfort bounds, else 0."""
    scores = np.empty(len(states))
    past = frozen(sampled_past(scene), np.float64)
    _fill_history_comfort(past, states, _SMOOTH, _JERK, _RATE, _CUBIC_RATE_CHANGE, scores)
    return scores


def extended_comfort(
    states: Float[np.ndarray, "proposals 41 11"], previous: Float[np.ndarray, "proposals 41 11"], interval: float
) -> Float[np.ndarray, "proposals"]:
    """1 where a plan and the one made `interval` seconds earlier feel alike in the time that they share, else 0.

    Args:
        states: Simulated states of the plans made now.
        previous: Simulated states of the plans made earlier, row for row.
        interval: Time between the two, s.
    """
    shift = round(interval / INTERVAL)
    scores = np.empty(len(states))
    _fill_extended_comfort(
        states,
        previous,
        shift,
        _SMOOTH,
        _JERK,
        _RATE,
        _RATE_CHANGE,
        frozen(EXTENDED_BOUNDS, np.float64),
        scores,
    )
    return scores
