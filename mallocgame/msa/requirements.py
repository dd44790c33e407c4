"""In which memory a value must be at a time, because of something else that shares it."""

import dataclasses
from typing import NamedTuple

from compiler.hlo import Program, Value
from mallocgame.msa.values import Offset, Place


class Required(NamedTuple):
    """A memory, and the offset there if it is the fast one."""

    is_fast: bool
    offset: Offset | None = None

    def same(self, other: "Required") -> bool:
        """Whether both ask for the same place: one offset, not two that happen to be equal."""
        return self.is_fast == other.is_fast and self.offset is other.offset


class ConflictError(Exception):
    """Two requirements contradict each other; the buffer's allocations have to be given up."""


@dataclasses.dataclass(eq=False)
class Requirements:
    """Requirements by value and time, those of the buffer in hand revocable."""

    program: Program
    _by_value: dict[tuple[int, int], Required] = dataclasses.field(default_factory=dict)
    _pending: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def at(self, value: Value, time: int) -> Required | None:
        """Returns what is required of a value at a time."""
        return self._by_value.get((value.id, time))

    def at_place(self, place: Place) -> Required | None:
        """Returns what is required of a position."""
        return self.at(self.program.value_at(*place), self._time(place))

    def add(
        self, value: Value, time: int, required: Required, *, pending: bool = True
    ) -> None:
        """Adds a requirement.

        Raises:
            ConflictError: there is another one.
        """
        key = (value.id, time)
        existing = self._by_value.get(key)
        if existing is None:
            self._by_value[key] = required
            if pending:
                self._pending.append(key)
        elif not existing.same(required):
            raise ConflictError

    def add_at_place(self, place: Place, required: Required) -> None:
        """Adds a requirement on a position; errors as in `add`."""
        self.add(self.program.value_at(*place), self._time(place), required)

    def is_pending(self, value: Value, time: int) -> bool:
        return (value.id, time) in self._pending

    def commit(self) -> None:
        """Keeps what was added."""
        self._pending.clear()

    def revoke(self) -> None:
        """Forgets what was added since the last commit."""
        for key in self._pending:
            del self._by_value[key]
        self._pending.clear()

    def _time(self, place: Place) -> int:
        return self.program.times[place[0].name]
