"""Images, data and results at addresses of fsspec's: what comes of them is what comes of files."""

import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import webdataset
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from nullspace_cli.engine.files import addresses
from nullspace_cli.engine.files.addresses import is_address, with_both_slashes
from tests.conftest import Vitnull, contents

OPTIONS = ("--nullspace", "resize", "--scale", "0.3", "--min-legibility", "0")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file system of fsspec's in memory; in the end no copy of its files is left on the disk."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield fsspec.filesystem("memory")
    assert [name for name in contents(folder) if name.startswith("vitnull")] == []
    assert not [name for name in contents(tmp_path) if ":" in name]


@pytest.fixture
def images(photo: Path, logo: Path, elsewhere: Any) -> tuple[str, ...]:
    """Two photos and a mark, here and there."""
    Path("in").mkdir()
    with Image.open(photo) as image:
        for number in range(2):
            image.rotate(180 * number).resize((200, 180)).save(f"in/{number}.png")
    elsewhere.put("in", "/b/in", recursive=True)
    elsewhere.put_file(logo, "/b/logo.png")
    return ("0.png", "1.png")


@pytest.fixture
def stamp(run: Any, vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> Vitnull:
    def stamp(*arguments: str | Path, **options: Any) -> Any:
        return vitnull("watermark", *arguments, *OPTIONS, "--model", *tiny_vit, **options)

    return stamp


def test_images_from_there_to_there(stamp: Vitnull, images: tuple[str, ...], logo: Path, elsewhere: Any) -> None:
    elsewhere.pipe("/b/in/broken.png", b"none")
    elsewhere.pipe("/b/in/notes.txt", b"some")
    arguments = ("memory://b/in", "memory://b/logo.png", "--out-dir", "memory://b/out")
    outcome = stamp(*arguments, "--json", expect=4)
    assert "passed over in memory://b/in: 1 no image by its name (memory://b/in/notes.txt)" in outcome.stderr
    document = outcome.document
    assert [(record["source"], record["output"]) for record in document["images"]] == [
        (f"memory://b/in/{name}", f"memory://b/out/{name.replace('.png', '.watermarked.png')}") for name in images
    ]
    (failure,) = document["failures"]
    assert failure["error"].startswith("Cannot read memory://b/in/broken.png: ")
    stamp("in", logo, "--out-dir", "out")
    for name in contents("out"):
        assert elsewhere.cat(f"/b/out/{name}") == Path("out", name).read_bytes()
    assert "memory://b/out/0.watermarked.png exists already. Use --force" in stamp(*arguments, expect=1).message
    elsewhere.rm_file("/b/in/broken.png")
    document = stamp(*arguments, "--skip-existing", "--json").document
    assert (document["summary"]["skipped"], document["summary"]["count"]) == (2, 0)


def test_one_image(stamp: Vitnull, images: tuple[str, ...], logo: Path, elsewhere: Any) -> None:
    """From there to here, and from here to there with all that is written besides."""
    stamp("memory://b/in/0.png", logo, "-o", "here.png")
    more = ("--diff", "memory://b/n.png", "--float", "memory://b/f.safetensors", "--report", "memory://b/p.html")
    stamp("in/0.png", logo, "-o", "memory://b/there.png", *more)
    assert elsewhere.cat("/b/there.png") == Path("here.png").read_bytes()
    assert {"/b/n.png", "/b/f.safetensors", "/b/p.html"} <= set(elsewhere.find("/b"))
    message = stamp("memory://b/in/none.png", logo, expect=1).message
    assert message == "vitnull: error: Cannot read memory://b/in/none.png: there is no such file. Check the name."


def test_shards(stamp: Vitnull, images: tuple[str, ...], logo: Path, elsewhere: Any) -> None:
    with webdataset.ShardWriter("s-%d.tar", maxcount=1, verbose=0, mtime=1e9) as sink:
        for name in images:
            sink.write({"__key__": Path(name).stem, "png": Path("in", name).read_bytes(), "cls": 1})
    for name in ("s-0.tar", "s-1.tar"):
        elsewhere.put_file(name, f"/b/s/{name}")
    stamp("s-{0..1}.tar", logo, "--out-dir", "out")
    for source, out in (("s-{0..1}.tar", "one"), ("s-*.tar", "two"), ("", "three")):
        records = stamp(f"memory://b/s/{source}", logo, "--out-dir", f"memory://b/{out}", "--jsonl").lines("watermark")
        assert records[1]["source"] == "memory://b/s/s-1.tar/1.png"
        assert records[1]["output"] == f"memory://b/{out}/s-1.watermarked.tar/1.png"
        for name in contents("out"):
            assert elsewhere.cat(f"/b/{out}/{name}") == Path("out", name).read_bytes()


def test_data_and_results_of_other_commands(vitnull: Vitnull, images: tuple[str, ...], elsewhere: Any) -> None:
    vitnull("basis", "demo", "-o", "memory://b/demo.safetensors", "--no-preview")
    Path("demo.safetensors").write_bytes(elsewhere.cat("/b/demo.safetensors"))
    elsewhere.pipe("/b/in/broken.png", b"none")
    options = ("eval", "demo", "--noise", "demo.safetensors", "--skip-bad", "--json")
    there = vitnull(*options, "--data", "memory://b/in", "--csv", "memory://b/t.csv")
    assert "memory://b/in/broken.png" in there.stderr
    assert there.document["results"] == vitnull(*options, "--data", "in").document["results"]
    assert elsewhere.exists("/b/t.csv")
    for number, name in enumerate(images):
        with tarfile.open(f"{number}.tar", "w") as file:
            file.add(f"in/{name}", name)
        elsewhere.put_file(f"{number}.tar", f"/b/{number}.tar")
    by_pattern = vitnull(*options, "--data", "memory://b/{0..1}.tar").document
    assert by_pattern["results"] == there.document["results"]
    vitnull("explain", "memory://b/in/0.png", "--model", "demo", "--out-dir", "memory://b/maps", "--skip-existing")
    assert len(elsewhere.find("/b/maps")) == 2
    shutil.copy("in/0.png", "same.png")
    vitnull("check", "memory://b/in/0.png", "same.png", "--model", "demo")


def test_what_cannot_be_written_is_not_there_in_part(
    stamp: Vitnull, images: tuple[str, ...], logo: Path, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(source: Any, target: Any, length: int) -> None:
        target.write(source.read(100))
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(vars(addresses)["shutil"], "copyfileobj", break_off)
        message = stamp("in/0.png", logo, "-o", "memory://b/x.png", expect=1).message
    assert "Cannot write memory://b/x.png: connection lost." in message
    assert not elsewhere.exists("/b/x.png")


@pytest.mark.parametrize(
    ("missing", "said"),
    [("fsspec", r"s3://b/x.png is read by fsspec, which is not here. Run pip install 'vitnull[data]'."),
     ("s3fs", r"Cannot read s3://b/x.png: Install s3fs to access S3."),
     (None, "Cannot read nosuch://b/x.png: Protocol not known: nosuch.")],
)  # fmt: skip
def test_what_is_not_installed_is_named(
    stamp: Vitnull, logo: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None, said: str
) -> None:
    if missing:
        for name in [name for name in sys.modules if name.split(".")[0] == missing]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
    assert said in stamp("s3://b/x.png" if missing else "nosuch://b/x.png", logo, expect=1).message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3:/b/x.png", "s3://b/x.png"),
        ("s3://b/x.png", "s3://b/x.png"),
        ("Cannot read https:/h/x and gs:/b: no", "Cannot read https://h/x and gs://b: no"),
        ("file:/x.png, file:///x.png", "file:///x.png, file:///x.png"),
        ("local-dir:/models/x", "local-dir:/models/x"),
        ("torch/cifar10:/data", "torch/cifar10:/data"),
        (r"C:/x.png C:\x.png", r"C:/x.png C:\x.png"),
    ],
)
def test_addresses_are_shown_with_both_slashes(text: str, expected: str) -> None:
    assert with_both_slashes(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("s3://b/x", True), ("s3:/b/x", True), ("file:///x", True), ("hf-hub:org/x", False), ("local-dir:/x", False),
     ("torch/x:/y", False), ("C:/x", False), ("a:b", False), ("s3:", False)],
)  # fmt: skip
def test_which_names_are_addresses(name: str, expected: bool) -> None:
    assert is_address(name) is expected


def test_files_by_their_address(stamp: Vitnull, images: tuple[str, ...], logo: Path, tmp_path: Path) -> None:
    """fsspec's own name for the disk."""
    stamp(f"file://{tmp_path}/in/0.png", logo, "-o", f"file://{tmp_path}/deep/x.png")
    stamp("in/0.png", logo, "-o", "y.png")
    with Image.open(io.BytesIO(Path("deep/x.png").read_bytes())) as one, Image.open("y.png") as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
