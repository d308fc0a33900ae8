"""The ego car: its size, and how it follows a plan (a linear-quadratic tracker steering a kinematic bicycle).

Source: autonomousvision/navsim at 0a380a9, navsim/planning/simulation/planner/pdm_planner/simulation (batch_lqr.py,
batch_lqr_utils.py, batch_kinematic_bicycle.py); ego size: nuPlan's Pacifica, nuplan-devkit v1.2, vehicle_parameters.py.
Differs: the two least-squares fits of the reference are solved in closed form, not by a pseudo-inverse.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from numba import njit

from irlvla.geometry import frozen, principal, wrapped
from irlvla.types import STEPS

LENGTH, WIDTH, HEIGHT = 5.176, 2.297, 1.777
WHEELBASE = 3.089
REAR_AXLE_TO_CENTER = 1.461
X, Y, HEADING, VX, VY, AX, AY, STEER, STEER_RATE, YAW_RATE, YAW_ACCELERATION = range(11)
"""Columns of a simulated state."""
INTERVAL = 0.1

_HORIZON = 10
_LONGITUDINAL_GAIN = 10.0 / (10.0 + 1.0)
_LATERAL_WEIGHT, _HEADING_WEIGHT, _INPUT_WEIGHT = 1.0, 10.0, 1.0
_STOPPING_GAIN, _STOPPING_SPEED = 0.5, 0.2
_JERK_PENALTY, _CURVATURE_RATE_PENALTY, _INITIAL_CURVATURE_PENALTY = 1e-4, 1e-2, 1e-10
_ACCELERATION_SHARE = INTERVAL / (INTERVAL + 0.2)
_STEER_SHARE = INTERVAL / (INTERVAL + 0.05)
_MAXIMUM_STEER = np.pi / 3.0


def _velocity_fit() -> Float[np.ndarray, "40 40"]:
    """The matrix that turns displacements along the headings into the smoothed speed profile.

    Least squares of displacement_k = dt * speed_k with speed_k = speed_0 + dt * sum(accelerations). The devkit's "jerk
    penalty" in fact penalises every acceleration but the last two, of which it penalises the difference. The headings drop
    out of the normal equations, so that one matrix serves every plan.
    """
    count = STEPS - 1
    speed = np.concatenate([np.ones((count, 1)), np.tril(np.full((count, count - 1), INTERVAL), -1)], axis=1)
    penalty = np.eye(count - 2, count, 1)
    penalty[-1, -1] = -1.0
    stacked = np.concatenate([INTERVAL * speed, np.sqrt(_JERK_PENALTY) * penalty])
    return speed @ np.linalg.pinv(stacked)[:, :count]


_VELOCITY_FIT = frozen(_velocity_fit().T, np.float64)


@no_type_check
@njit(cache=True, nogil=True)
def _fill_speeds(references, proposal, velocity_fit, directions, speeds):
    """Write cosine and sine of a reference's headings (40, 2) and the smoothed speed of each of its 40 intervals."""
    count = len(speeds)
    along = np.empty(count)
    for k in range(count):
        directions[k, 0], directions[k, 1] = np.cos(references[proposal, k, 2]), np.sin(references[proposal, k, 2])
        off_x = references[proposal, k + 1, 0] - references[proposal, k, 0]
        off_y = references[proposal, k + 1, 1] - references[proposal, k, 1]
        along[k] = off_x * directions[k, 0] + off_y * directions[k, 1]
    speeds[:] = 0.0
    for i in range(count):
        for k in range(count):
            speeds[k] += velocity_fit[i, k] * along[i]


@no_type_check
@njit(cache=True, nogil=True)
def _fill_curvatures(references, proposal, speeds, curvatures):
    """Write the smoothed curvature of each interval.

    Least squares of turn_k = speed_k * curvature_k * dt with the changes of curvature penalised: a chain of springs,
    eliminated from its far end (every term is positive, so nothing cancels).
    """
    count = len(speeds)
    spring = _CURVATURE_RATE_PENALTY / (INTERVAL * INTERVAL)
    stiffness, load = np.empty(count), np.empty(count)
    for k in range(count - 1, -1, -1):
        lever = speeds[k] * INTERVAL
        stiffness[k] = lever * lever
        load[k] = lever * wrapped(references[proposal, k + 1, 2] - references[proposal, k, 2])
        if k < count - 1:
            share = spring / (spring + stiffness[k + 1])
            stiffness[k] += share * stiffness[k + 1]
            load[k] += share * load[k + 1]
    curvatures[0] = load[0] / (stiffness[0] + _INITIAL_CURVATURE_PENALTY)
    for k in range(1, count):
        curvatures[k] = (load[k] + spring * curvatures[k - 1]) / (spring + stiffness[k])


@no_type_check
@njit(cache=True, nogil=True)
def _steer_rate(lateral, heading, steer, speed, acceleration, curvatures, first):
    """The steering rate, held for the horizon, that brings the lateral error state best to 0.

    The error state after the horizon is A x + B u + g. A is upper triangular with a unit diagonal, so that four numbers
    hold it; the steering angle has no weight.
    """
    lateral_by_heading, lateral_by_steer, heading_by_steer = 0.0, 0.0, 0.0
    lateral_by_input, heading_by_input, steer_by_input = 0.0, 0.0, 0.0
    lateral_offset, heading_offset = 0.0, 0.0
    last = len(curvatures) - 1
    for k in range(_HORIZON):
        step = (speed + acceleration * INTERVAL * k) * INTERVAL
        turn = step / WHEELBASE
        lateral_by_heading, lateral_by_steer = lateral_by_heading + step, lateral_by_steer + step * heading_by_steer
        heading_by_steer += turn
        lateral_by_input += step * heading_by_input
        heading_by_input += turn * steer_by_input
        steer_by_input += INTERVAL
        lateral_offset += step * heading_offset
        heading_offset -= step * curvatures[min(first + k, last)]
    lateral_error = lateral + lateral_by_heading * heading + lateral_by_steer * steer + lateral_offset
    heading_error = wrapped(heading + heading_by_steer * steer + heading_offset)
    weight = _LATERAL_WEIGHT * lateral_by_input**2 + _HEADING_WEIGHT * heading_by_input**2 + _INPUT_WEIGHT
    return -(_LATERAL_WEIGHT * lateral_by_input * lateral_error + _HEADING_WEIGHT * heading_by_input * heading_error) / weight


@no_type_check
@njit(cache=True, nogil=True)
def _simulate(ego_state, references, velocity_fit, states):
    """Write the states (proposals, 41, 11) of the ego following each reference (proposals, 41, 3)."""
    count = references.shape[1] - 1
    speeds, curvatures, directions = np.empty(count), np.empty(count), np.empty((count, 2))
    for proposal in range(len(references)):
        _fill_speeds(references, proposal, velocity_fit, directions, speeds)
        _fill_curvatures(references, proposal, speeds, curvatures)
        states[proposal, 0, :7] = ego_state
        states[proposal, 0, 7:] = 0.0
        x, y, heading, speed, gained = ego_state[X], ego_state[Y], ego_state[HEADING], ego_state[VX], ego_state[AX]
        steer, tangent, yaw_rate = 0.0, 0.0, 0.0
        for k in range(count):
            wanted = speeds[min(k + _HORIZON, count - 1)]
            if wanted <= _STOPPING_SPEED and speed <= _STOPPING_SPEED:
                acceleration, rate = -_STOPPING_GAIN * (speed - wanted), 0.0
            else:
                acceleration = -_LONGITUDINAL_GAIN * (speed - wanted)
                lateral = -(x - references[proposal, k, 0]) * directions[k, 1] + (y - references[proposal, k, 1]) * directions[k, 0]
                turned = wrapped(heading - references[proposal, k, 2])
                rate = _steer_rate(lateral, turned, steer, speed, acceleration, curvatures, k)
            gained += _ACCELERATION_SHARE * (acceleration - gained)
            rate = _STEER_SHARE * INTERVAL * rate / INTERVAL
            x += speed * np.cos(heading) * INTERVAL
            y += speed * np.sin(heading) * INTERVAL
            heading = principal(heading + speed * tangent / WHEELBASE * INTERVAL)
            speed += gained * INTERVAL
            steer = min(max(steer + rate * INTERVAL, -_MAXIMUM_STEER), _MAXIMUM_STEER)
            tangent = np.tan(steer)
            former, yaw_rate = yaw_rate, speed * tangent / WHEELBASE
            states[proposal, k + 1, X], states[proposal, k + 1, Y], states[proposal, k + 1, HEADING] = x, y, heading
            states[proposal, k + 1, VX], states[proposal, k + 1, VY] = speed, 0.0
            states[proposal, k + 1, AX], states[proposal, k + 1, AY] = gained, 0.0
            states[proposal, k + 1, STEER], states[proposal, k + 1, STEER_RATE] = steer, rate
            states[proposal, k + 1, YAW_RATE], states[proposal, k + 1, YAW_ACCELERATION] = yaw_rate, (yaw_rate - former) / INTERVAL


def simulated(ego_state: Float[np.ndarray, "7"], references: Float[np.ndarray, "proposals 41 3"]) -> Float[np.ndarray, "proposals 41 11"]:
    """The states of the ego car as it follows each reference with its controller.

    Every rollout starts from the logged state with straight wheels. The tracker follows speed and path; an error along
    the path is not corrected.

    Args:
        ego_state: x, y, heading, vx, vy, ax, ay at t0: rear axle, global pose, velocities in the ego frame.
        references: Global poses at 0.0 .. 4.0 s, 10 Hz.

    Returns:
        Global rear-axle states: x y heading vx vy ax ay steer steer_rate yaw_rate yaw_acceleration.
    """
    states = np.empty((len(references), STEPS, 11))
    _simulate(frozen(ego_state, np.float64), frozen(references, np.float64), _VELOCITY_FIT, states)
    return states
