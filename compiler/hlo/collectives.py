"""Collectives in a module: what they do, which devices they join, what they move."""

import functools
import itertools
import math
from typing import Literal, NamedTuple, get_args

import numpy as np

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.errors import ModuleError
from compiler.hlo.module import Node
from compiler.hlo.shapes import Shape

Kind = Literal[
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
]
Phase = Literal["whole", "start", "done"]
Groups = tuple[tuple[int, ...], ...]

_KINDS: tuple[Kind, ...] = get_args(Kind)
_OPCODES: dict[str, tuple[Kind, Phase]] = {
    **{kind: (kind, "whole") for kind in _KINDS},
    **{f"{kind}-start": (kind, "start") for kind in _KINDS},
    **{f"{kind}-done": (kind, "done") for kind in _KINDS},
}
_ASYNC_CALLS = {"AsyncCollectiveStart": "start", "AsyncCollectiveDone": "done"}
_PART = b'"async_collective_fusion_config"'  # On a collective that a fusion carries on.
_MAX_DEVICES = 1 << 20


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
        kind: what it does.
        node: the instruction, maybe inside a fusion.
        result_bytes: of its result on one device, without padding.
    """

    kind: Kind
    node: Node
    result_bytes: int


def kind_of(opcode: str) -> tuple[Kind, Phase] | None:
    """Returns which collective an opcode belongs to, and whether it starts, ends or is it; None for all others."""
    return _OPCODES.get(opcode)


def collective(node: Node) -> Collective | None:
    """Returns the collective that an instruction is or starts, None for all others."""
    found = kind_of(node.opcode)
    if found is None or found[1] == "done":
        return None
    kind, phase = found
    result = node.shape
    # Other starts give their operands back in front of the result.
    if phase == "start" and kind != "all-reduce" and len(result.elements) > 1:
        result = result.elements[1]
    return Collective(kind, node, array_bytes(result))


def inside(node: Node) -> tuple[tuple[Phase, Collective], ...]:
    """Returns the collectives that a fusion starts, waits for or is, in order.

    A fusion that only carries a started collective on, piece by piece beside a product, has none.
    """
    if node.opcode != "fusion":
        return ()
    nodes = node.called[0].nodes
    found: list[tuple[Phase, Collective]] = []
    for call in nodes:
        target = call.attributes.custom_call_target
        if call.opcode == "custom-call" and target in _ASYNC_CALLS:
            phase: Phase = "start" if _ASYNC_CALLS[target] == "start" else "done"
            moved = next(filter(None, map(collective, call.operands)), None)
            if moved is None:
                raise ModuleError(f"instruction {call.name}: {target} of no collective")
            found.append((phase, moved))
    if found:
        return tuple(found)
    for moved in filter(None, map(collective, nodes)):
        if _PART in moved.node.attributes.backend_config:
            continue
        scattered = any(n.opcode in ("slice", "dynamic-slice") for n in nodes)
        if moved.kind == "all-reduce" and scattered:  # Each keeps its part of the sum.
            moved = Collective("reduce-scatter", moved.node, array_bytes(node.shape))
        found.append(("whole", moved))
    return tuple(found)


def array_bytes(shape: Shape) -> int:
    """Returns the bytes of all arrays of a shape, without padding."""
    return sum(leaf.num_elements * leaf.element_bits // 8 for _, leaf in shape.leaves())


def groups(node: Node) -> Groups:
    """Returns the groups of devices among which a collective runs, `()` where it does not say: all are one group.

    A permute has one group for each pair of source and target.

    Raises:
        ModuleError: the groups contradict themselves.
    """
    attributes = node.attributes
    if attributes.source_target_pairs:
        return tuple((p.source, p.target) for p in attributes.source_target_pairs)
    try:
        if attributes.HasField("mesh_axes_replica_group_list"):
            return _of_mesh(attributes.mesh_axes_replica_group_list)
        if attributes.HasField("iota_collective_device_list"):
            return _of_iota(attributes.iota_collective_device_list)
    except (ValueError, IndexError) as error:
        raise ModuleError(f"instruction {node.name}: replica groups: {error}") from None
    listed = attributes.replica_groups
    if attributes.HasField("collective_device_list"):
        devices = attributes.collective_device_list
        if devices.iota_replica_group_list.num_replica_groups:
            return _of_iota(devices.iota_replica_group_list)
        listed = devices.replica_groups
    return tuple(tuple(group.replica_ids) for group in listed)


def _of_iota(message: pb.IotaReplicaGroups) -> Groups:
    count, size = message.num_replica_groups, message.num_devices_per_group
    dimensions = tuple(message.iota_reshape_dims) or (count * size,)
    order = tuple(message.iota_transpose_perm) or tuple(range(len(dimensions)))
    ids = _iota(dimensions).transpose(order).reshape(count, size)
    return tuple(map(tuple, ids.tolist()))


def _of_mesh(message: pb.MeshReplicaGroups) -> Groups:
    sizes = tuple(axis.size for axis in message.mesh.axes)
    ids = _iota(sizes)
    if message.mesh.device_ids:
        ids = np.array(message.mesh.device_ids).reshape(sizes)
    # Every axis as (before, in the group, behind); whole axes have nothing around.
    parts = [[1, size, 1] for size in sizes]
    grouped: list[tuple[int, int]] = []
    for reference in message.axes:
        axis = reference.mesh_axis_index
        pre, size = reference.sub_axis_info.pre_size, reference.sub_axis_info.size
        if size:
            grouped.append((axis, pre))
            cuts = {1, pre, pre * size, sizes[axis]}
            cuts |= set(itertools.accumulate(parts[axis], lambda a, b: a * b))
            ordered = sorted(cuts)
            parts[axis] = [b // a for a, b in itertools.pairwise(ordered)]
        else:
            grouped.append((axis, 1))
            parts[axis] = [sizes[axis]]
    place: dict[tuple[int, int], int] = {}
    flat: list[int] = []
    for axis, pieces in enumerate(parts):
        before = 1
        for piece in pieces:
            if piece > 1:
                place[axis, before] = len(flat)
                flat.append(piece)
            before *= piece
    inner = [place[key] for key in grouped if key in place]
    outer = [i for i in range(len(flat)) if i not in inner]
    size = math.prod(flat[i] for i in inner)
    rows = ids.reshape(flat).transpose([*outer, *inner]).reshape(-1, size)
    return tuple(map(tuple, rows.tolist()))


@functools.cache
def _iota(sizes: tuple[int, ...]) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    count = math.prod(sizes)
    if not 0 < count <= _MAX_DEVICES:
        raise ValueError(f"{count} devices")
    return np.arange(count).reshape(sizes)
