"""Broken files, made from good ones: the same on every run, some hundred of each kind.

A case is a name and something that makes a file (or a folder, or a pipe). `refused` says that nobody may take it for
what it was; other cases may happen to be harmless, and then have to be as good as whole.
"""

import copy
import json
import os
import random
import socket
import struct
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.made import contents_of, write_unchecked

if TYPE_CHECKING:
    from torch import Tensor

DEEP = 100_000
WRITES_COMPLEX = tuple(map(int, version("safetensors").split(".")[:2])) >= (0, 7)  # others refuse to read them


@dataclass(frozen=True)
class Case:
    """One way to break a file.

    Attributes:
        make: writes it to a path.
        refused: whether it has to be refused, whoever reads it.
    """

    name: str
    make: Callable[[Path], object]
    refused: bool = True


def of_bytes(name: str, data: bytes, *, refused: bool = True) -> Case:
    return Case(name, lambda path: path.write_bytes(data), refused)


# Whatever the file should be


def irregular() -> Iterator[Case]:
    """What is no file, or none that ends."""

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            folder = os.open(path.parent, os.O_RDONLY)
            try:  # the names of sockets are short
                server.bind(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)

    yield Case("missing", lambda path: None)
    yield Case("folder", Path.mkdir)
    yield Case("pipe", os.mkfifo)
    yield Case("socket", bind)
    yield Case("endless", lambda path: path.symlink_to("/dev/zero"))
    yield Case("nothing", lambda path: path.symlink_to("/dev/null"))
    yield Case("dangling", lambda path: path.symlink_to("nowhere"))
    yield Case("loop", lambda path: path.symlink_to(path.name))


def rubbish() -> Iterator[Case]:
    yield of_bytes("empty", b"")
    yield of_bytes("byte", b"\0")
    yield of_bytes("zeros", bytes(4096))
    yield of_bytes("text", b"not at all\n" * 50)
    yield of_bytes("random", random.Random(0).randbytes(5000))  # noqa: S311 - nothing secret
    yield of_bytes("png", b"\x89PNG\r\n\x1a\n" + bytes(500))
    yield of_bytes("xml", b"<?xml version='1.0'?><a/>")


def flipped(good: bytes, count: int, seed: int, start: int = 0, stop: int | None = None) -> Iterator[Case]:
    """Single bytes changed at random, and files cut off at random."""
    draw = random.Random(seed)  # noqa: S311
    for i in range(count):
        where = draw.randrange(start, stop or len(good))
        data = bytearray(good)
        data[where] ^= draw.randrange(1, 256)
        yield of_bytes(f"flip {where}", bytes(data), refused=False)
        if i % 4 == 0:
            yield of_bytes(f"cut {where}", good[:where])


# JSON


VALUES: tuple[Any, ...] = (
    None, True, "text", "", -1, 0, 0.5, 3, 1e308, 10**30, [], {}, [[]], [None], {"a": None}, ["a", 1], "\ud800",
)  # fmt: skip
"""What is put in the place of each value of a document."""


def texts(expected: str) -> Iterator[tuple[str, str]]:
    """Texts in place of a JSON document."""
    yield from (
        ("null", "null"), ("number", "3"), ("list", "[]"), ("true", "true"), ("string", '"text"'), ("empty", ""),
        ("object", "{}"), ("open", "{"), ("trailing", "{} {}"), ("comma", '{"a": 1,}'), ("nan", '{"schema": NaN}'),
        ("infinity", '{"schema": -Infinity}'), ("huge", '{"schema": 1e999}'),
        ("digits", '{"schema": ' + "9" * 9000 + "}"),
        ("twice", f'{{"schema": "{expected}", "schema": "{expected}"}}'),
        ("deep lists", "[" * DEEP), ("deep closed lists", "[" * DEEP + "]" * DEEP),
        ("deep objects", '{"a":' * DEEP + "1" + "}" * DEEP), ("deepish", "[" * 500 + "]" * 500),
    )  # fmt: skip


def mutations(document: Any) -> Iterator[tuple[str, Any]]:
    """A document with each key taken away, and with each value replaced by each of VALUES."""
    for place in _places(document):
        name = ".".join(map(str, place))
        changed = copy.deepcopy(document)
        holder = _at(changed, place[:-1])
        del holder[place[-1]]
        yield f"without {name}", changed
        for value in VALUES:
            changed = copy.deepcopy(document)
            _at(changed, place[:-1])[place[-1]] = value
            if changed != document:
                yield f"{name} = {json.dumps(value)[:30]}", changed


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of all values within a document; of a list the first entry alone."""
    keys = list(value) if isinstance(value, dict) else [0][: len(value)] if isinstance(value, list) else []
    for key in keys:
        yield (*place, key)
        yield from _places(value[key], (*place, key))


def _at(document: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def documents(good: Path) -> Iterator[Case]:
    """A JSON document of ours in many broken forms."""
    document = json.loads(good.read_text())
    for name, text in texts(document.get("schema", "")):
        yield of_bytes(f"text {name}", text.encode())
    yield of_bytes("not utf-8", b'{"schema": "\xff\xfe"}')
    yield of_bytes("utf-16", json.dumps(document).encode("utf-16"))
    must = {
        f"without {name}" for name in ("schema", "model", "results", "results.0.noise_model", "results.0.match_percent")
    }
    for name, changed in mutations(document):
        yield of_bytes(name, json.dumps(changed).encode(), refused=name in must)
    yield from flipped(good.read_bytes(), 60, 1)


# safetensors


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of that layout, with whatever header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def headers(about: str = "{}") -> Iterator[Case]:
    """Files that begin as safetensors do, and go on otherwise."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    metadata = {"__metadata__": {"vitnull": about}}
    for name, header, data in (
        ("no tensors", {}, b""),
        ("null", None, b""), ("list", [], b""), ("deep", b"[" * DEEP, b""), ("deep objects", b'{"a":' * DEEP, b""),
        ("not json", b"{", b""), ("not utf-8", b'{"\xff": 1}', b""),
        ("metadata null", {"__metadata__": None}, b""), ("metadata list", {"__metadata__": []}, b""),
        ("metadata numbers", {"__metadata__": {"vitnull": 3}}, b""),
        ("cut off", {**metadata, "a": entry}, b"1234"), ("trailing", {**metadata, "a": entry}, bytes(100)),
        ("overlapping", {**metadata, "a": entry, "b": {**entry, "data_offsets": [4, 12]}}, bytes(12)),
        ("gap", {**metadata, "a": entry, "b": {**entry, "data_offsets": [16, 24]}}, bytes(24)),
        ("huge shape", {**metadata, "a": {**entry, "shape": [10**9, 10**9]}}, bytes(8)),
        ("endless shape", {**metadata, "a": {**entry, "shape": [10**18] * 8}}, bytes(8)),
        ("negative shape", {**metadata, "a": {**entry, "shape": [-2]}}, bytes(8)),
        ("shape of text", {**metadata, "a": {**entry, "shape": "2"}}, bytes(8)),
        ("unknown type", {**metadata, "a": {**entry, "dtype": "F31"}}, bytes(8)),
        ("negative offsets", {**metadata, "a": {**entry, "data_offsets": [-8, 0]}}, bytes(8)),
        ("backward offsets", {**metadata, "a": {**entry, "data_offsets": [8, 0]}}, bytes(8)),
        ("huge offsets", {**metadata, "a": {**entry, "data_offsets": [0, 2**62]}}, bytes(8)),
    ):  # fmt: skip
        yield of_bytes(f"header {name}", raw(header, data))
    for length in (0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1):
        yield of_bytes(f"header of {length}", raw(b"{}", b"", length))

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", 2**33))
            file.truncate(2**34)

    yield Case("header of 8 GiB", sparse)


MAY_LACK = ("without parents.", "without parameters.plan.data_config.", "without parameters.near")
"""What older artefacts do not say."""


def artefacts(good: Path, read: Collection[str]) -> Iterator[Case]:
    """An artefact of ours in many broken forms.

    Args:
        read: the tensors whose values are looked at; of others the type and the shape are.
    """
    tensors, about = contents_of(good)
    yield from headers(json.dumps(about))
    for name, text in texts(about["schema"]):
        yield Case(f"provenance {name}", partial(write_unchecked, tensors=tensors, provenance=text))
    for name, changed in mutations(about):
        yield Case(
            f"provenance {name}",
            partial(write_unchecked, tensors=tensors, provenance=changed),
            refused=name.startswith("without") and not name.startswith(MAY_LACK),
        )
    for name, made in broken_tensors(tensors):
        of_values = " with " in name or " twice" in name
        refused = "harmless" not in name and (not of_values or any(f"tensor {one} " in name for one in read))
        yield Case(name, partial(write_unchecked, tensors=made, provenance=about), refused)
    yield from flipped(good.read_bytes(), 40, 2, stop=min(3000, good.stat().st_size))
    yield from flipped(good.read_bytes(), 20, 3)


def broken_tensors(tensors: Mapping[str, "Tensor"]) -> Iterator[tuple[str, dict[str, "Tensor"]]]:
    """Each tensor missing, of other types and shapes, and with values that are none."""
    import torch

    for name, tensor in tensors.items():
        others = {other: value for other, value in tensors.items() if other != name}
        yield f"tensor {name} missing", others
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool):
            if dtype != tensor.dtype:
                yield f"tensor {name} as {dtype}", {**others, name: tensor.to(dtype)}
        if WRITES_COMPLEX:
            yield f"tensor {name} as complex", {**others, name: tensor.to(torch.complex64)}
        yield f"tensor {name} wrapped", {**others, name: tensor[None].clone()}
        yield f"tensor {name} flat", {**others, name: torch.cat([tensor.flatten(), tensor.flatten()[:1]])}
        if tensor.ndim:
            yield f"tensor {name} empty", {**others, name: tensor[:0].clone()}
            yield f"tensor {name} twice", {**others, name: torch.cat([tensor, tensor])}
        if tensor.is_floating_point() and tensor.numel():
            for value in (float("nan"), float("inf"), -float("inf")):
                broken = tensor.clone()
                broken.view(-1)[-1] = value
                yield f"tensor {name} with {value}", {**others, name: broken}
    yield "harmless further tensor", {**tensors, "further": torch.zeros(3)}


def broken_bases(good: Path) -> Iterator[Case]:
    """Bases that are well formed and not true. Whoever took one would change what the network sees."""
    import torch

    tensors, about = contents_of(good)
    rows, basis = tensors["row_space"], tensors["basis"]
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(rows[0].numel(), len(rows), generator=generator, dtype=rows.dtype)).Q.mT
    for name, changes in (
        ("row space scaled", {"row_space": rows * 1.01}),
        ("row space zero", {"row_space": rows * 0}),
        ("row scaled", {"row_space": torch.cat([rows[:1] * 1.001, rows[1:]])}),
        ("row twice", {"row_space": torch.cat([rows[:1], rows[:1], rows[2:]])}),
        ("rows incomplete", {"row_space": rows[1:].clone()}),
        ("rows too many", {"row_space": torch.cat([rows, basis[:1]])}),
        ("row moved to the basis", {"row_space": rows[1:].clone(), "basis": torch.cat([basis, rows[:1]])}),
        ("all rows", {"row_space": torch.cat([rows, basis])}),
        ("another row space", {"row_space": turned.reshape(rows.shape)}),
        ("another patch", {k: tensors[k].flatten(2)[..., None].clone() for k in ("row_space", "basis")}),
    ):  # fmt: skip
        yield Case(name, partial(write_unchecked, tensors={**tensors, **changes}, provenance=about))
    # And with singular values that bear it out.
    for name, changes in (
        ("rows incomplete, values too", {"row_space": rows[1:].clone(), "basis": torch.cat([basis, rows[:1]])}),
        ("another row space, whole", {"row_space": turned.reshape(rows.shape), "basis": _complement(turned, basis)}),
    ):
        values = torch.ones(len(changes["row_space"]), dtype=torch.float64)
        made = {**tensors, **changes, "singular_values": values}
        yield Case(name, partial(write_unchecked, tensors=made, provenance=about))


def broken_noises(good: Path) -> Iterator[Case]:
    """Noises that are well formed, and not what was learned."""
    tensors, about = contents_of(good)
    for name in ("noise", "init", "losses"):
        for what, made in (("scaled", tensors[name] * 1.001), ("zero", tensors[name] * 0)):
            changed = {**tensors, name: made}
            yield Case(f"{name} {what}", partial(write_unchecked, tensors=changed, provenance=about))


def _complement(rows: "Tensor", like: "Tensor") -> "Tensor":
    import torch

    whole = torch.linalg.qr(rows.mT, mode="complete").Q
    return whole[:, len(rows) :].mT.reshape(like.shape).contiguous()


# Weights


def weights(good: Mapping[str, "Tensor"]) -> Iterator[Case]:
    """Weights files as .safetensors and .pth; the ending is in the case's name."""
    import torch
    from safetensors.torch import save_file

    def both(name: str, state: Any, *, refused: bool = True) -> Iterator[Case]:
        yield Case(f"{name}.pth", lambda path: torch.save(state, path), refused)
        if (
            isinstance(state, dict)
            and all(isinstance(key, str) for key in state)
            and all(
                isinstance(v, torch.Tensor)
                and v.layout == torch.strided
                and not v.is_quantized
                and not v.is_meta
                and (WRITES_COMPLEX or not v.is_complex())
                for v in state.values()
            )
        ):
            yield Case(f"{name}.safetensors", lambda path: save_file(_own(state), path), refused)

    first = next(name for name, value in good.items() if value.ndim > 1)
    value = good[first]
    for name, broken in (
        ("nan", value.clone().fill_(float("nan"))), ("one nan", _with(value, float("nan"))),
        ("one inf", _with(value, float("inf"))), ("complex", value.to(torch.complex64)), ("int8", value.to(torch.int8)),
        ("int64", value.long()), ("bool", value.bool()), ("float8", value.to(torch.float8_e4m3fn)),
        ("too large for single", value.double().fill_(1e300)), ("empty", value[:0].clone()), ("flat", value.flatten()),
        ("scalar", torch.tensor(1.0)),
    ):  # fmt: skip
        yield from both(name, {**good, first: broken})
    yield from both("sparse", {**good, first: value.to_sparse()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will give them up
        quantised = torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)
    yield from both("quantised", {**good, first: quantised})
    yield from both("expanded", {**good, first: torch.zeros(1).expand(10**6, 10**6)})
    yield from both("meta", {**good, first: torch.empty(value.shape, device="meta")})
    yield from both("missing", {name: other for name, other in good.items() if name != first})
    yield from both("further", {**good, "further": torch.zeros(3)})
    yield from both("nested", {"state_dict": {"state_dict": good}}, refused=False)
    yield from both("list", [good])
    yield from both("number", 3)
    yield from both("none", None)
    yield from both("empty", {})
    yield from both("wrapped in a number", {"state_dict": 3})
    yield from both("numbered", {0: value})
    yield from both("texts", dict.fromkeys(good, "text"))
    yield from both("zero", {name: torch.zeros_like(other) for name, other in good.items()}, refused=False)
    yield from both("huge", {name: torch.full_like(other, 3e38) for name, other in good.items()}, refused=False)
    yield from both("large", {name: other * 1e12 for name, other in good.items()}, refused=False)
    yield from both("strange names", {**good, "\u202e\x1b[31m\n" * 100: value})
    yield from _archives(good)
    for case in headers():
        yield Case(f"{case.name}.safetensors", case.make, case.refused)
    for case in [*irregular(), *rubbish()]:
        for ending in (".safetensors", ".pth", ".npz", ".bin"):
            yield Case(f"{case.name}{ending}", case.make, case.refused)
    saved = BytesIO()
    torch.save(dict(good), saved)
    for case in flipped(saved.getvalue(), 30, 4):
        yield Case(f"{case.name}.pth", case.make, refused=False)


def _archives(good: Mapping[str, "Tensor"]) -> Iterator[Case]:
    import torch

    def repacked(compressed: bool, grown: int) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            saved = BytesIO()
            torch.save(dict(good), saved)
            kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", kind) as new:
                for entry in old.infolist():
                    new.writestr(entry.filename, old.read(entry) + bytes(grown if "/data/0" in entry.filename else 0))

        return make

    yield Case("bomb.pth", repacked(compressed=True, grown=2**27))
    yield Case("no pickle.pth", lambda path: _zip(path, {"archive/version": b"3"}))


def _zip(path: Path, entries: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def arrays(good: Mapping[str, Any]) -> Iterator[Case]:
    """Broken .npz files of JAX weights."""
    import numpy as np

    def archive(name: str, changed: Mapping[str, Any], *, refused: bool = True) -> Case:
        return Case(f"{name}.npz", lambda path: np.savez(path, **changed), refused)

    first, *_ = good
    for name in good:
        yield archive(f"without {name.replace('/', ' ')}", {k: v for k, v in good.items() if k != name})
    for name, value in (
        ("complex", good[first].astype(np.complex64)), ("int", good[first].astype(np.int64)),
        ("text", np.array(["a"])), ("bool", good[first] > 0), ("empty", good[first][:0]), ("scalar", np.float32(1)),
        ("nan", np.full_like(good[first], np.nan)), ("inf", np.full_like(good[first], np.inf)),
        ("too large for single", np.full(good[first].shape, 1e300)),
    ):  # fmt: skip
        yield archive(name, {**good, first: value})
    yield Case("objects.npz", lambda path: np.savez(path, **{**good, first: np.array([{}], dtype=object)}))
    yield archive("further", {**good, "pre_logits/bias": np.zeros(3, np.float32)}, refused=False)

    def claims(path: Path) -> None:
        file = BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
        _zip(path, {f"{first}.npy": file.getvalue()}, zipfile.ZIP_DEFLATED)

    yield Case("claims.npz", claims)
    yield Case("no arrays.npz", lambda path: _zip(path, {"a.txt": b"text"}))
    yield Case("deep header.npz", lambda path: _zip(path, {"a.npy": b"\x93NUMPY\x01\0\xff\x20" + b"(" * 0x20FF}))


def _with(value: "Tensor", number: float) -> "Tensor":
    broken = value.clone()
    broken.view(-1)[0] = number
    return broken


def _own(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Without memory that tensors share, which safetensors does not write."""
    return {
        name: value.clone().contiguous() if value.numel() < 10**7 else value[:1, :1].clone()
        for name, value in state.items()
    }


# Folders with a model


def settings(good: Mapping[str, Any]) -> Iterator[Case]:
    """Broken files of one JSON document."""
    for name, text in texts("x"):
        yield of_bytes(f"text {name}", text.encode())
    yield of_bytes("not utf-8", b'{"architecture": "\xff"}')
    for name, changed in mutations(good):
        yield of_bytes(name, json.dumps(changed).encode(), refused=False)
    yield from irregular()
    yield from rubbish()


def configs(good: Mapping[str, Any]) -> Iterator[Case]:
    """Broken config.json files of timm's."""
    yield from settings(good)
    data: tuple[tuple[str, dict[str, Any]], ...] = (
        ("huge input", {"input_size": [3, 10**9, 10**9]}), ("flat input", {"input_size": [3, 32]}),
        ("negative input", {"input_size": [3, -32, 32]}),
        ("crop of text", {"crop_pct": "0.9"}), ("crop of nothing", {"crop_pct": 1e-300}),
        ("mean of text", {"mean": "0.5"}),
        ("mean of texts", {"mean": ["0.5"] * 3}), ("two means", {"mean": [0.5, 0.5]}), ("no std", {"std": [0, 0, 0]}),
        ("unknown filter", {"interpolation": "random"}), ("unknown crop", {"crop_mode": "middle"}),
        ("classes as text", {"num_classes": "5"}), ("many classes", {"num_classes": 10**9}),
    )  # fmt: skip
    for name, changes in data:
        changed = {**good, "pretrained_cfg": {**good["pretrained_cfg"], **changes}}
        yield of_bytes(name, json.dumps(changed).encode())
    for name, value in (
        ("architecture unknown", "resnet_of_nobody"), ("architecture path", "../etc"), ("architecture list", ["vit"]),
    ):  # fmt: skip
        yield of_bytes(name, json.dumps({**good, "architecture": value}).encode())
    arguments: tuple[tuple[str, dict[str, Any]], ...] = (
        ("argument unknown", {"nonsense": 1}), ("embed_dim -1", {"embed_dim": -1}), ("depth 10^6", {"depth": 10**6}),
        ("depth 10^9", {"depth": 10**9}), ("img_size 10^9", {"img_size": 10**9}), ("img_size text", {"img_size": "x"}),
        ("patch_size 0", {"patch_size": 0}), ("num_heads 0", {"num_heads": 0}), ("embed_dim 0", {"embed_dim": 0}),
        ("in_chans 0", {"in_chans": 0}), ("features", {"features_only": True}),
    )  # fmt: skip
    for name, changes in arguments:
        yield of_bytes(name, json.dumps({**good, "model_args": {**good["model_args"], **changes}}).encode())
