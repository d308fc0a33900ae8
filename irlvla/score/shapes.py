"""Shapes made of convex pieces of four corners: strips along lines, where they touch and how far apart they are.

A strip is what GEOS calls the buffer of a line with flat ends: the line's segments made as wide as it is, and at each corner the
wedge between two of them, a fan of chords where the line turns by more than one chord's angle.
"""

from typing import no_type_check

import numpy as np
from numba import njit

CHORD = np.pi / 32.0
"""Angle of a chord in the fans, as GEOS draws them with 16 in a quarter circle."""
_ONE_CHORD = np.cos(1.49 * CHORD)
"""Cosine of a turn below which a fan may have more than one chord."""
STRAIGHT = 1e-6
"""Two segments whose directions differ by less (rad) are one."""
BLOCK = 8
"""Pieces whose bounding box is looked at first."""


@no_type_check
@njit(cache=True, nogil=True)
def most_pieces(line):
    """At least as many pieces as a strip along a line, or along a part of it, can have."""
    total = 2.0 * len(line)
    for i in range(1, len(line) - 1):
        turn = np.arctan2(line[i + 1, 1] - line[i, 1], line[i + 1, 0] - line[i, 0])
        turn -= np.arctan2(line[i, 1] - line[i - 1, 1], line[i, 0] - line[i - 1, 0])
        total += abs((turn + np.pi) % (2.0 * np.pi) - np.pi) / CHORD
    return int(total) + 1


@no_type_check
@njit(cache=True, nogil=True)
def add_piece(a_x, a_y, b_x, b_y, c_x, c_y, d_x, d_y, count, pieces, bounds):
    """Append the piece with the corners a, b, c, d and its bounding box (low x, low y, high x, high y); returns how many there are."""
    pieces[count, 0, 0], pieces[count, 0, 1], pieces[count, 1, 0], pieces[count, 1, 1] = a_x, a_y, b_x, b_y
    pieces[count, 2, 0], pieces[count, 2, 1], pieces[count, 3, 0], pieces[count, 3, 1] = c_x, c_y, d_x, d_y
    bounds[count, 0], bounds[count, 1] = min(min(a_x, b_x), min(c_x, d_x)), min(min(a_y, b_y), min(c_y, d_y))
    bounds[count, 2], bounds[count, 3] = max(max(a_x, b_x), max(c_x, d_x)), max(max(a_y, b_y), max(c_y, d_y))
    return count + 1


@no_type_check
@njit(cache=True, nogil=True)
def add_box(box, count, pieces, bounds):
    """Append a box (4, 2)."""
    return add_piece(box[0, 0], box[0, 1], box[1, 0], box[1, 1], box[2, 0], box[2, 1], box[3, 0], box[3, 1], count, pieces, bounds)


@no_type_check
@njit(cache=True, nogil=True)
def _add_fan(apex_x, apex_y, x, y, from_x, from_y, to_x, to_y, cross, along, count, pieces, bounds):
    """Append the fan between an apex and chords of the arc around (x, y) from one offset to another, a turn of that sine and cosine."""
    before_x, before_y = x + from_x, y + from_y
    if along < _ONE_CHORD:
        turn = np.arctan2(cross, along)
        chords = max(int(abs(turn) / CHORD + 0.5), 1)
        for k in range(1, chords):
            cos, sin = np.cos(turn * k / chords), np.sin(turn * k / chords)
            after_x, after_y = x + (cos * from_x - sin * from_y), y + (sin * from_x + cos * from_y)
            count = add_piece(apex_x, apex_y, before_x, before_y, after_x, after_y, after_x, after_y, count, pieces, bounds)
            before_x, before_y = after_x, after_y
    return add_piece(apex_x, apex_y, before_x, before_y, x + to_x, y + to_y, x + to_x, y + to_y, count, pieces, bounds)


@no_type_check
@njit(cache=True, nogil=True)
def _segment(line, first, segment):
    """Write direction and length of the straight piece of a line that begins at a point; returns the point where it ends, -1 for none."""
    last = len(line) - 1
    along_x, along_y = line[first + 1, 0] - line[first, 0], line[first + 1, 1] - line[first, 1]
    length = np.sqrt(along_x * along_x + along_y * along_y)
    if length == 0.0:
        return -1
    along_x, along_y = along_x / length, along_y / length
    end = first + 1
    while end < last:
        step_x, step_y = line[end + 1, 0] - line[end, 0], line[end + 1, 1] - line[end, 1]
        ahead = along_x * step_x + along_y * step_y
        if ahead <= 0.0 or abs(along_x * step_y - along_y * step_x) > STRAIGHT * ahead:
            break
        length += ahead
        end += 1
    segment[0], segment[1], segment[2] = along_x, along_y, length
    return end


@no_type_check
@njit(cache=True, nogil=True)
def fill_strip(line, radius, pieces, bounds, begins, starts):
    """Write the pieces of the strip of half width `radius` along a line, and their bounding boxes.

    Also written are the points of the line where its straight segments begin, and the places of these segments' pieces (each
    followed by those of the corner at its end). Returns how many pieces and segments there are.

    On the inside of a corner the edges of two segments are cut where they cross, as in a mitre, if both are long enough for that; at
    the ends of the line that leaves nothing of a segment beyond the end of the next. A line of no length has no strip.
    """
    count, segments = 0, 0
    now, later, cut = np.empty(3), np.empty(3), 0.0
    last, first = len(line) - 1, 0
    end = -1
    while first < last and end < 0:
        end = _segment(line, first, now)
        first += 1 if end < 0 else 0
    if end < 0:
        return 0, 0
    # Left and right corner at the beginning of the segment, off the line's point there.
    left_x, left_y, right_x, right_y = -radius * now[1], radius * now[0], radius * now[1], -radius * now[0]
    while True:
        x, y, after = line[end, 0], line[end, 1], -1
        begin = end
        while begin < last and after < 0:
            after = _segment(line, begin, later)
            begin += 1 if after < 0 else 0
        aside_x, aside_y = -radius * now[1], radius * now[0]
        next_left_x, next_left_y, next_right_x, next_right_y = aside_x, aside_y, -aside_x, -aside_y
        end_left_x, end_left_y, end_right_x, end_right_y = aside_x, aside_y, -aside_x, -aside_y
        cross, along, depth = 0.0, 1.0, 0.0
        if after >= 0:
            cross, along = now[0] * later[1] - now[1] * later[0], now[0] * later[0] + now[1] * later[1]
            next_left_x, next_left_y, next_right_x, next_right_y = (
                -radius * later[1],
                radius * later[0],
                radius * later[1],
                -radius * later[0],
            )
            # The tangent of half the turn; the edges cross at (n + m) * radius / (1 + n m) for normals n, m.
            wanted = radius * abs(cross) / max(1.0 + along, 1e-9)
            if wanted <= now[2] - cut and wanted <= later[2]:
                depth, share = wanted, 1.0 / (1.0 + along)
                if cross > 0.0:
                    end_left_x, end_left_y = (aside_x + next_left_x) * share, (aside_y + next_left_y) * share
                    next_left_x, next_left_y = end_left_x, end_left_y
                else:
                    end_right_x, end_right_y = (next_right_x - aside_x) * share, (next_right_y - aside_y) * share
                    next_right_x, next_right_y = end_right_x, end_right_y
        begin_x, begin_y = line[first, 0], line[first, 1]
        begins[segments], starts[segments] = first, count
        segments += 1
        count = add_piece(
            x + end_left_x, y + end_left_y, begin_x + left_x, begin_y + left_y,
            begin_x + right_x, begin_y + right_y, x + end_right_x, y + end_right_y, count, pieces, bounds,
        )  # fmt: skip
        if after < 0:
            return count, segments
        if cross > 0.0:
            apex_x, apex_y = (x + end_left_x, y + end_left_y) if depth > 0.0 else (x, y)
            count = _add_fan(
                apex_x, apex_y, x, y, end_right_x, end_right_y, next_right_x, next_right_y, cross, along, count, pieces, bounds
            )
        else:
            apex_x, apex_y = (x + end_right_x, y + end_right_y) if depth > 0.0 else (x, y)
            count = _add_fan(apex_x, apex_y, x, y, end_left_x, end_left_y, next_left_x, next_left_y, cross, along, count, pieces, bounds)
        left_x, left_y, right_x, right_y, cut = next_left_x, next_left_y, next_right_x, next_right_y, depth
        now[0], now[1], now[2] = later[0], later[1], later[2]
        first, end = begin, after


@no_type_check
@njit(cache=True, nogil=True)
def fill_whole(bounds, count, whole):
    """Write the bounding box of the first `count` pieces."""
    whole[0], whole[1], whole[2], whole[3] = np.inf, np.inf, -np.inf, -np.inf
    for i in range(count):
        whole[0], whole[1] = min(whole[0], bounds[i, 0]), min(whole[1], bounds[i, 1])
        whole[2], whole[3] = max(whole[2], bounds[i, 2]), max(whole[3], bounds[i, 3])


@no_type_check
@njit(cache=True, nogil=True)
def bounds_gap(first, second):
    """Squared distance of two bounding boxes, 0 where they touch."""
    off_x = max(max(first[0] - second[2], second[0] - first[2]), 0.0)
    off_y = max(max(first[1] - second[3], second[1] - first[3]), 0.0)
    return off_x * off_x + off_y * off_y


@no_type_check
@njit(cache=True, nogil=True)
def _is_apart(first, second):
    """Whether a line along an edge of the first piece keeps the second off."""
    for i in range(4):
        k = (i + 1) % 4
        axis_x, axis_y = first[k, 1] - first[i, 1], first[i, 0] - first[k, 0]
        if axis_x == 0.0 and axis_y == 0.0:
            continue
        low, high = 0.0, 0.0
        for corner in range(4):
            value = (first[corner, 0] - first[i, 0]) * axis_x + (first[corner, 1] - first[i, 1]) * axis_y
            low, high = min(low, value), max(high, value)
        other_low, other_high = np.inf, -np.inf
        for corner in range(4):
            value = (second[corner, 0] - first[i, 0]) * axis_x + (second[corner, 1] - first[i, 1]) * axis_y
            other_low, other_high = min(other_low, value), max(other_high, value)
        if other_low > high or other_high < low:
            return True
    return False


@no_type_check
@njit(cache=True, nogil=True)
def pieces_touch(first, second):
    """Whether two convex pieces share a point; touching counts."""
    return not _is_apart(first, second) and not _is_apart(second, first)


@no_type_check
@njit(cache=True, nogil=True)
def _corners_gap(first, second):
    """Least squared distance of a corner of the first piece to an edge of the second."""
    nearest = np.inf
    for i in range(4):
        k = (i + 1) % 4
        along_x, along_y = second[k, 0] - second[i, 0], second[k, 1] - second[i, 1]
        square = along_x * along_x + along_y * along_y
        for corner in range(4):
            off_x, off_y = first[corner, 0] - second[i, 0], first[corner, 1] - second[i, 1]
            if square > 0.0:
                share = min(max((off_x * along_x + off_y * along_y) / square, 0.0), 1.0)
                off_x, off_y = off_x - share * along_x, off_y - share * along_y
            nearest = min(nearest, off_x * off_x + off_y * off_y)
    return nearest


@no_type_check
@njit(cache=True, nogil=True)
def ceiling(numerator, denominator):
    return (numerator + denominator - 1) // denominator


@no_type_check
@njit(cache=True, nogil=True)
def fill_blocks(bounds, count, blocks):
    """Write the bounding boxes of each `BLOCK` pieces."""
    for first in range(0, count, BLOCK):
        fill_whole(bounds[first:], min(BLOCK, count - first), blocks[first // BLOCK])


@no_type_check
@njit(cache=True, nogil=True)
def shapes_touch(pieces, bounds, blocks, first, count, other_pieces, other_bounds, other_count, other_whole):
    """Whether the pieces `first..count - 1` of a shape share a point with another shape; touching counts.

    Of the first shape the bounding boxes of blocks of pieces are known.
    """
    for block in range(first // BLOCK, ceiling(count, BLOCK)):
        if bounds_gap(blocks[block], other_whole) > 0.0:
            continue
        for i in range(max(block * BLOCK, first), min((block + 1) * BLOCK, count)):
            if bounds_gap(bounds[i], other_whole) > 0.0:
                continue
            for k in range(other_count):
                if bounds_gap(bounds[i], other_bounds[k]) == 0.0 and pieces_touch(pieces[i], other_pieces[k]):
                    return True
    return False


@no_type_check
@njit(cache=True, nogil=True)
def shapes_gap(pieces, bounds, count, other_pieces, other_bounds, other_count, other_whole, limit):
    """Distance of two shapes, 0 where they touch; infinite if it is more than `limit`."""
    nearest, found = limit * limit, np.inf
    # Pieces whose bounding boxes are nearest come first: most others are further away than these.
    best_i, best_k, least = -1, -1, nearest
    for i in range(count):
        if bounds_gap(bounds[i], other_whole) > least:
            continue
        for k in range(other_count):
            gap = bounds_gap(bounds[i], other_bounds[k])
            if gap == 0.0 and pieces_touch(pieces[i], other_pieces[k]):
                return 0.0
            if gap <= least:
                best_i, best_k, least = i, k, gap
    if best_i < 0:
        return found
    square = min(_corners_gap(pieces[best_i], other_pieces[best_k]), _corners_gap(other_pieces[best_k], pieces[best_i]))
    if square <= nearest:
        nearest, found = square, square
    for i in range(count):
        if bounds_gap(bounds[i], other_whole) > nearest:
            continue
        for k in range(other_count):
            if bounds_gap(bounds[i], other_bounds[k]) > nearest:
                continue
            square = min(_corners_gap(pieces[i], other_pieces[k]), _corners_gap(other_pieces[k], pieces[i]))
            if square <= nearest:
                nearest, found = square, square
    return np.sqrt(found)
