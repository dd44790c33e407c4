"""Rules of convolutions, look-ups and their mirrors."""

from typing import Any

from compiler.sharding.labels import WHOLE, Rule, build, in_shapes, out_shapes


def conv(eqn: Any) -> Rule:
    """Batch and features are labels; windows reach over borders, so space is needed whole."""
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    numbers = eqn.params["dimension_numbers"]
    labels = [[WHOLE] * len(shape) for shape in (*ins, *outs)]
    (batch, features), (out_features, in_features) = (
        numbers.lhs_spec[:2],
        numbers.rhs_spec[:2],
    )
    if eqn.params["batch_group_count"] == 1:
        labels[0][batch] = labels[2][numbers.out_spec[0]] = 0
    if eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1:
        labels[0][features] = labels[1][in_features] = 1
        labels[1][out_features] = labels[2][numbers.out_spec[1]] = 2
    return build(labels[:2], labels[2:], ins, outs, "dot")


def gather(eqn: Any) -> Rule:
    """A look-up. Rows that are looked up may be cut: who has a row gives it, the others zeros, and they are summed."""
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    numbers, slices = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    offsets = list(numbers.offset_dims)
    result = list(range(len(outs[0])))
    operand, indices = [WHOLE] * len(ins[0]), [WHOLE] * len(ins[1])
    batch = [i for i in result if i not in offsets]
    for place, label in enumerate(batch):  # The last dimension holds the index vectors.
        indices[place] = label
    for theirs, ours in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims
    ):
        operand[theirs] = indices[ours]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windows = [i for i in range(len(ins[0])) if i not in gone]
    for i, label in zip(windows, offsets):
        if slices[i] == ins[0][i]:
            operand[i] = label
    looked_up = numbers.start_index_map
    if len(looked_up) == 1 and looked_up[0] in numbers.collapsed_slice_dims:
        operand[looked_up[0]] = len(result)
    return build([operand, indices], [result], ins, outs, "root")


def scatter(eqn: Any) -> Rule:
    """The mirror of `gather`; updates that are added may be cut, and leave partial sums."""
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    numbers = eqn.params["dimension_numbers"]
    windows = list(numbers.update_window_dims)
    operand = list(range(len(ins[0])))
    indices, updates = [WHOLE] * len(ins[1]), [WHOLE] * len(ins[2])
    rows = [i for i in range(len(ins[2])) if i not in windows]
    adds = eqn.primitive.name in ("scatter-add", "scatter_add")
    for place, i in enumerate(rows):
        if adds:
            indices[place] = updates[i] = len(operand) + place
    for theirs, ours in zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    ):
        indices[ours] = updates[rows[ours]] = operand[theirs]
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    for i, window in zip([i for i in operand if i not in gone], windows):
        if ins[2][window] == ins[0][i]:
            updates[window] = i
        else:
            operand[i] = WHOLE
    if len(numbers.scatter_dims_to_operand_dims) > 1:
        for i in numbers.scatter_dims_to_operand_dims:
            operand[i] = WHOLE
    return build([operand, indices, updates], [operand], ins, outs, "root")
