"""The plan: everything that a search decides about how a mixture-of-experts layer talks while it computes.

A layer takes one, a search hands one over, a file holds one. What it says is about a mesh of named axes; what it
does not say (routing, experts, widths) is the layer's own.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

Exchange = Literal["all_to_all", "hierarchical", "all_gather", "ragged"]
Reduce = Literal["reduce_scatter", "ring", "all_reduce"]
ChunkAxis = Literal["capacity", "width"]

SCHEMA_VERSION = 1
_KIND = "moe.plan"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """How one direction of a layer is cut into chunks, whose exchanges overlap with other chunks' experts.

    Attributes:
        chunks: relative sizes of the chunks, in order: (1, 1, 1, 1) is four equal ones, (1, 2, 2, 1) is graded.
        ahead: how many chunks are sent before the experts of the first begin: at least 1. 1 sends a chunk just
            before its experts; as many as there are chunks sends everything first (FSMoE's order).
    """

    chunks: tuple[int, ...] = (1,)
    ahead: int = 1

    def __post_init__(self) -> None:
        if not self.chunks or min(self.chunks) < 1:
            raise ValueError(
                f"chunks are positive sizes, at least one, not {self.chunks}"
            )
        if not 1 <= self.ahead <= self.degree:
            raise ValueError(
                f"ahead must lie in 1..{self.degree}, the number of chunks, not {self.ahead}"
            )

    @property
    def degree(self) -> int:
        """The number of chunks, r."""
        return len(self.chunks)

    def sizes(self, total: int) -> tuple[int, ...]:
        """Returns the chunks' sizes in rows.

        Args:
            total: rows of all, such as slots per expert.

        Raises:
            ValueError: it can't be cut in these proportions.
        """
        unit, rest = divmod(total, sum(self.chunks))
        if rest or not unit:
            raise ValueError(
                f"{total} rows can't be cut in the proportions {self.chunks}: "
                f"no multiple of {sum(self.chunks)}"
            )
        return tuple(unit * chunk for chunk in self.chunks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The communication schedule of a mixture-of-experts layer on a mesh.

    Attributes:
        mesh: axis names and sizes, in the mesh's order.
        expert_axes: axes over which experts are spread (EP); tokens are exchanged over them.
        shard_axes: axes over which each expert's hidden width is cut (ESP). Axes in neither hold copies of the
            experts (DP). Tokens are spread over all.
        exchange: how tokens reach their experts: one all-to-all over all expert axes; one per axis, inner first
            ("hierarchical"); an all-gather of which each device keeps its own experts' rows; or a ragged
            all-to-all of the rows that are there.
        reduce: how the partial sums over shard_axes come together: a reduce-scatter, a ring of permutes (which
            the TPU compiler can overlap, and its reduce-scatter not), or an all-reduce of which each keeps a part.
        chunk_axis: what is cut into chunks: the slots of each expert, or the model's width (forward exchanges only).
        forward, backward: the pipelines of the two directions.
        gradient_share: parts of the gradients of the layers before that are reduced inside each layer's backward
            pass, layer by layer in backward order; empty where the training loop reduces them itself.
        compiler_options: for `jax.jit(..., compiler_options=...)`.
        provenance: what found the plan and what is predicted of it; says nothing to the layer.
    """

    mesh: tuple[tuple[str, int], ...]
    expert_axes: tuple[str, ...]
    shard_axes: tuple[str, ...] = ()
    exchange: Exchange = "all_to_all"
    reduce: Reduce = "reduce_scatter"
    chunk_axis: ChunkAxis = "capacity"
    forward: Pipeline = Pipeline()
    backward: Pipeline = Pipeline()
    gradient_share: tuple[float, ...] = ()
    compiler_options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, hash=False
    )
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.mesh]
        if len(set(names)) != len(names) or any(size < 1 for _, size in self.mesh):
            raise ValueError(
                f"a mesh has axes of different names and positive sizes, not {self.mesh}"
            )
        used = [*self.expert_axes, *self.shard_axes]
        if missing := [name for name in used if name not in names]:
            raise ValueError(f"no axis {missing[0]!r} in the mesh {names}")
        if len(set(used)) != len(used):
            raise ValueError(f"an axis is used twice: {used}")
        for value, kind in (
            (self.exchange, Exchange),
            (self.reduce, Reduce),
            (self.chunk_axis, ChunkAxis),
        ):
            if value not in get_args(kind):
                raise ValueError(
                    f"{value!r} is none of {', '.join(map(repr, get_args(kind)))}"
                )
        if any(share < 0 for share in self.gradient_share):
            raise ValueError("parts of gradients are not negative")

    def size(self, axes: tuple[str, ...]) -> int:
        """Returns how many devices these axes span."""
        sizes = dict(self.mesh)
        return math.prod(sizes[name] for name in axes)

    @property
    def experts_span(self) -> int:
        """EP: devices that experts are spread over."""
        return self.size(self.expert_axes)

    @property
    def shards_span(self) -> int:
        """ESP: devices that one expert is cut over."""
        return self.size(self.shard_axes)

    @property
    def data_axes(self) -> tuple[str, ...]:
        """Axes that hold copies of the experts."""
        used = {*self.expert_axes, *self.shard_axes}
        return tuple(name for name, _ in self.mesh if name not in used)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as a JSON object."""
        fields = dataclasses.asdict(self)
        return {"schema_version": SCHEMA_VERSION, "kind": _KIND, **fields}


def from_json(document: Any) -> Plan:
    """Returns the plan that `Plan.to_json` wrote.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if not isinstance(document, Mapping) or document.get("kind") != _KIND:
        raise ValueError(f"not a plan: its kind is not {_KIND!r}")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {document.get('schema_version')!r}; this reads {SCHEMA_VERSION}"
        )
    fields = {k: v for k, v in document.items() if k not in ("schema_version", "kind")}
    try:
        for name in ("forward", "backward"):
            given = fields.get(name, {})
            fields[name] = Pipeline(
                **{**given, "chunks": tuple(given.get("chunks", (1,)))}
            )
        fields["mesh"] = tuple((str(name), int(size)) for name, size in fields["mesh"])
        for name in ("expert_axes", "shard_axes", "gradient_share"):
            fields[name] = tuple(fields.get(name, ()))
        return Plan(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {type(error).__name__}: {error}") from None
    except ValueError as error:
        raise ValueError(f"not a plan: {error}") from None


def read(path: Path | str) -> Plan:
    """Returns the plan in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no plan.
    """
    try:
        return from_json(json.loads(Path(path).read_text()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
