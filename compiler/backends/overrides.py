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
OUTSTANDING_OPTION = "xla_msa_max_outstanding_prefetches"

_NAME = re.compile(r"[A-Za-z0-9_.$:/<>@\[\]-]+")


class UseAt(NamedTuple):
    """An operand of an instruction; `tuple_index` selects an element of a tuple operand.

    `size` is the padded bytes of the operand. Give it wherever it is known: the compiler applies an override of a use
    to the *result* of that instruction too, unless a size tells the two apart.
    """

    instruction: str
    operand: int
    tuple_index: tuple[int, ...] = ()
    size: int | None = None


class PositionAt(NamedTuple):
    """The result of an instruction; `tuple_index` selects an element of a tuple result."""

    instruction: str
    tuple_index: tuple[int, ...] = ()


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
    """One decision. Several for one place all apply, and contradict each other: give one."""

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


def to_text(overrides: Iterable[Override], strict: bool = True) -> str:
    """Returns the value of the option `OPTION`, one override after the other.

    Args:
        overrides: at most one for a place.
        strict: whether the compiler shall refuse the program if a prefetch cannot start at its time (`rejected_use`
            then tells which); else it does what it likes with those it cannot place.

    Raises:
        ValueError: two overrides for one place, or something that is not an instruction name.
    """
    overrides = list(overrides)
    places = [
        o.where._replace(size=None) if isinstance(o.where, UseAt) else o.where
        for o in overrides
    ]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"two overrides for {twice}")
    return " ".join(
        f"overrides {{ {_where(o.where)} {_action(o.action, strict)} }}"
        for o in overrides
    )


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
    outstanding_prefetches: int | None = None,
    strict: bool = True,
) -> dict[str, str]:
    """Returns the compile options for these decisions, for `jax.jit(..., compiler_options=...)`.

    Args:
        overrides: decisions about tensors.
        order: changes of the order of assignment.
        cross_program_prefetches: how many there may be at most; None leaves the compiler's default, 1.
        outstanding_prefetches: how many copies may be under way at a time; None leaves the default, 40.
        strict: as for `to_text`.
    """
    found = {OPTION: to_text(overrides, strict), SORT_OPTION: sort_text(order)}
    if outstanding_prefetches is not None:
        found[OUTSTANDING_OPTION] = str(outstanding_prefetches)
    if cross_program_prefetches is not None:
        found[CROSS_PROGRAM_OPTION] = str(cross_program_prefetches)
    return {name: value for name, value in found.items() if value}


def _where(where: Where) -> str:
    # A backslash in a string of a text proto is written twice.
    name = pattern(where.instruction).replace("\\", "\\\\")
    body = f'instruction_name_regex: "{name}"'
    if isinstance(where, UseAt):
        body += f" operand_number: {where.operand}"
    if isinstance(where, UseAt) and where.size is not None:
        body += f" size_gte: {where.size} size_lte: {where.size}"
    if where.tuple_index:
        body += (
            f" tuple_index {{ {' '.join(f'index: {i}' for i in where.tuple_index)} }}"
        )
    kind = "hlo_operand_filter" if isinstance(where, UseAt) else "hlo_position_matcher"
    return f"{kind} {{ {body} }}"


def _action(action: Action, strict: bool) -> str:
    match action:
        case Prefetch(time):
            timing = " strict_timing: true" if strict else ""
            return f"prefetch {{ logical_time: {time}{timing} }}"
        case Pin():
            return "pin_in_alternate_memory {}"
        case Keep():
            return "keep_in_default_memory {}"


_ONE = re.compile(
    r'overrides \{ (hlo_operand_filter|hlo_position_matcher) \{ instruction_name_regex: "\^((?:[A-Za-z0-9_]|\\\\.)+)\$"'
    r"(?: operand_number: (\d+))?(?: size_gte: (\d+) size_lte: \d+)?(?: tuple_index \{ ((?:index: \d+ ?)+)\})? \} "
    r"(?:prefetch \{ logical_time: (-?\d+)(?: strict_timing: true)? \}|(pin_in_alternate|keep_in_default)_memory \{\}) \}"
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
            raise ValueError(
                f"not an override at character {at}: {text[at : at + 60]!r}"
            )
        kind, name, operand, size, index, time, memory = match.groups()
        name = name.replace("\\\\", "")
        indices = tuple(int(i) for i in re.findall(r"\d+", index or ""))
        where: Where = PositionAt(name, indices)
        if kind == "hlo_operand_filter":
            where = UseAt(name, int(operand), indices, int(size) if size else None)
        action: Action = Prefetch(int(time)) if time is not None else Keep()
        if memory == "pin_in_alternate":
            action = Pin()
        yield Override(where, action)
        at = match.end() + 1


class Rejection(NamedTuple):
    """What the compiler said when it refused a strict override.

    Attributes:
        use: the operand at which it gave up (without index and size).
        value: the instruction that defines what the use reads, if the message says so.
        why: the reason, in the compiler's words.
        time: the logical time asked for, or None.
    """

    use: UseAt
    value: str | None
    why: str
    time: int | None

    def concerns(self, override: Override) -> bool:
        """Returns whether giving up this decision may help: it is about the same use, or about the value."""
        where = override.where
        if isinstance(where, PositionAt):
            return where.instruction == self.value
        return where[:2] == self.use[:2]


_REJECTED = re.compile(
    r"MSA strict (?:timing )?override (?:failed|unsatisfied) for instruction '([^']+)' operand (\d+), shape .*?"
    r"(?:, defining instruction '([^']*)')?: ((?!index=).*)$"
)


def is_of_a_kind(why: str) -> bool:
    """Returns whether a refusal has to do with what is read, not when: there is no such prefetch at all."""
    return "does not match requested" in why


def rejection(message: str) -> Rejection | None:
    """Returns which override a failed compile names, or None if it failed for another reason."""
    match = _REJECTED.search(message)
    if not match:
        return None
    time = re.search(r"requested (?:schedule|prefetch) time:? \(?(\d+)", match[4])
    why = re.sub(r" \(requested schedule time: [^)]*\)", "", match[4])
    return Rejection(
        UseAt(match[1], int(match[2])), match[3], why, int(time[1]) if time else None
    )
