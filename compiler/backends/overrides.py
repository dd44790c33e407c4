"""Decisions about tensors as text that memory-space assignment reads: the option `xla_tpu_msa_tensor_overrides`.

The three actions of a mapping are the three overrides of the message:

- `Prefetch(time)`: copy to fast memory, starting at a logical time;
- `Pin()`: the value is in fast memory from its definition on, no copy;
- `Keep()`: the use reads (or the value stays in) the default memory.

Each applies to a use (an operand of an instruction) or to a position (a value where it is defined). Names go in as
anchored, escaped regular expressions. The compiler ignores a text that it cannot parse, without a word: so nothing
should write such a text by hand, and `check_text` reads back what `to_text` wrote.

What each override was seen to do is in docs/overrides.md.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

OPTION = "xla_tpu_msa_tensor_overrides"
SORT_OPTION = "xla_tpu_msa_sort_order_overrides"
CROSS_PROGRAM_OPTION = "xla_max_cross_program_prefetches"

_NAME = re.compile(r"[A-Za-z0-9_.$:/<>@\[\]-]+")


class UseAt(NamedTuple):
    """An operand of an instruction; `index` selects an element of a tuple operand."""

    instruction: str
    operand: int
    index: tuple[int, ...] = ()


class PositionAt(NamedTuple):
    """The result of an instruction; `index` selects an element of a tuple result."""

    instruction: str
    index: tuple[int, ...] = ()


class Prefetch(NamedTuple):
    """Copy to fast memory; `time` is a logical time of the schedule before assignment."""

    time: int


class Pin(NamedTuple):
    """In fast memory, without a copy."""


class Keep(NamedTuple):
    """In default memory."""


Where = UseAt | PositionAt
Action = Prefetch | Pin | Keep


class Override(NamedTuple):
    """One decision. Of several for the same place, the first counts."""

    where: Where
    action: Action


class SortOverride(NamedTuple):
    """Where in the order of assignment a value comes; `value` 0 is neutral, lower is earlier.

    With `cross_program`, the order among the candidates for cross-program prefetch instead.
    """

    where: PositionAt
    value: int
    cross_program: bool = False


def pattern(name: str) -> str:
    """Returns the regular expression (RE2) that matches this instruction name and no other.

    Raises:
        ValueError: no instruction has such a name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"not an instruction name: {name!r}")
    return f"^{re.sub(r'([^A-Za-z0-9_])', _escape, name)}$"


def _escape(match: re.Match[str]) -> str:
    return f"\\{match[1]}"


def to_text(overrides: Iterable[Override]) -> str:
    """Returns the value of the option `OPTION`, one override after the other."""
    return " ".join(f"overrides {{ {_where(o.where)} {_action(o.action)} }}" for o in overrides)


def sort_text(overrides: Iterable[SortOverride]) -> str:
    """Returns the value of the option `SORT_OPTION`."""
    return " ".join(
        f"overrides {{ {_where(o.where)} override_options {{ assign_value: {o.value} }} "
        f"apply_to_cross_program_prefetches: {str(o.cross_program).lower()} }}"
        for o in overrides
    )


def options(
    overrides: Iterable[Override] = (),
    order: Iterable[SortOverride] = (),
    cross_program_prefetches: int | None = None,
) -> dict[str, str]:
    """Returns the compile options for these decisions, for `jax.jit(..., compiler_options=...)`.

    Args:
        overrides: decisions about tensors.
        order: changes of the order of assignment.
        cross_program_prefetches: how many there may be at most; None leaves the compiler's default, 1.
    """
    found = {OPTION: to_text(overrides), SORT_OPTION: sort_text(order)}
    if cross_program_prefetches is not None:
        found[CROSS_PROGRAM_OPTION] = str(cross_program_prefetches)
    return {name: value for name, value in found.items() if value}


def _where(where: Where) -> str:
    # A backslash in a string of a text proto is written twice.
    name = pattern(where.instruction).replace("\\", "\\\\")
    body = f'instruction_name_regex: "{name}"'
    if isinstance(where, UseAt):
        body += f" operand_number: {where.operand}"
    if where.index:
        body += f" tuple_index {{ {' '.join(f'index: {i}' for i in where.index)} }}"
    kind = "hlo_operand_filter" if isinstance(where, UseAt) else "hlo_position_matcher"
    return f"{kind} {{ {body} }}"


def _action(action: Action) -> str:
    match action:
        case Prefetch(time):
            return f"prefetch {{ logical_time: {time} strict_timing: true }}"
        case Pin():
            return "pin_in_alternate_memory {}"
        case Keep():
            return "keep_in_default_memory {}"


_ONE = re.compile(
    r'overrides \{ (hlo_operand_filter|hlo_position_matcher) \{ instruction_name_regex: "\^((?:[A-Za-z0-9_]|\\\\.)+)\$"'
    r"(?: operand_number: (\d+))?(?: tuple_index \{ ((?:index: \d+ ?)+)\})? \} "
    r"(?:prefetch \{ logical_time: (-?\d+) strict_timing: true \}|(pin_in_alternate|keep_in_default)_memory \{\}) \}"
)


def from_text(text: str) -> list[Override]:
    """Returns the decisions in a text of `to_text`.

    Raises:
        ValueError: the text is of another form; the compiler might ignore it silently.
    """
    return list(_parse(text))


def _parse(text: str) -> Iterator[Override]:
    at = 0
    while at < len(text):
        match = _ONE.match(text, at)
        if not match:
            raise ValueError(f"not an override at character {at}: {text[at : at + 60]!r}")
        kind, name, operand, index, time, memory = match.groups()
        name = name.replace("\\\\", "")
        indices = tuple(int(i) for i in re.findall(r"\d+", index or ""))
        where: Where = PositionAt(name, indices)
        if kind == "hlo_operand_filter":
            where = UseAt(name, int(operand), indices)
        action: Action = Prefetch(int(time)) if time is not None else Keep()
        if memory == "pin_in_alternate":
            action = Pin()
        yield Override(where, action)
        at = match.end() + 1
