"""Training states on disk, by orbax: whole or not at all, the newest two of them.

Parameters are an item of their own, so that a trained agent can be used without what it learnt from,
and `about` says what it is: sizes of the networks, kind of agent, whatever the caller adds.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from solvers.command.result import Exit

FORMAT = 1  # Of what a checkpoint holds; raised when an old one can't be read any more.


# A named tuple of arrays that has at least `iteration` and `params`.
StateT = TypeVar("StateT", bound=tuple[Any, ...])


class CheckpointError(ValueError):
    """A checkpoint that can't be used, in one line."""

    exit_status = int(Exit.INVALID)
    reason = "bad_checkpoint"


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        folder: where they are.
        about: says what is trained; JSON. A checkpoint that says otherwise is foreign.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder = folder
        self._about = {"format": FORMAT, **about}
        self._manager = _manager(folder, read_only=False)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    @property
    def newest(self) -> int | None:
        """Iteration of the newest checkpoint; None if there is none."""
        found: int | None = self._manager.latest_step()
        return found

    def save(self, state: Any) -> None:
        """Writes a state, unless that iteration's is there; on return it is on disk."""
        iteration = int(state.iteration)
        if iteration == self.newest:
            return
        rest = state._replace(params=())
        self._manager.save(
            iteration,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(rest),
                about=ocp.args.JsonSave(self._about),
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, like: StateT) -> StateT:
        """Returns the newest state.

        Args:
            like: a state of the same shapes: a named tuple with `iteration` and `params`.

        Raises:
            CheckpointError: if it is damaged or of another run.
        """
        given: Any = like
        with _read(self._folder, self.newest):
            about = self._manager.restore(
                self.newest, args=ocp.args.Composite(about=ocp.args.JsonRestore())
            )
            _require_same(dict(about["about"]), self._about, self._folder)
            found = self._manager.restore(
                self.newest,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(_abstract(given.params)),
                    rest=ocp.args.StandardRestore(_abstract(given._replace(params=()))),
                ),
            )
        state: StateT = found["rest"]._replace(params=found["params"])
        return state


def load_params(folder: Path, like: Any, about: Mapping[str, Any]) -> Any:
    """Returns the newest parameters of a training run.

    Args:
        folder: of the checkpoints.
        like: parameters of the same shapes; those of `agent.init` are.
        about: what the checkpoint has to say of itself, at least.

    Raises:
        CheckpointError: if there is none, or it is damaged or of something else.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoints in {folder}")
    manager = _manager(folder, read_only=True)
    step = manager.latest_step()
    with contextlib.closing(manager), _read(folder, step):
        found = manager.restore(
            step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
        )
        _require_same(dict(found["about"]), {"format": FORMAT, **about}, folder)
        found = manager.restore(
            step,
            args=ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like))),
        )
    return found["params"]


def _manager(folder: Path, *, read_only: bool) -> Any:
    # Its notes of every write are of no use to who trains.
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else 2,
        enable_async_checkpointing=False,
        read_only=read_only,
        create=not read_only,
    )
    return ocp.CheckpointManager(folder.resolve(), options=options)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _require_same(
    found: dict[str, Any], wanted: Mapping[str, Any], folder: Path
) -> None:
    other = sorted(key for key in wanted if found.get(key) != wanted[key])
    if other:
        raise CheckpointError(
            f"{folder} holds checkpoints with another {', '.join(other)}"
        )


@contextlib.contextmanager
def _read(folder: Path, step: int | None) -> Iterator[None]:
    if step is None:
        raise CheckpointError(f"no checkpoints in {folder}")
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Whatever is wrong with foreign bytes.
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the checkpoint {folder / str(step)} can't be read: {cause}"
        ) from error
