"""`vitnull watermark` and `vitnull explain` of tar files and tables, read back by the libraries that people use."""

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
import webdataset
from PIL import Image
from safetensors.torch import load

from nullspace_cli.engine.data import table_archive
from nullspace_cli.engine.workflows import watermark as stamping
from tests.cli.contract import WATERMARKED, check_keys
from tests.conftest import Vitnull, contents

pytestmark = pytest.mark.filterwarnings(  # webdataset leaves files open
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning"
)
OPTIONS = ("--nullspace", "resize", "--scale", "0.3", "--min-legibility", "0", "--text", "x")
COUNT = 4


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def ending_of(content: bytes) -> str:
    return "jpg" if content.startswith(b"\xff\xd8") else "png"


@pytest.fixture(scope="session")
def pictures(photo: Path) -> list[bytes]:
    """The files of images: two PNGs, two JPEGs."""
    with Image.open(photo) as image:
        turned = [image.rotate(90 * number).resize((200, 180)) for number in range(COUNT)]
    return [encoded(one, "JPEG" if number % 2 else "PNG") for number, one in enumerate(turned)]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Files that stand in for images of archives are gone in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    assert [name for name in contents(folder) if name.startswith("vitnull")] == []


def write_shards(pictures: list[bytes], maxcount: int = 2) -> None:
    """By webdataset itself: s-000.tar and so on, of samples with what else they may hold."""
    mask = encoded(Image.new("L", (30, 20), 7))
    with webdataset.ShardWriter("s-%03d.tar", maxcount=maxcount, verbose=0, mtime=1e9) as sink:
        for number, content in enumerate(pictures):
            image = {ending_of(content): content}
            sink.write({"__key__": f"a/{number}", "cls": number, **image, "json": {"n": number}, "mask.png": mask})


def samples(pattern: str) -> list[dict[str, Any]]:
    """As webdataset reads them."""
    read = webdataset.WebDataset(str(pattern), shardshuffle=False, empty_check=False)
    return [{key: value for key, value in sample.items() if key[:2] != "__" or key == "__key__"} for sample in read]


@pytest.fixture
def stamp(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> Vitnull:
    def stamp(*arguments: str | Path, **options: Any) -> Any:
        return vitnull("watermark", *arguments, *OPTIONS, "--model", *tiny_vit, **options)

    return stamp


@pytest.fixture
def marked(stamp: Vitnull, pictures: list[bytes]) -> Callable[..., list[bytes]]:
    """What becomes of images that are files of their own."""

    def marked(*options: str) -> list[bytes]:
        Path("files").mkdir()
        names = []
        for number, content in enumerate(pictures):
            names.append(Path("files", f"{number}.{ending_of(content)}"))
            names[-1].write_bytes(content)
        stamp(*names, "--out-dir", "files", *options)
        return [next(Path("files").glob(f"{number}.watermarked.*")).read_bytes() for number in range(COUNT)]

    return marked


def test_tar_to_tar(stamp: Vitnull, pictures: list[bytes], marked: Callable[..., list[bytes]]) -> None:
    """Each image becomes what the file alone becomes; keys, order and all else stay."""
    write_shards(pictures)
    outcome = stamp("s-{000..001}.tar", "--out-dir", "out", "--jsonl")
    records = outcome.lines("watermark")
    assert [record["source"] for record in records] == [
        f"s-{number // 2:03d}.tar/a/{number}.{'jpg' if number % 2 else 'png'}" for number in range(COUNT)
    ]
    assert records[3]["output"] == "out/s-001.watermarked.tar/a/3.png"
    for record in records:
        check_keys(record, WATERMARKED)
    assert "s-000.tar has further images, KEY.mask.png" in outcome.stderr
    before, after = samples("s-{000..001}.tar"), samples("out/s-{000..001}.watermarked.tar")
    for old, new, expected in zip(before, after, marked(), strict=True):
        old.pop("jpg", None)
        assert new == {**old, "png": expected}
    assert list(after[1]) == ["__key__", "cls", "png", "json", "mask.png"]


def test_formats_and_columns(stamp: Vitnull, pictures: list[bytes], marked: Callable[..., list[bytes]]) -> None:
    write_shards(pictures, COUNT)
    stamp("s-000.tar", "--format", "same", "-o", "same.tar")
    assert [sample.get("jpg") or sample["png"] for sample in samples("same.tar")] == marked("--format", "same")
    stamp("s-000.tar", "--column", "jpg", "-o", "jpg.tar")
    kept = [sample["png"] == content for sample, content in zip(samples("jpg.tar"), pictures, strict=True)]
    assert kept == [True, False, True, False]


def test_a_shard_in_a_page_and_a_table(stamp: Vitnull, pictures: list[bytes]) -> None:
    write_shards(pictures[:2])
    Path("in").mkdir()
    Path("s-000.tar").rename("in/s-000.tar")
    outcome = stamp("in", "--report", "page.html", "--out-dir", "in")
    assert "s-000.watermarked.tar/a/1.png" in outcome.stdout
    page = Path("page.html").read_text()
    assert "in/s-000.tar/a/1.jpg" in page
    assert "vitnull-" not in page
    assert page.count("data:image/") > 2
    assert "results of an earlier run: in/s-000.watermarked.tar" in stamp("in", "--out-dir", "out").stderr
    assert contents("out") == ["s-000.watermarked.tar"]


def long_names(pictures: list[bytes]) -> None:
    """A folder packed with everything that tar files may hold."""
    with tarfile.open("packed.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}) as file:
        for name, content in (
            ("d", None), ("d/" + "n" * 120 + ".jpg", pictures[1]), ("d/ü.png", pictures[2]), ("d/notes.txt", b"some"),
            ("d/._x.png", b"a system's"), ("d/link", "notes.txt"), ("d/z.PNG", pictures[2]),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.mtime, member.mode, member.uname, member.uid = 1_000_000_000.5, 0o640, "me", 3_000_000
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            if isinstance(content, str):
                member.type, member.linkname, content = tarfile.SYMTYPE, content, b""
            member.size = len(content or b"")
            file.addfile(member, io.BytesIO(content or b""))


def test_all_else_of_a_tar_file_stays(stamp: Vitnull, pictures: list[bytes]) -> None:
    long_names(pictures)
    stamp("packed.tar")
    with tarfile.open("packed.tar") as before, tarfile.open("packed.watermarked.tar") as after:
        old, new = before.getmembers(), after.getmembers()
        assert after.pax_headers == before.pax_headers
        assert [member.name for member in new] == [member.name.replace(".jpg", ".png") for member in old]
        for one, other in zip(old, new, strict=True):
            kept = [(m.mtime, m.mode, m.uname, m.uid, m.type, m.linkname) for m in (one, other)]
            assert kept[0] == kept[1]
            if one.isreg():
                contents = [file.extractfile(m) for file, m in ((before, one), (after, other))]
                same = [file.read() for file in contents if file]
                assert (same[0] == same[1]) is (one.name in ("d/notes.txt", "d/._x.png"))


def test_an_image_that_fails_stays_as_it_was(stamp: Vitnull, pictures: list[bytes]) -> None:
    write_shards([pictures[0], b"\xff\xd8 no picture", pictures[2], b"\xff\xd8"])
    outcome = stamp("s-000.tar", "--json", expect=4)
    (failure,) = outcome.document["failures"]
    assert failure["source"] == "s-000.tar/a/1.jpg"
    assert failure["error"].startswith("Cannot read s-000.tar/a/1.jpg: ")
    assert "s-000.watermarked.tar has 1 of the images of s-000.tar as they were" in outcome.stderr
    first, second = samples("s-000.watermarked.tar")
    assert first["png"] != pictures[0]
    assert second["jpg"] == b"\xff\xd8 no picture"


def test_an_archive_that_fails_is_one_failure(stamp: Vitnull, pictures: list[bytes]) -> None:
    """One of nothing but broken images, and one that is cut off, among others that are done."""
    write_shards([b"\xff\xd8 none", b"\x89PNG none", *pictures])
    Path("s-001.tar").write_bytes(Path("s-001.tar").read_bytes()[:5000])
    document = stamp("s-{000..002}.tar", "--json", expect=4).document
    assert [record["source"][:9] for record in document["images"]] == ["s-002.tar"] * 2
    assert [failure["source"] for failure in document["failures"]] == [
        "s-001.tar", "s-000.tar/a/0.jpg", "s-000.tar/a/1.png", "s-000.tar"
    ]  # fmt: skip
    assert contents() == ["s-000.tar", "s-001.tar", "s-002.tar", "s-002.watermarked.tar", "temporary"]
    assert "it is damaged, cut off" in stamp("s-001.tar", expect=1).message


def test_what_was_finished_is_not_done_again(
    stamp: Vitnull, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its second shard, a run leaves the first; the next one gives the bytes of a run that went on."""
    write_shards(pictures)
    arguments = ("s-{000..001}.tar", "--workers", "1")
    stamp(*arguments, "--out-dir", "whole")
    read, seen = vars(stamping)["read_picture"], list[str]()

    def interrupted(path: Path, *reading: Any) -> Any:
        seen.append(path.name)
        if len(seen) == COUNT:
            raise KeyboardInterrupt
        return read(path, *reading)

    with monkeypatch.context() as patch:
        patch.setattr(stamping, "read_picture", interrupted)
        stamp(*arguments, "--out-dir", "out", "--skip-existing", expect=130)
    assert contents("out") == ["s-000.watermarked.tar"]
    document = stamp(*arguments, "--out-dir", "out", "--skip-existing", "--json").document
    assert (document["summary"]["skipped"], document["summary"]["count"]) == (1, 2)
    for name in contents("whole"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    assert "exists already. Use --force" in stamp(*arguments, "--out-dir", "out", expect=1).message
    Path("out", "s-000.watermarked.tar").write_bytes(b"cut off")
    document = stamp(*arguments, "--out-dir", "out", "--skip-existing", "--json", expect=4).document
    assert "damaged, cut off" in document["failures"][0]["error"]


@pytest.mark.parametrize("command", ["watermark", "explain"])
def test_what_failed_in_an_archive_that_is_finished_is_said_again(
    command: str, vitnull: Vitnull, tiny_vit: tuple[str, ...], pictures: list[bytes]
) -> None:
    """A batch job that is run until it exits with 0 must not take it for done."""
    write_shards([pictures[0], b"\xff\xd8 none", *pictures[2:]])
    options = {"watermark": OPTIONS, "explain": ("--method", "gradient", "--no-float")}
    ending = {"watermark": "watermarked.tar", "explain": "saliency.tar"}[command]

    def run(*arguments: str, **expected: Any) -> Any:
        shards = ("s-{000..001}.tar", "--out-dir", "out", "--json")
        return vitnull(command, *shards, *options[command], "--model", *tiny_vit, *arguments, **expected).document

    first = run(expect=4)
    assert [failure["source"] for failure in first["failures"]] == ["s-000.tar/a/1.jpg"]
    lists = [name for name in contents("out") if name.endswith(".failures.jsonl")]
    assert lists == [f"s-000.{ending}.failures.jsonl"]
    for _ in range(2):
        again = run("--skip-existing", expect=4)
        assert again["failures"] == first["failures"]
        assert (again["summary"]["failed"], again["summary"]["skipped"]) == (1, 2)
    write_shards(pictures)
    assert run("--force")["failures"] == []
    assert run("--skip-existing")["failures"] == []
    Path("out", lists[0]).write_text("no list")
    assert (
        "Expected a list of images that could not be done"
        in vitnull(
            command,
            "s-000.tar",
            "--out-dir",
            "out",
            *options[command],
            "--model",
            *tiny_vit,
            "--skip-existing",
            expect=1,
        ).message
    )


def test_maps_become_members(vitnull: Vitnull, pictures: list[bytes]) -> None:
    write_shards(pictures)
    options = ("--model", "demo", "--method", "gradient,raw", "--no-float")
    records = vitnull("explain", "s-000.tar", *options, "--jsonl").lines("explain")
    assert records[1]["methods"]["raw"]["overlay"] == "s-000.saliency.tar/a/1.raw.png"
    before, after = samples("s-000.tar"), samples("s-000.saliency.tar")
    Path("1.jpg").write_bytes(pictures[1])
    vitnull("explain", "1.jpg", *options)
    expected = {name: Path(f"1.{name}").read_bytes() for name in ("gradient.png", "raw.png", "saliency.png")}
    assert after[1] == {**before[1], **expected}
    document = vitnull("explain", "s-{000..001}.tar", "1.jpg", *options, "--skip-existing", "--json").document
    assert (document["summary"]["skipped"], document["summary"]["count"]) == (2, 2)
    message = vitnull("explain", "s-000.saliency.tar", *options, "--force", "-q", expect=4).message
    assert "holds a/0.gradient.png already" in message


# Tables

FEATURES = datasets.Features(
    {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["a", "b", "c", "d", "e"]),
        "boxes": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        "thumb": datasets.Image(),
    }
)


def table(pictures: list[bytes]) -> datasets.Dataset:
    """With an image that has a name, one that is broken, and one that is missing."""
    cells: list[Any] = [{"bytes": content, "path": None} for content in pictures]
    cells[1]["path"] = "b.jpg"
    cells += [{"bytes": b"\xff\xd8\xff broken", "path": None}, None]
    count = len(cells)
    rows = {
        "id": list(range(count)), "image": cells, "label": [number % 5 for number in range(count)],
        "boxes": [[[number, 0.5]] for number in range(count)], "thumb": [cells[0]] * count,
    }  # fmt: skip
    return datasets.Dataset.from_dict(rows, features=FEATURES)


def parquet(pictures: list[bytes]) -> str:
    table(pictures).to_parquet("t.parquet", batch_size=2)
    return "t.parquet"


def saved(pictures: list[bytes]) -> str:
    table(pictures).save_to_disk("t")
    return "t"


def rows_of(name: str) -> datasets.Dataset:
    return datasets.load_dataset("parquet", data_files=[name], split="train")


def stored(rows: datasets.Dataset, column: str = "image") -> list[Any]:
    """The cells of a column of images."""
    return list(rows.cast_column(column, datasets.Image(decode=False))[column])


@pytest.mark.parametrize("made", [parquet, saved])
@pytest.mark.parametrize("at_once", [1, table_archive._AT_ONCE], ids=["row by row", "by parts"])
def test_table_to_table(
    stamp: Vitnull, pictures: list[bytes], marked: Callable[..., list[bytes]], monkeypatch: pytest.MonkeyPatch,
    made: Callable[[list[bytes]], str], at_once: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(table_archive, "_AT_ONCE", at_once)
    source = made(pictures)
    outcome = stamp(source, "--jsonl", expect=4)
    records = outcome.lines("watermark", "failure")
    assert {record["source"] for record in records} == {
        f"{source}/{place}" for place in ("0.png", "1/b.jpg", "2.png", "3.jpg", "4.jpg")
    }
    assert records[1]["output"] == "t.watermarked.parquet/1/b.png"
    assert f"{source} has further images, thumb" in outcome.stderr
    before, after = table(pictures), rows_of("t.watermarked.parquet")
    assert after.features == FEATURES
    for column in ("id", "label", "boxes"):
        assert after[column][:] == before[column][:]
    assert stored(after, "thumb") == stored(before, "thumb")
    expected: list[Any] = [{"bytes": content, "path": None} for content in marked()]
    expected[1]["path"] = "b.png"
    assert stored(after) == [*expected, *stored(before)[COUNT:]]
    if made is parquet and at_once > 1:
        sizes = [pyarrow.parquet.ParquetFile(name).metadata for name in (source, "t.watermarked.parquet")]
        assert [[one.row_group(i).num_rows for i in range(3)] for one in sizes] == [[2, 2, 2]] * 2


@pytest.mark.parametrize("at_once", [1, 25, 1000])
def test_several_columns(
    run: Any, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_once: int
) -> None:
    """Whenever rows are written, each cell gets what is its own."""
    monkeypatch.setattr(table_archive, "_AT_ONCE", at_once)
    archive = table_archive.TableArchive(Path(parquet(pictures)), ["image", "thumb"])
    file, kept = tmp_path / "new", list(archive.images())
    assert len({image.stem for image in kept}) == len(kept) == 2 * COUNT + 3
    with archive.rewriting(Path("new.parquet"), ["map.png"]) as rewriting:
        for image in kept:
            file.write_bytes(b"new %d" % image.place)
            rewriting.put(image.place, None if image.place == 4 else file, [file])
    rows = rows_of("new.parquet")
    for number, column in enumerate(("image", "thumb")):
        made = [cell and cell["bytes"] for cell in stored(rows, column)]
        expected = [b"new %d" % (2 * row + number) for row in range(COUNT + 2)]
        maps = [cell and cell["bytes"] for cell in stored(rows, f"{column}_map")]
        if column == "image":
            expected[-1] = None  # type: ignore[call-overload]
        assert maps == expected
        assert made == [pictures[2] if (row, number) == (2, 0) else cell for row, cell in enumerate(expected)]


def test_tables_as_others_write_them(stamp: Vitnull, pictures: list[bytes]) -> None:
    """Bytes without features, in a folder as on the Hub; and all splits of a saved data set."""
    Path("hub", "data").mkdir(parents=True)
    datasets.Dataset.from_dict({"png": pictures, "n": list(range(COUNT))}).to_parquet("hub/data/train-0.parquet")
    stamp("hub", "--out-dir", "out")
    rows = pyarrow.parquet.read_table("out/data/train-0.watermarked.parquet").to_pydict()
    assert rows["n"] == list(range(COUNT))
    assert [content[:4] for content in rows["png"]] == [b"\x89PNG"] * COUNT
    assert rows["png"][0] != pictures[0]
    datasets.DatasetDict({"train": table(pictures).select([0]), "val": table(pictures).select([1])}).save_to_disk(
        "both"
    )
    stamp("both", "--out-dir", "out", "--column", "thumb")
    assert contents("out") == ["data", "train.watermarked.parquet", "val.watermarked.parquet"]
    after = rows_of("out/val.watermarked.parquet")
    assert stored(after)[0]["bytes"] == pictures[1]
    assert stored(after, "thumb")[0]["bytes"] != pictures[0]


def test_maps_become_columns(vitnull: Vitnull, pictures: list[bytes]) -> None:
    source = parquet(pictures)
    vitnull("explain", source, "--model", "demo", "--method", "gradient,raw", expect=4)
    rows = rows_of("t.saliency.parquet")
    added = {"image_gradient", "image_raw", "image_saliency", "image_saliency_safetensors"}
    assert set(rows.features) == {*FEATURES, *added}
    assert stored(rows) == stored(table(pictures))
    maps = rows.remove_columns(["image", "thumb"])
    assert maps[1]["image_raw"].size == (224, 224)
    assert [maps[4][name] for name in added] == [None] * 4
    assert set(load(maps[0]["image_saliency_safetensors"])) == {"gradient", "raw"}


# What is refused


def linked() -> str:
    with tarfile.open("l.tar", "w") as file:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = tarfile.LNKTYPE, "b.png"
        file.addfile(member)
    return "l.tar"


def leading_out() -> str:
    with tarfile.open("o.tar", "w") as file:
        member = tarfile.TarInfo("../a.png")
        file.addfile(member)
    return "o.tar"


def not_a_table() -> str:
    Path("x.parquet").write_bytes(b"PAR1 or not")
    return "x.parquet"


def without_images() -> str:
    datasets.Dataset.from_dict({"text": ["x"]}).to_parquet("n.parquet")
    return "n.parquet"


@pytest.mark.parametrize(
    ("made", "options", "expect", "said"),
    [
        (linked, (), 1, "l.tar holds a.png, which is no file but a link"),
        (leading_out, (), 1, "o.tar holds ../a.png, a name that leads out of it"),
        (not_a_table, (), 1, "Cannot read x.parquet: it is damaged"),
        (without_images, (), 1, "n.parquet has no images: 1 rows; its columns are text."),
        (lambda: "s-{000..009}.tar", (), 1, "There is no shard s-002.tar"),
        (lambda: "s-000.tar", ("--column", "jpeg"), 1, "holds no images KEY.jpeg. It has KEY.jpg, KEY.mask.png"),
        (lambda: "s-000.tar", ("-o", "x.png"), 2, "of s-000.tar a .tar is made"),
        (lambda: "s-000.tar", ("--diff", "x.png"), 2, "takes one image, and s-000.tar may hold many"),
        (lambda: "photo.png", ("-o", "x.tar"), 2, "of photo.png a .png is made"),
    ],
)  # fmt: skip
def test_refused(
    stamp: Vitnull, no_model: None, pictures: list[bytes],
    photo: Path, made: Callable[[], str], options: tuple[str, ...], expect: int, said: str,
) -> None:  # fmt: skip
    write_shards(pictures)
    shutil.copy(photo, "photo.png")
    assert said in stamp(made(), *options, expect=expect).message
    assert not [name for name in contents() if "watermarked" in name or name.startswith("x.t")]


def test_lines_of_a_shard_are_told_as_it_is_done(stamp: Vitnull, pictures: list[bytes]) -> None:
    """Of an archive of one image, which is not alone in its run for that."""
    write_shards(pictures[:1])
    Path("s-000.tar").rename("one.tar")
    record = json.loads(stamp("one.tar", "--jsonl").stdout)
    assert (record["source"], record["output"]) == ("one.tar/a/0.png", "one.watermarked.tar/a/0.png")
