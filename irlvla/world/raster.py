"""The camera's kernels: convex faces and tree crowns into a z-buffer, then ground and sky wherever nothing stands.

Positions are global minus the town's origin; `rotation` takes world directions to camera directions (x right, y down,
z forward). The depth buffer holds 1 / depth, 0 where nothing was drawn.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from irlvla.world.shapes import CORNERS, GREEN, RED, WALL

NEAR = 0.25
TAPS = 5
"""Looks at the ground a pixel, at most."""


@no_type_check
@njit(cache=True, nogil=True)
def clipped(points, polygon):
    """Corners of `points` (camera frame) in front of the near plane go into `polygon`; returns how many."""
    count = 0
    j = CORNERS - 1
    for i in range(CORNERS):
        zi, zj = points[i, 2], points[j, 2]
        if (zi > NEAR) != (zj > NEAR):
            share = (NEAR - zj) / (zi - zj)
            for axis in range(3):
                polygon[count, axis] = points[j, axis] + share * (points[i, axis] - points[j, axis])
            count += 1
        if zi > NEAR:
            for axis in range(3):
                polygon[count, axis] = points[i, axis]
            count += 1
        j = i
    return count


@no_type_check
@njit(cache=True, nogil=True)
def projected(polygon, count, lens, outline):
    """Pixel coordinates of a clipped polygon; returns its lowest and highest row centre (empty if low > high)."""
    low, high = np.inf, -np.inf
    left, right = np.inf, -np.inf
    for i in range(count):
        outline[i, 0] = lens[0] * polygon[i, 0] / polygon[i, 2] + lens[2]
        outline[i, 1] = lens[1] * polygon[i, 1] / polygon[i, 2] + lens[3]
        low, high = min(low, outline[i, 1]), max(high, outline[i, 1])
        left, right = min(left, outline[i, 0]), max(right, outline[i, 0])
    if right < 0 or left > lens[4]:
        return 1, 0
    return max(0, int(np.ceil(max(low, -1.0) - 0.5))), min(int(lens[5]) - 1, int(np.ceil(min(high, lens[5] + 1.0) - 0.5)) - 1)


@no_type_check
@njit(cache=True, nogil=True)
def span(outline, count, row, columns):
    """First and last pixel of a convex outline in a row."""
    y = row + 0.5
    left, right = np.inf, -np.inf
    j = count - 1
    for i in range(count):
        if (outline[i, 1] > y) != (outline[j, 1] > y):
            x = outline[i, 0] + (y - outline[i, 1]) / (outline[j, 1] - outline[i, 1]) * (outline[j, 0] - outline[i, 0])
            left, right = min(left, x), max(right, x)
        j = i
    if left > right:
        return 1, 0
    return int(np.ceil(max(left, 0.0) - 0.5)), int(np.ceil(min(right, float(columns)) - 0.5)) - 1


@no_type_check
@njit(cache=True, nogil=True)
def draw_things(image, depth, lens, eye, rotation, light, haze, reach, faces, slots, starts, mesh, rows, colours):
    """Draw things: `rows` are x, y, z, heading, length, width, height; `colours` are R, G, B, glow for each slot.

    `light` is sun direction (3), sun strength, ambient, tint (3); `haze` is haze distance and its colour (3).
    """
    columns = image.shape[1]
    points, polygon, outline = np.empty((CORNERS, 3)), np.empty((CORNERS + 2, 3)), np.empty((CORNERS + 2, 2))
    turn, colour = np.empty((3, 3)), np.empty(3)
    slope_x, slope_y = max(lens[2], columns - lens[2]) / lens[0], max(lens[3], image.shape[0] - lens[3]) / lens[1]
    sun = rotation @ light[:3]
    up = rotation[:, 2]
    for thing in range(len(mesh)):
        length, width, height = rows[thing, 4], rows[thing, 5], rows[thing, 6]
        radius = 0.5 * np.sqrt(length * length + width * width + height * height)
        at_x, at_y, at_z = rows[thing, 0] - eye[0], rows[thing, 1] - eye[1], rows[thing, 2] - eye[2]
        middle = rotation @ np.array([at_x, at_y, at_z + height / 2])
        distance = middle[2]
        if distance < -radius or distance > reach:
            continue
        if abs(middle[0]) > max(distance, 0.0) * slope_x + radius * (1 + slope_x):
            continue
        if abs(middle[1]) > max(distance, 0.0) * slope_y + radius * (1 + slope_y):
            continue
        if radius * lens[0] < 0.35 * distance:
            continue
        cosine, sine = np.cos(rows[thing, 3]), np.sin(rows[thing, 3])
        for axis in range(3):
            turn[axis, 0] = rotation[axis, 0] * cosine + rotation[axis, 1] * sine
            turn[axis, 1] = rotation[axis, 1] * cosine - rotation[axis, 0] * sine
            turn[axis, 2] = rotation[axis, 2]
        shift = rotation @ np.array([at_x, at_y, at_z])
        fade = 1.0 - np.exp(-max(distance, 0.0) / haze[0])
        for face in range(starts[mesh[thing]], starts[mesh[thing] + 1]):
            for i in range(CORNERS):
                a, b, c = faces[face, i, 0] * length, faces[face, i, 1] * width, faces[face, i, 2] * height
                for axis in range(3):
                    points[i, axis] = turn[axis, 0] * a + turn[axis, 1] * b + turn[axis, 2] * c + shift[axis]
            e0, e1, e2 = points[1, 0] - points[0, 0], points[1, 1] - points[0, 1], points[1, 2] - points[0, 2]
            f0, f1, f2 = points[2, 0] - points[0, 0], points[2, 1] - points[0, 1], points[2, 2] - points[0, 2]
            n0, n1, n2 = e1 * f2 - e2 * f1, e2 * f0 - e0 * f2, e0 * f1 - e1 * f0
            offset = n0 * points[0, 0] + n1 * points[0, 1] + n2 * points[0, 2]
            if offset >= -1e-12:
                continue
            count = clipped(points, polygon)
            if count < 3:
                continue
            top, bottom = projected(polygon, count, lens, outline)
            if top > bottom:
                continue
            slot = slots[face]
            size = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
            facing = max(0.0, (n0 * sun[0] + n1 * sun[1] + n2 * sun[2]) / size)
            rising = (n0 * up[0] + n1 * up[1] + n2 * up[2]) / size
            bright = light[4] * (0.8 + 0.2 * rising) + light[3] * facing
            glows = colours[thing, slot, 3] > 0
            if glows:
                bright = 1.0
                if RED <= slot <= GREEN:
                    # Visors hide a lamp from those who see it at more than 60 degrees.
                    away = np.sqrt(points[0, 0] ** 2 + points[0, 1] ** 2 + points[0, 2] ** 2)
                    bright = 1.0 if -offset > 0.5 * size * away else 0.25
            for channel in range(3):
                tint = 1.0 if glows else light[5 + channel]
                own = min(255.0, colours[thing, slot, channel] * bright * tint)
                mist = fade * (0.4 if glows else 1.0)
                colour[channel] = own + (haze[1 + channel] - own) * mist
            walls = slot == WALL
            along_x = abs(faces[face, 0, 0] - faces[face, 1, 0]) * length < abs(faces[face, 0, 1] - faces[face, 1, 1]) * width
            axis_in = 1 if along_x else 0
            wall_width = width if along_x else length
            bays = max(1.0, np.floor(wall_width / 3.1))
            storeys = max(1.0, np.floor(height * faces[face, 2, 2] / 3.1))
            wall_height = height * faces[face, 2, 2]
            base_s = turn[0, axis_in] * shift[0] + turn[1, axis_in] * shift[1] + turn[2, axis_in] * shift[2]
            base_z = up[0] * shift[0] + up[1] * shift[1] + up[2] * shift[2]
            for row in range(top, bottom + 1):
                first, last = span(outline, count, row, columns)
                ray_y = (row + 0.5 - lens[3]) / lens[1]
                for column in range(first, last + 1):
                    ray_x = (column + 0.5 - lens[2]) / lens[0]
                    inverse = (n0 * ray_x + n1 * ray_y + n2) / offset
                    if inverse <= depth[row, column]:
                        continue
                    depth[row, column] = inverse
                    if walls:
                        s = (turn[0, axis_in] * ray_x + turn[1, axis_in] * ray_y + turn[2, axis_in]) / inverse - base_s
                        z = (up[0] * ray_x + up[1] * ray_y + up[2]) / inverse - base_z
                        s = (s / wall_width + 0.5) * bays
                        z = z / wall_height * storeys
                        s, z = s - np.floor(s), z - np.floor(z)
                        if 0.25 < s < 0.75 and 0.3 < z < 0.78:
                            shine = 0.6 if z > 0.54 else 0.5
                            image[row, column, 0] = colour[0] * shine
                            image[row, column, 1] = colour[1] * shine * 1.04
                            image[row, column, 2] = colour[2] * shine * 1.12
                            continue
                    image[row, column, 0] = colour[0]
                    image[row, column, 1] = colour[1]
                    image[row, column, 2] = colour[2]


@no_type_check
@njit(cache=True, nogil=True)
def draw_crowns(image, depth, lens, eye, rotation, light, haze, reach, crowns, leaves, noise):
    """Draw tree crowns as ragged ellipsoids: `crowns` are x, y, z of the middle, radius, half height, brightness."""
    rows, columns = depth.shape
    sun = rotation @ light[:3]
    for crown in range(len(crowns)):
        middle = rotation @ (crowns[crown, :3] - eye)
        radius, half = crowns[crown, 3], crowns[crown, 4]
        if middle[2] < NEAR + radius or middle[2] > reach:
            continue
        u, v = lens[0] * middle[0] / middle[2] + lens[2], lens[1] * middle[1] / middle[2] + lens[3]
        wide, tall = lens[0] * radius / middle[2], lens[1] * half / middle[2]
        left, right = max(0, int(u - wide)), min(columns - 1, int(u + wide))
        top, bottom = max(0, int(v - tall)), min(rows - 1, int(v + tall))
        fade = 1.0 - np.exp(-middle[2] / haze[0])
        grain = 24.0 / max(wide, 1.0)
        for row in range(top, bottom + 1):
            y = (row + 0.5 - v) / tall
            for column in range(left, right + 1):
                x = (column + 0.5 - u) / wide
                square = x * x + y * y
                if square >= 1.0:
                    continue
                leaf = noise[int((column - u) * grain + 7 * crown) & 127, int((row - v) * grain + 13 * crown) & 127]
                if square > 0.8 + 0.35 * leaf:
                    continue
                bulge = np.sqrt(1.0 - square)
                inverse = 1.0 / (middle[2] - bulge * radius)
                if inverse <= depth[row, column]:
                    continue
                depth[row, column] = inverse
                facing = max(0.0, x * sun[0] + y * sun[1] - bulge * sun[2])
                bright = crowns[crown, 5] * (1.0 + 0.5 * leaf) * (light[4] * (0.78 - 0.22 * y) + light[3] * facing)
                for channel in range(3):
                    own = min(255.0, leaves[channel] * bright * light[5 + channel])
                    image[row, column, channel] = own + (haze[1 + channel] - own) * fade


@no_type_check
@njit(cache=True, nogil=True)
def draw_shadows(shade, lens, eye, rotation, drift, reach, mesh_shadow, mesh, rows, darkness):
    """Darken `shade` where things keep the light off the ground: their footprints, drawn out by `drift` a metre of height."""
    columns = shade.shape[1]
    points, polygon, outline = np.empty((CORNERS, 3)), np.empty((CORNERS + 2, 3)), np.empty((CORNERS + 2, 2))
    for thing in range(len(mesh)):
        if not mesh_shadow[mesh[thing]]:
            continue
        at_x, at_y, height = rows[thing, 0] - eye[0], rows[thing, 1] - eye[1], rows[thing, 6]
        radius = 0.5 * (rows[thing, 4] + rows[thing, 5]) + height * np.hypot(drift[0], drift[1])
        distance = rotation[2, 0] * at_x + rotation[2, 1] * at_y - rotation[2, 2] * eye[2]
        sideways = rotation[0, 0] * at_x + rotation[0, 1] * at_y - rotation[0, 2] * eye[2]
        if distance < -radius or distance > min(reach, 25.0 * radius) or abs(sideways) > max(distance, 0.0) + 2.5 * radius:
            continue
        cosine, sine = np.cos(rows[thing, 3]), np.sin(rows[thing, 3])
        # The outline of a footprint swept along the drift: corners between edges that face the drift move along with it.
        push_x, push_y = drift[0] * min(height, 7.0), drift[1] * min(height, 7.0)
        ahead, aside = cosine * push_x + sine * push_y, cosine * push_y - sine * push_x
        used = 0
        for corner in range(4):
            a = rows[thing, 4] * (0.51 if corner == 0 or corner == 3 else -0.51)
            b = rows[thing, 5] * (0.52 if corner < 2 else -0.52)
            before = (ahead, aside, -ahead, -aside)[corner] > 0
            after = (aside, -ahead, -aside, ahead)[corner] > 0
            for moved in (before, after):
                x, y = at_x + cosine * a - sine * b, at_y + sine * a + cosine * b
                if moved:
                    x, y = x + push_x, y + push_y
                for axis in range(3):
                    points[used, axis] = rotation[axis, 0] * x + rotation[axis, 1] * y - rotation[axis, 2] * eye[2]
                used += 1
        count = clipped(points, polygon)
        if count < 3:
            continue
        top, bottom = projected(polygon, count, lens, outline)
        for row in range(top, bottom + 1):
            first, last = span(outline, count, row, columns)
            for column in range(first, last + 1):
                shade[row, column] = darkness


@no_type_check
@njit(cache=True, nogil=True)
def draw_ground(
    image, depth, shade, lens, eye, rotation, light, haze, sky, materials, mixtures, shares, cells, starts, shapes, cell, noise
):
    """Fill every pixel where nothing stands with ground or sky.

    `sky` are the colours at the top and at the horizon (2, 3), `materials` those of asphalt, pavement, white, yellow, grass.
    """
    rows, columns = depth.shape
    levels = len(starts)
    flat = light[4] + light[3] * light[2]
    for row in range(rows):
        ray_y = (row + 0.5 - lens[3]) / lens[1]
        for column in range(columns):
            if depth[row, column] > 0:
                continue
            ray_x = (column + 0.5 - lens[2]) / lens[0]
            dx = rotation[0, 0] * ray_x + rotation[1, 0] * ray_y + rotation[2, 0]
            dy = rotation[0, 1] * ray_x + rotation[1, 1] * ray_y + rotation[2, 1]
            dz = rotation[0, 2] * ray_x + rotation[1, 2] * ray_y + rotation[2, 2]
            along = np.sqrt(dx * dx + dy * dy)
            rise = dz / along
            if rise > -0.0018:
                # The horizon is a hazy line of trees.
                hills = 0.010 + 0.012 * abs(noise[int((dx / along) * 60 + 60) & 127, int((dy / along) * 60 + 60) & 127])
                share = np.sqrt(min(1.0, rise * 1.3)) if rise >= hills else 0.0
                for channel in range(3):
                    if rise < hills:
                        own = materials[4, channel] * 0.5 * flat
                        image[row, column, channel] = own + (haze[1 + channel] - own) * 0.62
                    else:
                        image[row, column, channel] = sky[1, channel] + (sky[0, channel] - sky[1, channel]) * share
                continue
            reach = -eye[2] / dz
            x, y = (eye[0] + reach * dx) / cell, (eye[1] + reach * dy) / cell
            minor = reach / lens[0] / cell
            major = minor / -rise
            # A pixel sees a strip of ground `minor` cells wide and `major` long: a few taps along it, of the level that fits.
            size = max(minor, major / TAPS)
            level = 0
            while level < levels - 1 and (2 << level) <= size:
                level += 1
            asphalt, pavement, white, yellow = 0.0, 0.0, 0.0, 0.0
            taps = min(TAPS, max(1, int(major / (1 << level) + 0.5)))
            step_x, step_y = major * dx / along / taps, major * dy / along / taps
            px, py = x - 0.5 * (taps - 1) * step_x, y - 0.5 * (taps - 1) * step_y
            for _ in range(taps):
                if level == 0:
                    # Near by, cells are larger than pixels: blend the four around.
                    c, r = int(np.floor(px - 0.5)), int(np.floor(py - 0.5))
                    if 0 <= r < shapes[0, 0] - 1 and 0 <= c < shapes[0, 1] - 1:
                        a, b, d, e = mixtures[r, c], mixtures[r, c + 1], mixtures[r + 1, c], mixtures[r + 1, c + 1]
                        if a == b and a == d and a == e:
                            asphalt, pavement = asphalt + shares[a, 0], pavement + shares[a, 1]
                            white, yellow = white + shares[a, 2], yellow + shares[a, 3]
                        else:
                            u, v = px - 0.5 - c, py - 0.5 - r
                            wa, wb, wd, we = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
                            asphalt += wa * shares[a, 0] + wb * shares[b, 0] + wd * shares[d, 0] + we * shares[e, 0]
                            pavement += wa * shares[a, 1] + wb * shares[b, 1] + wd * shares[d, 1] + we * shares[e, 1]
                            white += wa * shares[a, 2] + wb * shares[b, 2] + wd * shares[d, 2] + we * shares[e, 2]
                            yellow += wa * shares[a, 3] + wb * shares[b, 3] + wd * shares[d, 3] + we * shares[e, 3]
                else:
                    c, r = int(np.floor(px)) >> level, int(np.floor(py)) >> level
                    if 0 <= r < shapes[level, 0] and 0 <= c < shapes[level, 1]:
                        at = starts[level] + r * shapes[level, 1] + c
                        asphalt, pavement = asphalt + cells[at, 0], pavement + cells[at, 1]
                        white, yellow = white + cells[at, 2], yellow + cells[at, 3]
                px, py = px + step_x, py + step_y
            norm = 1.0 / (255.0 * taps)
            asphalt, pavement, white, yellow = asphalt * norm, pavement * norm, white * norm, yellow * norm
            grass = max(0.0, 1.0 - asphalt - pavement - white - yellow)
            fine = noise[(int(x * 2) >> level) & 127, (int(y * 2) >> level) & 127]
            coarse = noise[int(x * 0.04) & 127, int(y * 0.04) & 127]
            grain = 1.0 + (0.05 * fine + 0.03 * coarse) * (1.0 - grass) + (0.16 * fine + 0.2 * coarse) * grass
            bright = flat * shade[row, column] * grain
            far = reach * along / haze[0]
            fade = 1.0 - 1.0 / (1.0 + far + 0.5 * far * far)
            for channel in range(3):
                own = asphalt * materials[0, channel] + pavement * materials[1, channel] + white * materials[2, channel]
                own += yellow * materials[3, channel] + grass * materials[4, channel]
                own = min(255.0, own * bright * light[5 + channel])
                image[row, column, channel] = own + (haze[1 + channel] - own) * fade
