"""The flags of a command that takes many inputs."""

import os
from dataclasses import dataclass
from typing import Literal

from solvers.command.flags import Flags


@dataclass(frozen=True, kw_only=True)
class BatchFlags(Flags):
    """The flags of a command that takes many inputs."""

    workers: int = 0
    """With many inputs: how many at a time; 0 for half of this machine's CPUs."""
    executor: Literal["local", "ray", "slurm"] = "local"
    """With many inputs: where they run; ray and slurm need the extra [cluster]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 0:
            raise ValueError(f"--workers must be at least 1, not {self.workers}")

    def num_workers(self) -> int:
        """Returns `workers`, or its default."""
        return self.workers or max(1, (os.cpu_count() or 1) // 2)
