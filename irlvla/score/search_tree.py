"""Which of several equally near things a search tree finds first: the packed tree of GEOS and its search, step by step.

The devkit asks shapely's STRtree for the nearest geometry. Of several that overlap the one asked about, all 0 m away, the answer
depends on how the tree is packed and in which order its queue hands out equal entries.

Source: GEOS 3.11, include/geos/index/strtree/{TemplateSTRtree,TemplateSTRtreeDistance}.h; libstdc++'s binary heap.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from irlvla.score.route import NODE_CAPACITY
from irlvla.score.shapes import bounds_gap, ceiling


@no_type_check
@njit(cache=True, nogil=True)
def _root_ceiling(number):
    root = 1
    while root * root < number:
        root += 1
    return root


@no_type_check
@njit(cache=True, nogil=True)
def _ordered(nodes, keys, first, last):
    """Sort `nodes[first:last]` by their keys; equal ones stay in order."""
    for i in range(first + 1, last):
        node, k = nodes[i], i
        while k > first and keys[nodes[k - 1]] > keys[node]:
            nodes[k] = nodes[k - 1]
            k -= 1
        nodes[k] = node


@no_type_check
@njit(cache=True, nogil=True)
def _tree(bounds, count):
    """A packed search tree over the first `count` boxes, as GEOS builds it.

    Returns:
        Boxes of all nodes (items first), the nodes in the order of their levels, the first and last place of each node's children
        in that order, and the root.
    """
    most = 2 * count + 16
    boxes, nodes = np.empty((most, 4)), np.empty(most, dtype=np.int64)
    children = np.zeros((most, 2), dtype=np.int64)
    middle_x, middle_y = np.empty(most), np.empty(most)
    boxes[:count] = bounds[:count]
    for i in range(count):
        nodes[i] = i
        middle_x[i], middle_y[i] = boxes[i, 0] + boxes[i, 2], boxes[i, 1] + boxes[i, 3]
    begin, end = 0, count
    while end - begin > 1:
        number, place = end - begin, end
        slices = _root_ceiling(ceiling(number, NODE_CAPACITY))
        capacity = ceiling(number, slices)
        _ordered(nodes, middle_x, begin, end)
        for first in range(begin, end, capacity):
            last = min(first + capacity, end)
            _ordered(nodes, middle_y, first, last)
            for child in range(first, last, NODE_CAPACITY):
                children[place, 0], children[place, 1] = child, min(child + NODE_CAPACITY, last)
                low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
                for k in range(children[place, 0], children[place, 1]):
                    box = boxes[nodes[k]]
                    low_x, low_y, high_x, high_y = min(low_x, box[0]), min(low_y, box[1]), max(high_x, box[2]), max(high_y, box[3])
                boxes[place, 0], boxes[place, 1], boxes[place, 2], boxes[place, 3] = low_x, low_y, high_x, high_y
                middle_x[place], middle_y[place] = low_x + high_x, low_y + high_y
                nodes[place] = place
                place += 1
        begin, end = end, place
    return boxes, nodes, children, nodes[begin]


@no_type_check
@njit(cache=True, nogil=True)
def _sift_up(queue, gaps, hole, value):
    while hole > 0 and gaps[queue[(hole - 1) // 2]] > gaps[value]:
        queue[hole] = queue[(hole - 1) // 2]
        hole = (hole - 1) // 2
    queue[hole] = value


@no_type_check
@njit(cache=True, nogil=True)
def _without_first(queue, gaps, size):
    """Take the first of a queue away in the manner of C++'s standard library; returns how many are left."""
    size -= 1
    value, hole, child = queue[size], 0, 0
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if gaps[queue[child]] > gaps[queue[child - 1]]:
            child -= 1
        queue[hole] = queue[child]
        hole = child
    if size % 2 == 0 and size > 0 and child == (size - 2) // 2:
        child = 2 * (child + 1)
        queue[hole] = queue[child - 1]
        hole = child - 1
    if size > 0:
        _sift_up(queue, gaps, hole, value)
    return size


@no_type_check
@njit(cache=True, nogil=True)
def first_nearest(bounds, distances, count, whole):
    """Which of some shapes a search tree over them finds as the nearest to one more; of equally near ones one has to be first.

    Args:
        bounds: Bounding boxes of the shapes.
        distances: How far away each is.
        count: How many there are, at least one.
        whole: Bounding box of the shape that the nearest is looked for.
    """
    boxes, nodes, children, root = _tree(bounds, count)
    gaps = np.empty(len(boxes))
    queue, size = np.empty(len(boxes), dtype=np.int64), 1
    gaps[root] = distances[root] if root < count else np.sqrt(bounds_gap(boxes[root], whole))
    queue[0] = root
    best, limit = -1, np.inf
    while size > 0 and limit > 0.0:
        node = queue[0]
        if best >= 0 and gaps[node] >= limit:
            break
        size = _without_first(queue, gaps, size)
        if node < count:
            best, limit = node, gaps[node]
            continue
        for place in range(children[node, 0], children[node, 1]):
            child = nodes[place]
            gaps[child] = distances[child] if child < count else np.sqrt(bounds_gap(boxes[child], whole))
            if limit == np.inf or gaps[child] < limit:
                _sift_up(queue, gaps, size, child)
                size += 1
    return best
