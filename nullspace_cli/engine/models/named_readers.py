"""Readers as they are named: by size, filter and crop, or by the model whose evaluation transform they use."""

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.loading import load_view
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.transforms.readers import FORM, Reader, is_spelled_out, spelled_out


def parse_reader(text: str, *, offline: bool = False) -> Reader:
    """A reader from its text: SIZE/FILTER/CROP_PCT, or a model's name, of which no weights are read.

    Raises:
        UsageError: the text has slashes as the former, but is not of its form.
        ModelError: there is no such model, or it reads no pictures.
    """
    if is_spelled_out(text):
        return spelled_out(text)
    try:
        view = load_view(ModelRequest(text, pretrained=False, offline=offline))
        view.transform.require_pictures()
    except ModelError as error:
        raise ModelError(f"{text!r} names no reader: {error} A reader is {FORM}.") from error
    return Reader(view.name, view.transform)
