"""Parquet files, and data sets that `datasets` saved, with other images in the place of their own.

Either is written as a Parquet file: with the same rows in their order, all other columns as they are, and what the
schema says besides, by which `datasets` knows a column of images. A part of it, a row group or a batch, is in memory at
a time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nullspace_cli.engine.data.archive import Stored
from nullspace_cli.engine.data.tables import SPLITS_FILE
from nullspace_cli.engine.documents.base import parse_json, read_json
from nullspace_cli.engine.documents.datasets_folder import SavedSplits, SavedState, TableInfo
from nullspace_cli.engine.errors import DataError, first_line
from nullspace_cli.engine.files.paths import exists, is_folder
from nullspace_cli.engine.files.reading import MIB

if TYPE_CHECKING:
    import pyarrow

USUAL = ("image", "img", "jpg", "png")
"""What columns of images are called where nothing says what their bytes are."""
_FEATURES = b"huggingface"
"""The key of the schema under which `datasets` keeps its features."""
_SIGNATURES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"))
_AT_ONCE = 256 * MIB
"""Bytes of results after which rows are written: PNGs take several times the room of JPEGs."""


def saved_splits(root: Path) -> list[Path]:
    """The splits of a data set that `save_to_disk` wrote with several; empty where it is none."""
    listed = root / SPLITS_FILE
    if not exists(listed):
        return []
    found = SavedSplits.read(read_json(listed, "the splits of a saved data set", DataError), str(listed), DataError)
    return [root / name for name in found.splits]


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """pyarrow, whose errors become ours."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path} is read by pyarrow, which is not here. Run pip install 'vitnull[data]'.") from None
    try:
        yield pyarrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: it is damaged, cut off, or no table ({first_line(error)}).") from error


def require_table(path: Path) -> None:
    """See that a Parquet file is whole, as far as its end says.

    Raises:
        DataError: it is not.
    """
    with _reading(path) as arrow:
        arrow.parquet.read_metadata(path)


class TableArchive:
    """The images of a table: an `Archive`. Their names have the number of the row, from 0, and the file's own."""

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """Find the columns of images.

        Args:
            columns: those that are meant; none for the first.

        Raises:
            DataError: it cannot be read, or has no images, or none in one of these columns.
        """
        self._path = path
        with _reading(path) as arrow:
            if is_folder(path):
                parts = list(self._parts())
                self._schema, self._rows = parts[0].schema if parts else arrow.schema([]), sum(map(len, parts))
                self._compression = "snappy"
            else:
                with arrow.parquet.ParquetFile(path) as file:
                    self._schema, self._rows = file.schema_arrow, file.metadata.num_rows
                    self._compression = _compression_of(file.metadata)
            found = _image_columns(arrow, self._schema, path)
            self._columns = list(columns) or found[:1]
            for name in self._columns:
                if not _holds_files(arrow, self._schema, name):
                    raise DataError(f"{path} has no column {name} of images; it has {', '.join(self._schema.names)}.")
        if not self._columns or not self._rows:
            columns_there = ", ".join(self._schema.names) or "none"
            raise DataError(f"{path} has no images: {self._rows} rows; its columns are {columns_there}.")
        self.others = ", ".join(name for name in found if name not in self._columns)

    def __len__(self) -> int:
        return self._rows * len(self._columns)

    def images(self) -> Iterator[Stored]:
        row = -1
        for part in self._parts(self._columns):
            for cells in zip(*(part[name] for name in self._columns), strict=True):
                row += 1
                for number, cell in enumerate(cells):
                    value = cell.as_py()
                    content, path = (value["bytes"], value.get("path")) if isinstance(value, dict) else (value, None)
                    if content is not None or path:
                        yield self._stored(row, number, content, path)

    def _stored(self, row: int, number: int, content: bytes | None, path: str | None) -> Stored:
        place = str(row) if len(self._columns) == 1 else f"{row}.{number}"
        if content is None:
            content = _content_of(path)
        own = Path(path or "").name
        name = f"{place}{_ending_of(content)}" if own in ("", "..") else f"{place}/{own}"
        return Stored(row * len(self._columns) + number, name, name.removesuffix(Path(name).suffix), content)

    def _parts(self, columns: Sequence[str] | None = None) -> "Iterator[pyarrow.Table]":
        """The rows, some at a time, with these columns."""
        with _reading(self._path) as arrow:
            if not is_folder(self._path):
                with arrow.parquet.ParquetFile(self._path) as file:
                    for number in range(file.num_row_groups):
                        yield file.read_row_group(number, columns=columns)
                return
            listed = self._path / "state.json"
            state = SavedState.read(
                read_json(listed, "the state of a saved data set", DataError), str(listed), DataError
            )
            for data in state.data_files:
                with arrow.memory_map(str(self._path / data.filename)) as file:
                    for batch in arrow.ipc.open_stream(file):
                        part = arrow.Table.from_batches([batch])
                        yield part.select(columns) if columns else part

    @contextmanager
    def rewriting(self, file: Path, beside: Sequence[str]) -> Iterator["_Rewriting"]:
        import pyarrow.parquet

        further = [[f"{name}_{column}" for column in map(_column_of, beside)] for name in self._columns]
        added = {name: ending.endswith(".png") for names in further for name, ending in zip(names, beside, strict=True)}
        if there := next((name for name in added if name in self._schema.names), None):
            raise DataError(f"{self._path} has a column {there} already, and there would be two of that name.")
        schema = _with_columns(self._schema, added, self._path)
        with pyarrow.parquet.ParquetWriter(file, schema, compression=self._compression) as writer:
            rewriting = _Rewriting(self._path, self._parts(), self._columns, further, schema, writer)
            yield rewriting
            rewriting.end()


class _Rewriting:
    """
    Args:
        path: of the table that is read.
        parts: of it.
        columns: of images.
        further: the columns of what is put beside those of each one.
        schema: of the table that is written.
    """

    def __init__(
        self,
        path: Path,
        parts: "Iterator[pyarrow.Table]",
        columns: Sequence[str],
        further: Sequence[Sequence[str]],
        schema: "pyarrow.Schema",
        writer: Any,
    ) -> None:
        self._path, self._parts, self._columns, self._further = path, parts, columns, further
        self._schema, self._writer = schema, writer
        self._part: pyarrow.Table | None = None
        self._first = self._written = 0  # rows of the table: where the part begins, and those that are written
        self._row = -1  # of the last image
        self._cells: dict[str, dict[int, tuple[bytes, str]]] = {}  # files by column and row, and their names
        self._bytes = 0

    def put(self, place: int, image: Path | None, beside: Sequence[Path]) -> None:
        row, number = divmod(place, len(self._columns))
        while self._part is None or row >= self._first + len(self._part):
            if not self._go_on():
                raise DataError(f"{self._path} has become shorter meanwhile.")
        if self._bytes > _AT_ONCE and row > self._row:
            self._write(row)
        self._row = row
        replaced = [] if image is None else [(self._columns[number], image)]
        for column, file in [*replaced, *zip(self._further[number], beside, strict=False)]:
            content = file.read_bytes()
            self._cells.setdefault(column, {})[row] = content, file.name
            self._bytes += len(content)

    def end(self) -> None:
        """Write what is left."""
        while self._go_on():
            pass

    def _go_on(self) -> bool:
        """To the next part; whether there is one."""
        if self._part is not None:
            end = self._first + len(self._part)
            self._write(end)
            self._first = end
        self._part = next(self._parts, None)
        return self._part is not None

    def _write(self, stop: int) -> None:
        """The rows of the part up to this one, as far as they are not written yet."""
        import pyarrow

        if self._part is None or stop == self._written:
            return
        part = self._part.slice(self._written - self._first, stop - self._written)
        columns = [
            self._with_files(pyarrow, part, field)
            if field.name in self._cells
            else part[field.name]
            if field.name in part.column_names
            else pyarrow.nulls(len(part), field.type)
            for field in self._schema
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema), row_group_size=len(part))
        self._written, self._cells, self._bytes = stop, {}, 0

    def _with_files(self, arrow: Any, part: "pyarrow.Table", field: Any) -> Any:
        """A column of some rows with files where there are new ones, in structs where it has these."""
        values = part[field.name].to_pylist() if field.name in part.column_names else [None] * len(part)
        for row, (content, name) in self._cells[field.name].items():
            before = values[row - self._written]
            if not arrow.types.is_struct(field.type):
                values[row - self._written] = content
            elif before is None:
                values[row - self._written] = {"bytes": content, "path": name}
            else:
                path = before.get("path") and str(Path(before["path"]).with_name(name))
                values[row - self._written] = {**before, "bytes": content, "path": path}
        return arrow.array(values, field.type)


def _column_of(ending: str) -> str:
    """What a column is called behind the name of that of the images: gradient, of .gradient.png."""
    return ending.removesuffix(".png").replace(".", "_")


def _ending_of(content: bytes) -> str:
    """The ending of a file's name by what it holds; none where that is unknown."""
    if content[8:12] == b"WEBP":
        return ".webp"
    return next((ending for start, ending in _SIGNATURES if content.startswith(start)), "")


def _content_of(path: str | None) -> bytes:
    """An image that a row only names; empty, which is refused as such, where there is no file of that name."""
    try:
        return Path(path or "").read_bytes()
    except OSError:
        return b""


def _compression_of(metadata: Any) -> str:
    """As of the first column that a Parquet file has."""
    if not metadata.num_row_groups or not metadata.num_columns:
        return "snappy"
    name = metadata.row_group(0).column(0).compression.lower()
    return {"uncompressed": "none"}.get(name, name if name in ("gzip", "brotli", "zstd", "lz4") else "snappy")


def _told(schema: "pyarrow.Schema", path: Path) -> Any:
    """What `datasets` says in a schema; nothing where it did not write it."""
    return parse_json((schema.metadata or {}).get(_FEATURES, b"{}"), f"the schema of {path}", "an object", DataError)


def _features(schema: "pyarrow.Schema", path: Path) -> dict[str, Any]:
    """What `datasets` knows of the columns, by their names."""
    info = TableInfo.read(_told(schema, path), f"the schema of {path}", DataError).info
    return dict((info and info.features) or {})


def _image_columns(arrow: Any, schema: "pyarrow.Schema", path: Path) -> list[str]:
    images = [name for name, feature in _features(schema, path).items() if _type_of(feature) == "Image"]
    return [name for name in images or USUAL if _holds_files(arrow, schema, name)]


def _type_of(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _holds_files(arrow: Any, schema: "pyarrow.Schema", name: str) -> bool:
    """Whether a column holds bytes, by themselves or in a struct, with the name of their file beside them."""
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    if arrow.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        if index < 0:
            return False
        kind = kind.field(index).type
    return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)


def _with_columns(schema: "pyarrow.Schema", further: Mapping[str, bool], path: Path) -> "pyarrow.Schema":
    """The schema with further columns, of pictures or of other files, of which `datasets` is told, too."""
    import pyarrow

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = _features(schema, path)
    for name, is_picture in further.items():
        schema = schema.append(pyarrow.field(name, image if is_picture else pyarrow.binary()))
        features[name] = {"_type": "Image"} if is_picture else {"dtype": "binary", "_type": "Value"}
    if not further or _FEATURES not in (schema.metadata or {}):
        return schema
    told = _told(schema, path)
    told["info"] = {**(told.get("info") or {}), "features": features}
    return schema.with_metadata({**schema.metadata, _FEATURES: json.dumps(told).encode()})
