"""The learning agent: Gumbel MuZero with the true rules or with learned ones. It knows no domain.

    task = muzero.Task(game=..., instances=..., ...)
    trainer = muzero.Trainer(agent=muzero.make_agent("true-game", task), config=muzero.TrainConfig())
    state = trainer.init(task.instances, seed=0)
    for _ in range(100):
        state, metrics = trainer.iterate(task.instances, state)

docs/muzero.md is the guide. Importing this package imports no JAX: commands answer `--help` first.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muzero.agents import make_agent
    from muzero.config import LearnConfig, NetworkConfig, SearchConfig, TrainConfig
    from muzero.encoders import Tokens
    from muzero.guide import guided
    from muzero.pointer import Choices
    from muzero.task import Task
    from muzero.training import Trainer
    from solvers.checkpoints import load_params

_HOMES = {
    "Choices": "muzero.pointer",
    "LearnConfig": "muzero.config",
    "NetworkConfig": "muzero.config",
    "SearchConfig": "muzero.config",
    "Task": "muzero.task",
    "Tokens": "muzero.encoders",
    "TrainConfig": "muzero.config",
    "Trainer": "muzero.training",
    "guided": "muzero.guide",
    "load_params": "solvers.checkpoints",
    "make_agent": "muzero.agents",
}

__all__ = [
    "Choices",
    "LearnConfig",
    "NetworkConfig",
    "SearchConfig",
    "Task",
    "Tokens",
    "TrainConfig",
    "Trainer",
    "guided",
    "load_params",
    "make_agent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
