"""Training by several processes, on several hosts or one: who they are, and what they share.

Each runs the same program. The training state is whole on every device; episodes are spread over the
devices of all (`jax.distributed`, one mesh), and decisions of a clock or a signal are taken together,
since a process that stopped alone would leave the others waiting.
"""

import functools
from typing import TYPE_CHECKING, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from solvers.command import Exit, Failure

if TYPE_CHECKING:
    from muzero.train import TrainFlags

_TreeT = TypeVar("_TreeT")
AXIS = "lanes"


class Hosts:
    """The processes that train together.

    Attributes:
        mesh: all their devices along `AXIS`; None for one process alone, on one device.
        leads: whether this process is the one that writes.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self.leads = mesh is None or jax.process_index() == 0

    def spread(self, tree: _TreeT) -> _TreeT:
        """Returns arrays that all processes hold alike as arrays of the mesh."""
        if self.mesh is None:
            return tree
        whole = NamedSharding(self.mesh, PartitionSpec())
        spread: _TreeT = jax.tree.map(
            lambda x: jax.device_put(np.asarray(x), whole), tree
        )
        return spread

    def own(self, tree: _TreeT) -> _TreeT:
        """Returns arrays that are whole on every device as arrays of this process alone."""
        if self.mesh is None:
            return tree
        own: _TreeT = jax.tree.map(lambda x: jax.numpy.asarray(np.asarray(x)), tree)
        return own

    def any(self, here: bool) -> bool:
        """Returns whether it is so in any process; all must ask."""
        if self.mesh is None:
            return here
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.asarray(here)).any())

    def meet(self, name: str) -> None:
        """Waits until all processes are here."""
        if self.mesh is not None:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)


def join(flags: "TrainFlags") -> Hosts:
    """Returns the processes that train together, once all have come.

    Raises:
        Failure: status 2: not all came, or the lanes are not a multiple of the devices.
    """
    if not flags.distributed:
        return Hosts()
    # Its handler of SIGTERM would take the place of ours, which stops all processes together.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if not jax.distributed.is_initialized():
            jax.distributed.initialize(
                flags.coordinator or None,
                flags.num_processes or None,
                None if flags.process_id < 0 else flags.process_id,
            )
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise Failure("not_joined", f"--distributed: {said}", Exit.USAGE) from None
    devices = jax.devices()
    if flags.config.lanes % len(devices):
        raise Failure(
            "bad_lanes",
            f"--lanes {flags.config.lanes} is not a multiple of the {len(devices)} devices",
            Exit.USAGE,
        )
    return Hosts(Mesh(np.asarray(devices), (AXIS,)))


@functools.partial(jax.jit, static_argnums=1)
def placed(tree: _TreeT, sharding: NamedSharding) -> _TreeT:
    """Returns the arrays laid out over the mesh as the sharding says."""
    return jax.lax.with_sharding_constraint(tree, sharding)
