"""The provenance that our safetensors files carry, and the tensors that belong to it: by kind, from its parameters."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from nullspace_cli.engine.documents.base import Count, Document, Natural, NonNegative, Positive, Sha256, Share, may_lack
from nullspace_cli.engine.documents.shared import DataConfig, Level, NoiseRecord, NullityProof, Pixels, Plan, same


class Wanted(NamedTuple):
    """What a tensor of a file has to be.

    Attributes:
        dtypes: safetensors' names of those that it may have.
        shape: sizes; those that only the file knows by names, which stand for one size throughout the file.
        group: of the tensors that the file may lack, all of one group together; None where it may not.
    """

    dtypes: tuple[str, ...]
    shape: tuple[int | str, ...]
    group: str | None = None


Table = Mapping[str, Wanted]
F32, F64 = ("F32",), ("F64",)
FLOAT = F32 + F64


class Artefact(Document):
    """Where an artefact comes from."""

    model: str
    seed: int | None
    parents: dict[str, Sha256]

    def tensors(self) -> Table:
        """The tensors that such a file holds; further ones are passed over."""
        raise NotImplementedError


# vitnull basis


class BasisParameters(Document):
    rtol: Share
    near: bool = may_lack("whether some of it is null by the rtol alone; of files that were written since it is said")
    per_channel: bool
    compact: bool
    std: Annotated[list[Positive], Field(min_length=1)]


class BasisArtefact(Artefact):
    """A nullspace: `row_space` and, unless compact, `basis`, orthonormal; `singular_values`."""

    schema_: Literal["vitnull/basis/1"] = Field(alias="schema")
    kind: Literal["basis"]
    space: Pixels
    weights_sha256: Sha256
    parameters: BasisParameters

    def tensors(self) -> Table:
        channels = len(self.parameters.std)
        values = (channels, "values") if self.parameters.per_channel else ("values",)
        table = {
            "row_space": Wanted(F64, ("rank", channels, "height", "width")),
            "singular_values": Wanted(F64, values),
            "basis": Wanted(F64, ("nullity", channels, "height", "width")),
        }
        if self.parameters.compact:
            del table["basis"]
        return table


class LaidBranch(Document):
    """How a kernel lies on the image."""

    stride: Annotated[list[Natural], Field(min_length=2, max_length=2)]
    padding: Annotated[list[int], Field(min_length=4, max_length=4, description="top, bottom, left, right")]
    resized: Annotated[list[Natural], Field(min_length=2, max_length=2)] | None = Field(
        description="height and width of what is read, where the image is resized first"
    )


class ImageMapParameters(Document):
    rtol: Share
    std: Annotated[list[Positive], Field(min_length=1)]
    input_size: Annotated[list[Natural], Field(min_length=3, max_length=3)]
    branches: Annotated[list[LaidBranch], Field(min_length=1)]
    layers: list[str]
    sigma_max: NonNegative


class StemBasisParameters(ImageMapParameters):
    outputs: Natural
    rank: Count
    nullity_proof: NullityProof


class ImageMapArtefact(Artefact):
    """A map of whole images: of each branch k `k.kernel`, and `k.rows` and `k.cols` of its resize."""

    space: Pixels
    weights_sha256: Sha256
    parameters: ImageMapParameters

    @model_validator(mode="after")
    def _std_belongs_to_it(self) -> Self:
        about = self.parameters
        if len(about.std) != about.input_size[0]:
            raise ValueError(f"parameters.std has {len(about.std)} numbers; expected one for each channel")
        return self

    def tensors(self) -> Table:
        channels, *size = self.parameters.input_size
        table = {}
        for k, branch in enumerate(self.parameters.branches):
            table[f"{k}.kernel"] = Wanted(F64, (f"kernels of {k}", channels, f"rows of {k}", f"columns of {k}"))
            for name, resized, side in zip(("rows", "cols"), branch.resized or (), size, strict=False):
                table[f"{k}.{name}"] = Wanted(F64, (resized, side))
        return table


class StemBasisArtefact(ImageMapArtefact):
    """A nullspace of whole images: a map that has it, of each branch k `k.kernel`, and `k.rows` and `k.cols`."""

    schema_: Literal["vitnull/stem_basis/1"] = Field(alias="schema")
    kind: Literal["stem_basis"]
    parameters: StemBasisParameters

    @model_validator(mode="after")
    def _rank_belongs_to_it(self) -> Self:
        if self.parameters.rank > prod(self.parameters.input_size):
            raise ValueError(f"parameters.rank is {self.parameters.rank}, more than an image has numbers")
        return self


class NearBasisArtefact(ImageMapArtefact):
    """A near nullspace of whole images: the first layers' own map, of which `rtol` of `sigma_max` is read at most."""

    schema_: Literal["vitnull/near_basis/1"] = Field(alias="schema")
    kind: Literal["near_basis"]


# vitnull learn-noise


class NoiseParameters(Document):
    level: Level
    std: Annotated[list[Positive], Field(min_length=1)]
    input_size: Annotated[list[Natural], Field(min_length=3, max_length=3)]
    limit: Positive
    plan: Plan
    record: NoiseRecord


class NoiseArtefact(Artefact):
    """A noise that was learned: `noise`, the `init` that it started from, and `losses`, one a step."""

    schema_: Literal["vitnull/noise/1"] = Field(alias="schema")
    kind: Literal["noise"]
    space: Literal["tokens", "normalized"]
    weights_sha256: Sha256
    parameters: NoiseParameters

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        about = self.parameters
        if (about.level == "input") != (self.space == "normalized"):
            raise ValueError(f"noise at {about.level} level is not of the space {self.space}")
        if about.level != about.plan.level:
            raise ValueError(f"parameters.level is {about.level}; expected its plan's, {about.plan.level}")
        if len(about.std) != about.input_size[0]:
            raise ValueError(f"parameters.std has {len(about.std)} numbers; expected one for each channel")
        if not (same(about.limit, about.record.limit) and any(same(about.limit, limit) for limit in about.plan.limits)):
            raise ValueError(f"parameters.limit is {about.limit:g}, which its plan or its record does not have")
        return self

    def tensors(self) -> Table:
        about = self.parameters
        noise = Wanted(F32, (1, *about.input_size) if about.level == "input" else (1, "tokens", "width"))
        return {"noise": noise, "init": noise, "losses": Wanted(F64, (about.record.steps,))}


class LearningParameters(Document):
    plan: Plan
    done: Count
    stopped: list[bool]
    probability_change: list[NonNegative]


class LearningArtefact(Artefact):
    """A run that was interrupted: of each limit i `i.noise`, `i.losses` and `i.optimizer.*`."""

    schema_: Literal["vitnull/learning/1"] = Field(alias="schema")
    kind: Literal["learning"]
    space: Literal["state"]
    weights_sha256: Sha256
    parameters: LearningParameters

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        about, count = self.parameters, len(self.parameters.plan.limits)
        steps = about.plan.rounds * -(-about.plan.images // about.plan.step_images)
        if about.done > steps:
            raise ValueError(f"parameters.done is {about.done}; the plan has {steps} steps")
        for name, values in (("stopped", about.stopped), ("probability_change", about.probability_change)):
            if len(values) != count:
                raise ValueError(f"parameters.{name} has {len(values)} values; expected one for each of {count} limits")
        return self

    def tensors(self) -> Table:
        plan = self.parameters.plan
        shape: tuple[int | str, ...] = (1, "tokens", "width")
        if plan.level == "input":
            shape = (1, *plan.data_config.input_size)
        names: dict[str, tuple[int | str, ...]] = {
            "adamw": {"step": (), "exp_avg": shape, "exp_avg_sq": shape},
            "sgd": {},
            "paper-accum": {"momentum_buffer": shape},
        }[plan.protocol]
        table: dict[str, Wanted] = {}
        for i in range(len(plan.limits)):
            table[f"{i}.noise"] = Wanted(F32, shape)
            table[f"{i}.losses"] = Wanted(F64, (f"losses of {i}",))
            # Before its first step an optimiser has no state.
            table |= {f"{i}.optimizer.{name}": Wanted(F32, size, f"optimizer {i}") for name, size in names.items()}
        return table


# vitnull claim


class ClaimParameters(Document):
    digest: Sha256 = Field(description="of all that the claim binds, to publish and to have timestamped")
    embedding_sha256: Sha256
    data_config: DataConfig
    rtol: Share
    pairs: Annotated[int, Field(ge=2)]
    revealed: bool


class ClaimArtefact(Artefact):
    """A claim to a network; revealed, also the `weight` of its first layer, for whoever is to judge."""

    schema_: Literal["vitnull/claim/1"] = Field(alias="schema")
    kind: Literal["claim"]
    space: Literal["normalized"]
    seed: int
    weights_sha256: Sha256
    parameters: ClaimParameters

    def tensors(self) -> Table:
        channels = self.parameters.data_config.input_size[0]
        weight = Wanted(FLOAT, ("width", channels, "patch height", "patch width"))
        return {"weight": weight} if self.parameters.revealed else {}


class ProbesParameters(Document):
    digest: Sha256
    source: str = Field(description="the image that is shown")
    names: list[str] = Field(description="of the probes, in the order of `images`")


class ProbesArtefact(Artefact):
    """Probes of one image: `images`, [count, c, H, W] in [0, 1], before rounding."""

    schema_: Literal["vitnull/probes/1"] = Field(alias="schema")
    kind: Literal["probes"]
    space: Literal["pixel"]
    weights_sha256: Sha256
    parameters: ProbesParameters

    def tensors(self) -> Table:
        return {"images": Wanted(F32, (len(self.parameters.names), "channels", "height", "width"))}


# Files that are written for others to read


class WatermarkParameters(Document):
    norm: Literal[1, 2]
    nullspace: Literal["resize", "patch", "affine"]
    fit: str
    position: str
    scale: Positive
    opacity: NonNegative
    margin: NonNegative = may_lack("space at the edges, as a share of the shorter side; of files of earlier versions")
    treatment: str | None
    strength: NonNegative | None


class WatermarkArtefact(Artefact):
    """`vitnull watermark --float`: `image`, `source` and `target`, [3, H, W] in [0, 1] before rounding."""

    schema_: Literal["vitnull/watermark/1"] = Field(alias="schema")
    kind: Literal["watermark"]
    space: Literal["pixel"]
    weights_sha256: Sha256 | None
    parameters: WatermarkParameters

    def tensors(self) -> Table:
        return dict.fromkeys(("image", "source", "target"), Wanted(FLOAT, (3, "height", "width")))


class FooledParameters(Document):
    size: Literal["model", "native"]
    channels: Literal["red", "all"]
    bounded: bool
    norm: Literal[1, 2]
    strength: NonNegative
    nullspace: Literal["resize", "patch", "affine"]
    rounding: Literal["aware", "nearest"] | None


class FooledArtefact(Artefact):
    """`vitnull fool`: `image`, `noise`, `source` and `target`, [3, H, W] in [0, 1] before rounding."""

    schema_: Literal["vitnull/fooled/1"] = Field(alias="schema")
    kind: Literal["fooled"]
    space: Literal["pixel"]
    weights_sha256: Sha256
    parameters: FooledParameters

    def tensors(self) -> Table:
        return dict.fromkeys(("image", "noise", "source", "target"), Wanted(FLOAT, (3, "height", "width")))


class SaliencyParameters(Document):
    source: str
    class_: Count | None = Field(alias="class")
    methods: list[str]


class SaliencyArtefact(Artefact):
    """`vitnull explain`: a map of each method, on its own grid."""

    schema_: Literal["vitnull/saliency/1"] = Field(alias="schema")
    kind: Literal["saliency"]
    space: Literal["normalized"]
    weights_sha256: Sha256
    parameters: SaliencyParameters

    def tensors(self) -> Table:
        return {name: Wanted(FLOAT, (f"rows of {name}", f"columns of {name}")) for name in self.parameters.methods}


BASIS, STEM_BASIS, NEAR_BASIS, NOISE, LEARNING = "basis", "stem_basis", "near_basis", "noise", "learning"
WATERMARK, FOOLED, SALIENCY = "watermark", "fooled", "saliency"
CLAIM, PROBES = "claim", "probes"
ARTEFACTS: Mapping[str, type[Artefact]] = {
    BASIS: BasisArtefact,
    STEM_BASIS: StemBasisArtefact,
    NEAR_BASIS: NearBasisArtefact,
    NOISE: NoiseArtefact,
    LEARNING: LearningArtefact,
    WATERMARK: WatermarkArtefact,
    FOOLED: FooledArtefact,
    SALIENCY: SaliencyArtefact,
    CLAIM: ClaimArtefact,
    PROBES: ProbesArtefact,
}
"""By kind."""
