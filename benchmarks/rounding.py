"""What rounding to 8 bits does to a watermark at model size, by both ways of rounding."""

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.measure import Row, vitnull
from nullspace_cli.demo.drawing import draw


def rows() -> list[Row]:
    with TemporaryDirectory() as folder:
        photo = Path(folder, "photo.png")
        Image.fromarray(draw("val", 4)[0]).save(photo)
        (nearest, nearest_away), (aware, aware_away) = (watermark(photo, rounding) for rounding in ("nearest", "aware"))
    print(
        f"rounding, demo (trained), one image: embeddings move by {nearest:.1e} with nearest, {aware:.1e} with aware "
        f"({nearest / aware:.0f} times less); pixels move by {nearest_away:.2f} and {aware_away:.2f} levels (rms)"
    )
    return []


def watermark(photo: Path, rounding: str) -> tuple[float, float]:
    """The embedding error of the file, and the rms of what rounding changed, in levels."""
    written, exact = photo.with_name(f"{rounding}.png"), photo.with_name(f"{rounding}.safetensors")
    run = vitnull(
        "watermark", photo, "--text", "vitnull", "--fit", "tile", "--model", "demo", "--size", "model",
        "--rounding", rounding, "--verify", "--out", written, "--float", exact, "--device", "cpu",
    )  # fmt: skip
    change = pil_to_tensor(Image.open(written)) - 255 * load_file(exact)["image"]
    return run.document["images"][0]["embedding_error"], float(change.square().mean().sqrt())
