"""Shapes and types of the engine's numerics, checked at every call while tests run."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

CHECKED = ("solvers", "nullspace", "preimage")
"""The numerics. Not what takes whatever users give and says what is wrong with it, nor data sets: a check would look at
one of their images."""

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a number


def check_shapes() -> None:
    """From here on, modules of these packages are checked as they are imported."""
    install_import_hook([f"nullspace_cli.engine.{name}" for name in CHECKED], "tests.shapes.typechecker")
