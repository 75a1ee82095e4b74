"""How many dimensions of an image a first layer does not see: an integer, proven, and an estimate of another kind."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.null_projection import NullProjection
from nullspace_cli.engine.solvers.polyphase import norm_bound
from nullspace_cli.engine.solvers.row_inertia import LEAST, singular_values_above
from nullspace_cli.engine.solvers.staircase import RankBounds, rank_bounds

Proof = Literal["staircase", "inertia"]


@dataclass(frozen=True)
class Nullity:
    """nullity = inputs - rank, of a map of whole images.

    Attributes:
        proof: "staircase" where blocks of the matrix bound the rank from below by what counting allows at most;
            "inertia" where the eigenvalues of A A^T or A^T A above a bound were counted by a factorisation.
        threshold: of "inertia", the share of the largest singular value up to which one counts as zero; of "staircase"
            the least singular value of the blocks: none of them was near to what rounding makes of zero.
    """

    inputs: int
    outputs: int
    rank: int
    proof: Proof
    threshold: float

    @property
    def nullity(self) -> int:
        return self.inputs - self.rank

    @property
    def share(self) -> float:
        return self.nullity / self.inputs

    def describe(self) -> dict[str, Any]:
        """The keys of JSON documents."""
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "rank": self.rank,
            "nullity": self.nullity,
            "nullity_share": self.share,
            "nullity_proof": {"method": self.proof, "threshold": self.threshold},
        }


@full_precision
def find_nullity(image_map: ImageMap, rtol: float) -> Nullity:
    """The nullity of A.

    Args:
        rtol: share of a branch's largest singular value, of its kernels as a matrix, up to which one counts as zero, as
            in `independent_kernels`. All else is proven of the map that these leave.

    Raises:
        ModelError: all kernels are zero.
    """
    reduced = independent_kernels(image_map.to("cpu"), rtol)
    return nullity_of(image_map, reduced, rank_bounds(reduced), rtol)


@full_precision
def nullity_of(image_map: ImageMap, reduced: ImageMap, bounds: RankBounds, rtol: float) -> Nullity:
    """As `find_nullity`, of the map's `independent_kernels` and the bounds on the rank that these leave."""
    if bounds.lower == bounds.upper:
        return Nullity(image_map.inputs, image_map.outputs, bounds.lower, "staircase", bounds.least)
    threshold = max(rtol, LEAST)
    rank = singular_values_above(reduced).count((threshold * norm_bound(reduced)) ** 2)
    return Nullity(image_map.inputs, image_map.outputs, rank, "inertia", threshold)


@dataclass(frozen=True)
class Estimate:
    """An estimate of the nullity and its standard error."""

    nullity: float
    standard_error: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@full_precision
def estimate_nullity(projection: NullProjection, probes: int, generator: torch.Generator) -> Estimate:
    """The trace of the projector onto the nullspace by Hutchinson's method: E ||P z||^2 of random signs z.

    The variance of one probe is 2 (k - sum_i P_ii^2), at most 2 k (1 - k / n) of nullity k and n numbers: from a few
    probes that says more than how far they lie apart, which may be little by chance.
    """
    size, kernel = projection.image_map.input_size, projection.image_map.branches[0].kernel
    signs = torch.randint(0, 2, (probes, *size), generator=generator).to(kernel) * 2 - 1
    squares: Float[Tensor, " probes"] = projection(signs).images.flatten(1).square().sum(1)
    found = float(squares.mean())
    return Estimate(found, max(0.0, 2 * found * (1 - found / projection.image_map.inputs) / probes) ** 0.5)
