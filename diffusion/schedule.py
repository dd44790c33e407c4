"""`Schedule`: what a sampler decides at each step, to read, to change and to write down.

Every decision of the unified solver framework has a field. Points are counted from the start: the
sampler is at point i when it makes step i, and *age* a means point i - a.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from diffusion import noise as noises
from diffusion.arrays import Numeric
from diffusion.noise import NoiseSchedule
from diffusion.phi import phi

ScaleKind: TypeAlias = Literal[
    "none", "bh1", "bh2", "half_exp_plus", "half_exp_minus", "linear", "constant"
]
Corrector: TypeAlias = Literal["none", "pseudo", "implicit"]
FirstStep: TypeAlias = Literal["network", "zero", "mean", "unit"]
SCHEMA_VERSION = 1


def _known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, not {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """A factor on a derivative, 1 + O(h) unless constant; z is `update`'s, h > 0 the step.

    Attributes:
        kind: none: 1; bh1: 1 / (2 phi_2(z)); bh2: phi_1(z) / (2 phi_2(z)), UniPC's and
            DPM-Solver's midpoint; half_exp_plus and _minus: 1 +- (exp(z) - 1) / 2;
            linear: 1 + value h; constant: value.
        value: of the last two.
    """

    kind: ScaleKind = "none"
    value: float = 0.0

    def __post_init__(self) -> None:
        _known("scale", self.kind, get_args(ScaleKind))

    def factor(self, h: Numeric, z: Numeric) -> Numeric:
        """Returns the factor for a step of length h."""
        match self.kind:
            case "none":
                return 1.0
            case "linear":
                return 1 + self.value * h
            case "constant":
                return self.value
        first, second = phi(2, z)
        match self.kind:
            case "bh1":
                return 0.5 / second
            case "bh2":
                return 0.5 * first / second
            case "half_exp_plus":
                return 1 + 0.5 * z * first
            case _:
                return 1 - 0.5 * z * first


UNSCALED = Scale()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """How one derivative is estimated: from differences of the anchors to the base.

    Attributes:
        anchors: ages of the points used; the k-th derivative needs at least k.
        scale: a factor on it.
    """

    anchors: tuple[int, ...]
    scale: Scale = UNSCALED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a schedule.

    Attributes:
        data_share: what is expanded: 0 the noise prediction, 1 the data prediction, between
            them their blend; or "empirical", DPM-Solver-v3's.
        base: age of the point that the step starts from; 0 is multistep.
        estimates: of the first derivative, the second, ...; the order is one more.
        corrector: what is done once the network has been evaluated at the new point:
            nothing; "pseudo": make the step again with the new output as an anchor more
            (UniC); "implicit": and evaluate the network again there.
        corrector_scale: of the corrector's first derivative.
        tau: rate of fresh noise; 0 is the ODE.
    """

    data_share: float | Literal["empirical"] = 1.0
    base: int = 0
    estimates: tuple[Estimate, ...] = ()
    corrector: Corrector = "none"
    corrector_scale: Scale = UNSCALED
    tau: float = 0.0

    def __post_init__(self) -> None:
        _known("corrector", self.corrector, get_args(Corrector))
        for k, estimate in enumerate(self.estimates, 1):
            ages = estimate.anchors
            if len(ages) < k or len(set(ages)) < len(ages):
                raise ValueError(
                    f"derivative {k} needs {k} different anchors or more, not {ages}"
                )
            if self.base in ages:
                raise ValueError(f"anchor {self.base} is the step's own base")

    @property
    def order(self) -> int:
        """Terms of the Taylor expansion; 1 is DDIM."""
        return 1 + len(self.estimates)

    @property
    def anchors(self) -> tuple[int, ...]:
        """Ages of all anchors of all derivatives, nearest to the present first."""
        return tuple(sorted({a for e in self.estimates for a in e.anchors}))

    def ages(self) -> tuple[int, ...]:
        """Returns the ages of every point that the step uses."""
        return (self.base, *self.anchors)


def taylor(
    order: int,
    *,
    data_share: float | Literal["empirical"] = 1.0,
    scales: Sequence[Scale] = (),
    low_order: int | None = None,
    **fields: Any,
) -> Step:
    """Returns a multistep step: derivatives from the `order - 1` points before.

    Args:
        order: 1 and up.
        data_share: as in `Step`.
        scales: of the first derivative, the second, ...; what is missing is unscaled.
        low_order: how many of the anchors the first derivative uses; all by default.
        fields: others of `Step`.
    """
    ages = tuple(range(1, order))
    padded = itertools.chain(scales, itertools.repeat(UNSCALED))
    estimates = tuple(
        Estimate(anchors=ages[:low_order] if k == 1 else ages, scale=scale)
        for k, scale in zip(range(1, order), padded)
    )
    return Step(data_share=data_share, estimates=estimates, **fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A complete sampler.

    Attributes:
        noise: the noise schedule of the model.
        times: N + 1 times, from noisy to clean; sigma may be 0 at the last.
        steps: N steps.
        first: where the first network output comes from. "network"; or, saving one evaluation
            (the analytical first step), it is set to 0 ("zero"), to the mean of the data
            ("mean"), or to what data of mean 0 and variance 1 would give ("unit").
    """

    noise: NoiseSchedule
    times: tuple[float, ...]
    steps: tuple[Step, ...]
    first: FirstStep = "network"

    def __post_init__(self) -> None:
        _known("first", self.first, get_args(FirstStep))
        if not self.steps or len(self.times) != len(self.steps) + 1:
            raise ValueError(
                f"{len(self.steps)} steps need {len(self.steps) + 1} times, not {len(self.times)}"
            )
        times = np.asarray(self.times)
        if not np.all(np.isfinite(times)) or np.any(np.diff(times) >= 0):
            raise ValueError(f"times must fall strictly, not {self.times}")
        for i, step in enumerate(self.steps):
            if min(step.ages()) < 0 or max(step.ages()) > i:
                raise ValueError(
                    f"step {i} uses the points of ages {step.ages()}; there are ages 0..{i}"
                )
        if self.steps[-1].corrector != "none":
            raise ValueError("a corrector on the last step would cost an evaluation")
        if len(self.steps) == 1 and self.first != "network":
            raise ValueError("an analytical first step needs a second step")

    @property
    def evaluations(self) -> int:
        """Network evaluations: steps, less an analytical first, plus implicit correctors."""
        implicit = sum(step.corrector == "implicit" for step in self.steps)
        return len(self.steps) - (self.first != "network") + implicit

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object that `from_json` reads back."""
        return {
            "schema_version": SCHEMA_VERSION,
            "noise": self.noise.to_json(),
            "first": self.first,
            "times": list(self.times),
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }


def from_json(document: Mapping[str, Any]) -> Schedule:
    """Returns the schedule that `Schedule.to_json` wrote.

    Raises:
        ValueError: another schema, or not a valid schedule.
    """
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {document.get('schema_version')!r}; this reads {SCHEMA_VERSION}"
        )
    try:
        return Schedule(
            noise=noises.from_json(document["noise"]),
            first=document["first"],
            times=tuple(float(t) for t in document["times"]),
            steps=tuple(_step(step) for step in document["steps"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a schedule: {type(error).__name__}: {error}") from None


def _step(document: Mapping[str, Any]) -> Step:
    fields = dict(document)
    fields["estimates"] = tuple(
        Estimate(anchors=tuple(e["anchors"]), scale=Scale(**e["scale"]))
        for e in fields["estimates"]
    )
    fields["corrector_scale"] = Scale(**fields["corrector_scale"])
    return Step(**fields)
