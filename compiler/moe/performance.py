"""What a task costs: a start-up and a slope for GEMMs and each collective.

    t(n, r) = startup + (n / r) · slope                                     (FSMoE, arXiv 2501.10714, section 4)

for one of r equal chunks of a task of volume n. A `PerformanceModel` holds the lines of one machine and says their
units. Three sources: the two published test beds, TPU generations after the compiler's own collective costs, and
`compiler.moe.profiler`, which measures.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal[
    "gemm", "all_to_all", "all_gather", "reduce_scatter", "all_reduce", "permute"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

SCHEMA_VERSION = 1
_KIND = "moe.performance"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """Time of a task over its volume.

    Attributes:
        startup: α, time of an empty task.
        slope: β, time per unit of volume.
        r2: share of the measurements' variance that the line explains; None if nothing was measured.
    """

    startup: float
    slope: float
    r2: float | None = None

    def __call__(self, volume: float, chunks: int = 1) -> float:
        """Returns the time of one of `chunks` equal parts of a volume."""
        return self.startup + volume / chunks * self.slope


def fit(volumes: Sequence[float], times: Sequence[float]) -> Line:
    """Returns the least-squares line through measurements.

    Raises:
        ValueError: fewer than two different volumes, or columns of different lengths.
    """
    x, y = np.asarray(volumes, float), np.asarray(times, float)
    if x.shape != y.shape or x.ndim != 1 or np.unique(x).size < 2:
        raise ValueError(
            f"a line needs two different volumes and a time for each, not {x.size} volumes and {y.size} times"
        )
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    startup = float(y.mean() - slope * x.mean())
    spread = float(np.sum((y - y.mean()) ** 2))
    missed = float(np.sum((y - startup - slope * x) ** 2))
    return Line(
        startup=startup, slope=slope, r2=1.0 if spread == 0 else 1 - missed / spread
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerformanceModel:
    """The lines of a machine.

    Attributes:
        name: of the machine.
        time_unit: of start-ups and slopes: "ms" or "cycles".
        gemm_unit: of a GEMM's volume: "multiply-adds" or "flops" (two per multiply-add).
        message_unit: of a message: "elements" or "MiB".
        lines: by kind of task; not every machine has all.
        provenance: versions, group sizes, remarks.
    """

    name: str
    time_unit: str
    gemm_unit: str
    message_unit: str
    lines: Mapping[Kind, Line]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.lines if kind not in KINDS]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(KINDS)}")

    def __getitem__(self, kind: Kind) -> Line:
        """Returns the line of a kind.

        Raises:
            ValueError: this machine has none.
        """
        try:
            return self.lines[kind]
        except KeyError:
            raise ValueError(
                f"{self.name} has no line for {kind}; it has {', '.join(self.lines)}"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Returns the model as a JSON object."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": _KIND,
            **dataclasses.asdict(self),
        }


def from_json(document: Any) -> PerformanceModel:
    """Returns the model that `PerformanceModel.to_json` wrote.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if not isinstance(document, Mapping) or document.get("kind") != _KIND:
        raise ValueError(f"not a performance model: its kind is not {_KIND!r}")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {document.get('schema_version')!r}; this reads {SCHEMA_VERSION}"
        )
    fields = {k: v for k, v in document.items() if k not in ("schema_version", "kind")}
    try:
        fields["lines"] = {
            kind: Line(**line) for kind, line in dict(fields["lines"]).items()
        }
        return PerformanceModel(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"not a performance model: {type(error).__name__}: {error}"
        ) from None


def read(path: Path | str) -> PerformanceModel:
    """Returns the model in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no model.
    """
    try:
        return from_json(json.loads(Path(path).read_text()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _published(
    name: str, remark: str, **lines: tuple[float, float]
) -> PerformanceModel:
    return PerformanceModel(
        name=name,
        time_unit="ms",
        gemm_unit="multiply-adds",
        message_unit="elements",
        lines={k: Line(startup=a, slope=b) for k, (a, b) in lines.items()},  # type: ignore[misc]
        provenance={"source": "arXiv 2501.10714", "remark": remark},
    )


# 48 RTX A6000, eight to a node. Two slopes are printed a power of ten too high (2.32e-6, 4.95e-6): on B
# gathering costs what scattering does and all-reduce twice the all-to-all, and with 4.95e-7 the paper's own measured
# all-reduces (5.26 and 26.45 ms, table 2) come out; so the exponents are corrected here.
TESTBED_A = _published(
    "testbed A",
    "exponents of all_gather and all_reduce corrected from -6 to -7",
    gemm=(4.26e-2, 2.29e-11),
    all_to_all=(2.87e-1, 2.21e-7),
    all_gather=(3.37e-1, 2.32e-7),
    reduce_scatter=(3.95e-1, 2.34e-7),
    all_reduce=(5.11e-1, 4.95e-7),
)
# 32 RTX 2080 Ti, four to a node.
TESTBED_B = _published(
    "testbed B",
    "as printed",
    gemm=(9.24e-2, 4.42e-11),
    all_to_all=(1.75e-1, 3.06e-7),
    all_gather=(3.20e-2, 1.68e-7),
    reduce_scatter=(3.91e-2, 1.67e-7),
    all_reduce=(8.37e-2, 5.99e-7),
)
