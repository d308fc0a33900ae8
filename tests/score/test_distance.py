import numpy as np

from irlvla.score.distance import displacement_errors


def test_plans_at_10_hz_are_compared_at_every_half_second():
    human = np.column_stack([np.arange(1.0, 9.0), np.zeros((8, 2))])
    dense = np.column_stack([0.2 * np.arange(1.0, 41.0), np.full(40, 0.5), np.zeros(40)])
    ade, fde = displacement_errors(dense[None], human)
    assert ade.tolist() == [0.5] and fde.tolist() == [0.5]
