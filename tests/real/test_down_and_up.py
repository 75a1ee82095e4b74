"""The down-and-up test on real photos, and on image-scaling attacks made of them.

    VITNULL_REAL=FOLDER pytest tests/real/test_down_and_up.py -m real -s

prints the figures of docs/checking.md.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.comparison.down_and_up import down_and_up
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.transforms.readers import Reader, spelled_out

pytestmark = pytest.mark.real

Array = NDArray[Any]


def attacked(pixels: Array, target: Array, reader: Reader) -> Array:
    """The photo, changed as little as need be for the reader to see the target (Xiao et al. 2019): in the mean square.

    z + R^+ (target - R z C^T) C^+T is the nearest picture with that view; what is clipped is made up for, a few times.
    """
    operator = reader.operator(pixels.shape[1], pixels.shape[0])
    rows, cols = operator.rows.to_dense(), operator.cols.to_dense()
    inverse_rows, inverse_cols = torch.linalg.pinv(rows), torch.linalg.pinv(cols)
    image, wanted = (torch.from_numpy(array.copy()).double().movedim(-1, 0) for array in (pixels, target))
    for _ in range(5):
        image = (image + inverse_rows @ (wanted - rows @ image @ cols.T) @ inverse_cols.T).clamp(0, 255)
    return image.round().to(torch.uint8).movedim(0, -1).numpy()


def test_photos_and_attacks_are_told_apart(real: Path) -> None:
    paths = sorted(
        path for folder in ("imagenet", "interiors") for path in (real / folder).rglob("*") if path.is_file()
    )
    reader = spelled_out("224/torch-bilinear-aliased/squash")
    found: dict[str, list[Any]] = {"photos": [], "attacks": []}
    for path, other in zip(paths, [*paths[7:], *paths[:7]], strict=True):
        pixels = read_picture(path).pixels
        target = np.asarray(Image.fromarray(read_picture(other).pixels).resize((224, 224)))
        attack = attacked(pixels, target, reader)
        assert np.abs(reader.input_pixels(attack).astype(int) - target).mean() < 16, path
        found["photos"].append(down_and_up(pixels))
        found["attacks"].append(down_and_up(attack))
    for name, tests in found.items():
        for key in ("rms", "ratio"):
            figures = np.quantile([getattr(test, key) for test in tests], [0, 0.05, 0.5, 0.95, 1])
            sys.stdout.write(f"\n{name} {key}: {np.round(figures, 2)}")
        sys.stdout.write(f"\n{name}: {sum(test.suspicious for test in tests)} of {len(tests)} suspicious\n")
    assert np.mean([test.suspicious for test in found["photos"]]) <= 0.05
    assert np.mean([test.suspicious for test in found["attacks"]]) >= 0.95
