"""A suspect whose weights are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.ownership.angles import Angles, angles_between
from nullspace_cli.engine.ownership.claim import VISIBLE, Claim, is_distinct
from nullspace_cli.engine.ownership.frequencies import low_frequencies
from nullspace_cli.engine.ownership.randomisation import generator_of, p_value
from nullspace_cli.engine.ownership.reading import Reading, reading_of
from nullspace_cli.engine.ownership.verdict import Finding
from nullspace_cli.engine.runtime.precision import full_precision

SURROGATES = 9999
ALIKE = 0.6
"""Least likeness that is called derived. Networks of other seeds were seen at up to 0.32, trained on other data from
one seed at up to 0.52, and turned over its diagonal, with all of its spectrum and colours, one at 0.26."""


@dataclass(frozen=True)
class WhiteBox:
    """How a suspect's first layer reads the claim's nullspace.

    Attributes:
        reading: of null noise, and of its mirror image; None where nothing can be compared.
        own: the same of the owner's network, in the frequencies that both have.
        surrogates: `reading.odd` for random signs; None where nothing can be said.
        angles: between what both networks read.
        angles_beyond: the same without what the references read in common; None without references.
        silent: why nothing can be said; None where something can.
    """

    patch_size: tuple[int, int] | None
    reading: Reading | None
    own: Reading | None
    surrogates: Float[Tensor, " m"] | None
    angles: Angles | None
    angles_beyond: Angles | None
    silent: str | None

    @property
    def p(self) -> float | None:
        """How many surrogates are as far from their mirror images; None where nothing can be said."""
        if self.reading is None or self.surrogates is None:
            return None
        return p_value(self.reading.odd, self.surrogates)

    @property
    def likeness(self) -> float | None:
        """The suspect's score by the owner's own: 1 for its own network, about 0 for one that has nothing of it."""
        if self.reading is None or self.own is None or self.reading.score is None or not self.own.score:
            return None
        return self.reading.score / self.own.score

    def finding(self, level: float) -> Finding:
        """Derived, if p <= `level` and the likeness is at least `ALIKE`."""
        if self.silent:
            return Finding("says nothing", self.silent)
        p, likeness = self.p, self.likeness
        if p is None or likeness is None:
            return Finding("says nothing", "its first layer treats the nullspace and its mirror image exactly alike")
        figures = f"p = {p:.2g}, likeness {likeness:.2f}"
        if p <= level and likeness >= ALIKE:
            return Finding("derived", f"{figures}: the suspect's first layer is the claim's, up to what changed since")
        return Finding("not shown", f"{figures}; derived would be p <= {level:g} and a likeness of at least {ALIKE:g}")

    def to_dict(self) -> dict[str, Any]:
        reading = self.reading
        return {
            "patch_size": list(self.patch_size) if self.patch_size else None,
            "p": self.p,
            "surrogates": None if self.surrogates is None else len(self.surrogates),
            "score": reading and reading.score,
            "own_score": self.own and self.own.score,
            "likeness": self.likeness,
            "null_to_mirrored": reading and reading.ratio,
            "visibility": reading and reading.visibility,
            "angles": self.angles and self.angles.to_dict(),
            "angles_beyond_references": self.angles_beyond and self.angles_beyond.to_dict(),
        }


@full_precision
def compare(
    claim: Claim, suspect: Model, *, references: Sequence[Model] = (), surrogates: int = SURROGATES, seed: int = 0
) -> WhiteBox:
    """Hold a suspect's first layer against a claim, both in pixel space.

    What leaves the row space as it is, W -> M W with M of full rank, leaves the answer: rotations, permutations and
    scalings of the embedding; so does another mean or std that the weights make up for.

    Args:
        references: networks without kinship, whose common share `angles_beyond` leaves out. They weigh in nothing else,
            and those that do not start with a map of patches of as many channels in nothing at all.
        seed: of the surrogates' signs, together with the claim's digest.

    Raises:
        ModelError: the suspect does not accept an image of its own input size.
    """
    patch_map = patch_map_of(suspect)
    if patch_map is None:
        return _silent(f"{suspect.name} does not start with one linear map of disjoint patches; ask it by probes", None)
    size = patch_map.patch_size
    if patch_map.in_chans != claim.patch_map.in_chans:
        said = f"{suspect.name} reads {patch_map.in_chans} channels, the claim's model {claim.patch_map.in_chans}"
        return _silent(said, size)
    kernel, rtol = patch_map.kernel("pixel"), claim.recipe.rtol
    reading = reading_of(kernel, claim.row_space)
    own = reading_of(low_frequencies(claim.patch_map.kernel("pixel"), size), claim.row_space)
    silent = None
    if reading.visibility < VISIBLE:
        silent = f"{suspect.name} reads neither the claim's nullspace nor the mirror image of it"
    elif not is_distinct(own):
        silent = f"in the frequencies of patches of {size[0]} x {size[1]} the claim's nullspace tells nothing"
    drawn = None if silent else reading.surrogates(surrogates, generator_of(claim.digest, "signs", seed))
    rtol = max(rtol, patch_map.stored_eps)
    others = [found.kernel("pixel") for one in references if (found := patch_map_of(one)) is not None]
    others = [other for other in others if other.shape[1] == kernel.shape[1]]
    angles = angles_between(kernel, rtol, claim.row_space)
    beyond = angles_between(kernel, rtol, claim.row_space, others) if others else None
    return WhiteBox(size, reading, own, drawn, angles, beyond, silent)


def _silent(reason: str, size: tuple[int, int] | None) -> WhiteBox:
    return WhiteBox(size, None, None, None, None, None, reason)
