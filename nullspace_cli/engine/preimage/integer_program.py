"""Wrong values of a picture's view as an integer program, which HiGHS solves, or proves to have no solution."""

import numpy as np
from numpy.typing import NDArray

from nullspace_cli.engine.preimage.neighbourhood import Neighbourhood
from nullspace_cli.engine.preimage.pillow_passes import to_level

PRECISION = 2.0**-23
"""How far a coefficient of Pillow's may be from ours: it takes multiples of 2^-22."""

NODES, GAP = 50, 1.0
"""Branches that are looked at, most programs take none; and how far from the least change a solution may be,
relatively: any is one."""


def exact_levels(part: Neighbourhood, reach: int) -> NDArray[np.int64] | None:
    """Levels of the pixels, each within `reach` of what it is, with which their values are as they are wanted.

    These are the values that read nothing else; others get no further from what is wanted. The unknowns are the levels,
    what the first pass rounds its sums to, J, and how much each level changes, of which the sum is to be small. Levels
    and J are whole. J lies within half a level of sums of levels, and each value, a sum of J, within its rounding cell,
    but for what Pillow's precision may do. What is right now nearer to the edge of its cell than that may stay there,
    and what the first pass clips stays clipped.

    Returns:
        [K, L], or None: there are none, or none was found.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # here: hardly any picture needs it
    from scipy.sparse import csr_array, hstack, identity, kron, vstack

    (K, L), (m, n) = part.levels.shape, part.V.shape
    pixels, sums, values = K * L, K * n, m * n
    half_across, half_down = (0.5 - 255 * taps * PRECISION for taps in (L, K))
    J = to_level(part.S)
    low, high = -half_across > part.S, 255 + half_across < part.S
    off = np.where(low | high, 0, np.abs(part.S - J))
    cell = np.maximum(off, half_across)
    of_others = part.S - part.levels @ part.B.T
    first_pass = LinearConstraint(
        hstack([kron(identity(K), csr_array(-part.B)), identity(sums), csr_array((sums, pixels))]),
        (of_others - np.where(high, np.inf, cell)).ravel(),
        (of_others + np.where(low, np.inf, cell)).ravel(),
    )
    wanted = part.wanted.astype(float)
    off = np.abs(part.V.clip(0, 255) - wanted)
    cell = np.where(part.whole & (off >= 0.5), half_down, np.maximum(off, half_down))
    of_others = part.V - part.A @ J
    second_pass = LinearConstraint(
        hstack([csr_array((values, pixels)), kron(csr_array(part.A), identity(n)), csr_array((values, pixels))]),
        (np.where(wanted == 0, -np.inf, wanted - cell) - of_others).ravel(),
        (np.where(wanted == 255, np.inf, wanted + cell) - of_others).ravel(),
    )
    own, none = identity(pixels), csr_array((pixels, sums))
    change = LinearConstraint(
        vstack([hstack([own, none, own]), hstack([-own, none, own])]),
        np.concatenate([part.levels.ravel(), -part.levels.ravel()]),
    )
    least = np.maximum(part.lower, part.levels - reach), np.where(high, 255, 0), np.zeros((K, L))
    most = np.minimum(part.upper, part.levels + reach), np.where(low, 0, 255), np.full((K, L), reach)
    found = milp(
        np.repeat([0, 0, 1], [pixels, sums, pixels]),
        constraints=[first_pass, second_pass, change],
        integrality=np.repeat([1, 1, 0], [pixels, sums, pixels]),
        bounds=Bounds(*(np.concatenate([each.ravel() for each in bound]) for bound in (least, most))),
        options={"node_limit": NODES, "mip_rel_gap": GAP},
    )
    return None if found.x is None else np.rint(found.x[:pixels]).astype(int).reshape(K, L)
