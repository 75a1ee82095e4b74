"""All documents by their names, and how one is checked on its way out."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.engine.documents.base import Document
from nullspace_cli.engine.documents.commands.basis import Basis
from nullspace_cli.engine.documents.commands.check import Check, CheckImage
from nullspace_cli.engine.documents.commands.claim import ClaimCheck, ClaimCommit, ClaimProbes
from nullspace_cli.engine.documents.commands.demo import Demo
from nullspace_cli.engine.documents.commands.eval import Eval, EvalImage, EvalPlot
from nullspace_cli.engine.documents.commands.explain import Explain, ExplainImage, ExplainMeasured
from nullspace_cli.engine.documents.commands.fool import Fool
from nullspace_cli.engine.documents.commands.learn_noise import LearnNoise
from nullspace_cli.engine.documents.commands.run import Failure
from nullspace_cli.engine.documents.commands.watermark import Watermark, WatermarkImage

DOCUMENTS: Mapping[str, type[Document]] = {
    "basis": Basis,
    "learn-noise": LearnNoise,
    "eval": Eval,
    "eval-plot": EvalPlot,
    "watermark": Watermark,
    "check": Check,
    "fool": Fool,
    "explain": Explain,
    "demo": Demo,
    "claim-commit": ClaimCommit,
    "claim-probes": ClaimProbes,
    "claim-check": ClaimCheck,
}
"""By the name in `schema`: vitnull/NAME/1."""
LINES: Mapping[str, type[Document]] = {
    "eval": EvalImage,
    "watermark": WatermarkImage,
    "check": CheckImage,
    "explain": ExplainImage,
    "explain-measured": ExplainMeasured,
    "failure": Failure,
}
"""Records of files with one on each line, by the command that writes them."""


def checked_document(document: Mapping[str, Any]) -> str:
    """A command's document as it is printed.

    Raises:
        ValueError: it breaks its declaration, which is a bug.
    """
    name = str(document["schema"]).split("/")[1]
    return DOCUMENTS[name].checked(document, indent=2)


def checked_line(name: str, record: Mapping[str, Any]) -> str:
    """A record of LINES as it is printed.

    Raises:
        ValueError: as `checked_document`.
    """
    return LINES[name].checked(record)
