"""What the libraries of older versions cannot serve as an oracle for (docs/versions.md)."""

import pytest
import timm

from nullspace_cli.engine.models.data_config import version_of

TIMM = version_of(timm.__version__)
FILTERS_BEYOND_SQUARES = TIMM >= (1, 0, 31)
"""Whether timm resizes by the filter that it is told where the model's input is not square (models/data_config)."""
filters_beyond_squares = pytest.mark.skipif(
    not FILTERS_BEYOND_SQUARES, reason="before 1.0.31 timm resizes by bilinear what is not read as a square"
)
