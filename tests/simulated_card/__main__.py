"""Run a module (-m NAME) or a script, with its arguments, on the simulated card."""

import runpy
import sys

from tests.simulated_card.patches import simulated_card

arguments = sys.argv[1:]
if not arguments or arguments == ["-m"]:
    sys.exit(f"usage: python -m tests.simulated_card (-m MODULE | SCRIPT) [ARGUMENTS]\n\n{__doc__}")
with simulated_card():
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
