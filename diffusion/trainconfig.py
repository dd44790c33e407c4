"""How a network is trained; apart, since the command's `--help` shall not wait for JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        steps: of Adam.
        batch: images per step.
        learning_rate: after `warmup` steps; it falls to 0 along a cosine.
        warmup: steps in which it rises.
        average: decay of the averaged parameters, which are what is handed over.
        clip: of the gradient's global norm.
        log_sigma: mean and standard deviation of the logarithm of the noise level.
        without_label: share of the labels that are withheld, so that there is guidance.
        mirror: show half of the images mirrored.
    """

    steps: int = 4000
    batch: int = 256
    learning_rate: float = 2e-3
    warmup: int = 0
    average: float = 0.998
    clip: float = 10.0
    log_sigma: tuple[float, float] = (-1.0, 1.4)
    without_label: float = 0.1
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 <= self.warmup < self.steps:
            raise ValueError("steps and batch must be positive, warmup below steps")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must lie in 0..1, without 1, not {self.average}")
