"""What all processes of a run read, each for itself: seen to be the same."""

from collections.abc import Callable

from nullspace_cli.engine.data.collection import Split
from nullspace_cli.engine.data.datasets import ImageSet, open_data
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.runtime.distributed import Ranks


def common_images(
    data: str,
    split: Split,
    ranks: Ranks,
    reading: Reading = "timm",
    notice: Callable[[str], None] = lambda text: None,
) -> ImageSet:
    """The images of a folder, or the demo's.

    Raises:
        DataError: there are none.
        VitnullError: another process has others.
    """
    images = open_data(data, split, reading, notice if ranks.first else lambda text: None)
    if ranks.world > 1:
        ranks.agree("data", f"{len(images)} images with the fingerprint {images.fingerprint()[:12]}")
    return images


def common_model(request: ModelRequest, ranks: Ranks) -> Model:
    """The model that a request names.

    Raises:
        ModelError: it cannot be loaded.
        VitnullError: another process has other weights.
    """
    model = load_model(request)
    ranks.agree("weights", f"{model.name} with sha256 {model.weights_sha256[:12]}")
    return model
