"""Whose model is this: claims to models, and suspects that are held against them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.ownership.claim import DEFAULT_PAIRS, Claim, make_claim
from nullspace_cli.engine.ownership.claim_file import read_claim, save_claim
from nullspace_cli.engine.ownership.verdict import DEFAULT_LEVEL, Verdict
from nullspace_cli.engine.workflows.claim import Judged, judge, over_all
from nullspace_cli.library.arguments import require_count, require_model, require_number, wrong


class ClaimResult:
    """What is said of a suspect.

    Attributes:
        verdict: "derived", "not shown" or "says nothing".
        reason: why.
    """

    def __init__(self, judged: Judged, references: Sequence[Judged]) -> None:
        finding = over_all(judged, references)
        self._judged = judged
        self.verdict: Verdict = finding.verdict
        self.reason = finding.reason

    @property
    def derived(self) -> bool:
        return self.verdict == "derived"

    def to_dict(self) -> dict[str, Any]:
        """The keys `by_weights` and `by_answers` of the JSON of `vitnull claim check`; None for the one not asked."""
        white, black = self._judged.white, self._judged.black
        return {"by_weights": white and white.to_dict(), "by_answers": black and black.to_dict()}

    def __repr__(self) -> str:
        return f"<ClaimResult {self.verdict}: {self.reason}>"


class ModelClaim:
    """A claim to a model, by the nullspace of its first layer; see docs/ownership.md.

    Attributes:
        digest: 64 hexadecimal digits, to publish.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.digest = claim.digest

    def save(self, path: Path | str, *, reveal: bool = False, overwrite: bool = False) -> Path:
        """Write what `vitnull claim commit` writes; with `reveal` also what a judge needs.

        Raises:
            ArtifactError: the file cannot be written, or is there already.
        """
        return save_claim(Path(path), self._claim, reveal=reveal, force=overwrite)

    def check(
        self,
        suspect: Model | None = None,
        *,
        answers: Path | str | None = None,
        references: Sequence[Model] = (),
        level: float = DEFAULT_LEVEL,
        seed: int = 0,
    ) -> ClaimResult:
        """Hold a suspect against the claim, by its weights or by its answers.

        Args:
            answers: a file of them, as of `vitnull claim check --answers`.
            references: models that have nothing of the claim's, for which it must not hold. Of principal angles there
                are more, without what these read in common.
            level: largest p-value that is called derived.
            seed: of surrogates' signs.

        Raises:
            UsageError: neither a suspect nor answers are given, or both, or `level` is out of reach.
            ArtifactError: the answers are not those to the claim's probes.
        """
        if (suspect is None) == (answers is None):
            raise wrong("suspect", suspect, "a Model, or `answers` in its place")
        for model in (*(() if suspect is None else (suspect,)), *references):
            require_model(model)
        require_number("level", level, above=0, most=1)
        file = None if answers is None else Path(answers)
        judged = judge(self._claim, suspect, file, level, seed, references)
        return ClaimResult(judged, [judge(self._claim, model, None, level, seed) for model in references])

    def __repr__(self) -> str:
        return f"<ModelClaim to {self._claim.recipe.model}, digest {self.digest[:12]}>"


def claim_model(model: Model, *, seed: int = 0, pairs: int = DEFAULT_PAIRS) -> ModelClaim:
    """Commit to a model and to the nullspace of its first layer.

    Args:
        seed: what probes are drawn by.
        pairs: of noises in probes, whose least p-value is 1 / (2 pairs).

    Raises:
        NoNullspaceError: the model has no nullspace that tells it from others.
        UsageError: an argument is not what it should be.
    """
    require_model(model)
    require_count("seed", seed, least=0)
    require_count("pairs", pairs, least=2)
    return ModelClaim(make_claim(model, seed=seed, pairs=pairs))


def load_claim(path: Path | str, *, digest: str | None = None) -> ModelClaim:
    """A claim that was revealed, held against its own digest, and against the one that was published if it is given.

    Raises:
        ArtifactError: the file is no claim, is not revealed, was changed, or has another digest.
    """
    return ModelClaim(read_claim(Path(path), digest))
