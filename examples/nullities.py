"""Print the table of docs/nullspaces.md: `python examples/nullities.py [MODEL...]`. Calls the command line alone.

Random weights: the table shows what the architecture leaves room for. Leave out --no-pretrained for published weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = [
    "vit_small_patch32_224",
    "vit_base_patch32_224",
    "vit_large_patch32_224",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "vit_small_patch16_224",
    "deit_small_patch16_224",
    "vit_small_patch14_dinov2",
    "mixer_s32_224",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "tnt_s_patch16_224",
    "pit_ti_224",
    "crossvit_tiny_240",
    "resnet50",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", default=MODELS)
    models = parser.parse_args().models
    print("| model | patch (or image) → embedding | nullity | per channel |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            out = Path(folder) / "x.safetensors"
            command = [sys.executable, "-m", "nullspace_cli", "basis", name, "--no-pretrained", "--no-preview"]
            command += ["--no-check", "--compact", "--json"]
            result = subprocess.run(
                [*command, "--force", "--out", str(out)], capture_output=True, text=True, check=False
            )
            if result.returncode not in (0, 5):
                print(result.stderr, end="", file=sys.stderr)
                continue
            row = json.loads(result.stdout)
            per_channel = ", ".join(map(str, sorted(set(row.get("nullity_per_channel", [])))))
            what = "" if row["kind"] == "patch" else " of the image"
            room = "none" if row["nullity"] is None else row["nullity"]
            print(f"| {name} | {row['inputs']} → {row['outputs']}{what} | {room} | {per_channel} |", flush=True)


if __name__ == "__main__":
    main()
