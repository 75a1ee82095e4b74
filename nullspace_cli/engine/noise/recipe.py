"""What is asked for when noise is to be learned; what is left open is the protocol's to say."""

from dataclasses import asdict, dataclass

from nullspace_cli.engine.noise.injection_sites import Level
from nullspace_cli.engine.noise.presets import PROTOCOLS, STEP_IMAGES, ProtocolName, chosen_images
from nullspace_cli.engine.noise.trainer import Plan
from nullspace_cli.engine.transforms.eval_transform import EvalTransform


@dataclass(frozen=True)
class Recipe:
    """How noise is learned, whatever the images.

    Attributes:
        rounds, lr, fraction: None for the protocol's.
        limits, norm, stop_eps, step_images: as of a `Plan`.
    """

    level: Level
    limits: tuple[float, ...]
    protocol: ProtocolName
    rounds: int | None = None
    lr: float | None = None
    fraction: float | None = None
    norm: float = 2.0
    stop_eps: float | None = None
    step_images: int = STEP_IMAGES

    def chosen_images(self, count: int, seed: int) -> list[int]:
        """Which of `count` images are used, in a random order."""
        return chosen_images(count, self._fraction, seed)

    def plan(self, data: str, images: int, transform: EvalTransform, seed: int) -> Plan:
        """The plan for images of the fingerprint `data`, so many of which are used, read by `transform`."""
        preset = PROTOCOLS[self.protocol]
        return Plan(
            level=self.level,
            limits=self.limits,
            protocol=self.protocol,
            rounds=preset.rounds if self.rounds is None else self.rounds,
            lr=preset.lr if self.lr is None else self.lr,
            fraction=self._fraction,
            norm=self.norm,
            stop_eps=self.stop_eps,
            step_images=self.step_images,
            seed=seed,
            data=data,
            images=images,
            data_config=asdict(transform),
        )

    @property
    def _fraction(self) -> float:
        return PROTOCOLS[self.protocol].fraction if self.fraction is None else self.fraction
