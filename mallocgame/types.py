"""What the memory-mapping game is played on: `Instance`, and a position of it: `State`.

Axes: T instructions (logical times), P = T + 1 start points (point p: after instruction p - 1),
N accesses, the decision points. All axes are padded to size buckets. Times inside `Instance` that
end in `_ticks` are int32 ticks of `tick_seconds`; sizes and offsets are granules, the target's
alignment. Intervals of logical time are closed.

An *access* is one buffer at one time, all slots of that instruction taken together. A *region*
access holds a buffer over a whole called computation (a while loop, a conditional's branches, or
the whole program: a cross-program prefetch): when it is fast, the accesses inside it (whose
`enclosing` it is) are fast for nothing; when it is dropped, they are decided one by one.
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

from compiler.cost.resource import CopyResource

NO_COPY, COPY, DROP = 0, 1, 2
NUM_ACTIONS = 3
UNDECIDED = -1


class Accesses(NamedTuple):
    """The decision points, sorted by (time, region first), padded with `forbid`-den ones."""

    buffer: Int[Array, " N"]
    time: Int[Array, " N"]  # First instruction at which the buffer must be in place.
    end: Int[Array, " N"]  # Last instruction of the access; `time` but for regions.
    size: Int[Array, " N"]  # Granules.
    copy_ticks: Int[Array, " N"]  # Time that copying the buffer takes.
    saving: Float[Array, " N"]  # Seconds that the access saves when fast, floor aside.
    traffic: Float[
        Array, " N"
    ]  # Seconds of slow memory's time that it then leaves free.
    reduction_ticks: Int[
        Array, " N"
    ]  # How much shorter the instruction is with this one fast.
    needs_value: Bool[
        Array, " N"
    ]  # Reads what an earlier access or the program's input left.
    writes: Bool[Array, " N"]  # Leaves a slow copy stale.
    must_drop: Bool[Array, " N"]  # Live-out: the value has to be in slow memory here.
    forbid: Bool[Array, " N"]  # May never be fast.
    copyable: Bool[
        Array, " N"
    ]  # COPY is allowed; the compiler may be known to refuse it.
    previous: Int[
        Array, " N"
    ]  # Access of the same buffer before, in the same computation; -1.
    enclosing: Int[Array, " N"]  # Region access around, or -1.
    cross_program: Bool[
        Array, " N"
    ]  # Region over the whole program, filled by the run before.
    slow_point: Int[
        Array, " N"
    ]  # If `previous` is -1: point at which the slow copy is there.
    earliest: Int[
        Array, " N"
    ]  # First start point of a copy: the computation's own start.
    computation: Int[Array, " N"]  # In which copies for this access must start.
    nest_scale: Int[Array, " N"]  # 5 ** (while nesting of that computation).
    horizon: Int[
        Array, " N"
    ]  # Last access of the chain that NO_COPY could reach from here.
    eagerness: Float[
        Array, " N"
    ]  # Preferred prefetch overlap, in multiples of the copy's time; negative: the copy
    # may also be late, so that the access waits for it.
    first_use: Int[Array, " N"]  # Of a cross-program region: first access inside it.
    last_use: Int[Array, " N"]  # And the end of the last.


class Instance(NamedTuple):
    """One problem. A pytree of arrays; equal shapes compile once."""

    accesses: Accesses
    order: Int[Array, " N"]  # Sequence of play, a permutation; padding last.
    num_accesses: Int[Array, ""]
    before_ticks: Int[
        Array, " P"
    ]  # Copying time that instructions in front of a point offer.
    picker_ticks: Int[Array, " P"]  # The same with loop bodies counted 5 ** nest times.
    point_computation: Int[Array, " P"]
    floor_seconds: Float[Array, " T"]  # Per execution; what placement cannot shorten.
    base_seconds: Float[Array, " T"]  # Per execution, every slot in slow memory.
    traffic_seconds: Float[Array, " T"]  # Of these, the slow memory is busy.
    trip: Float[Array, " T"]  # Executions.
    capacity: Int[Array, ""]  # Granules.
    max_residency_ticks: Int[Array, ""]
    min_overlap: Float[Array, ""]
    max_outstanding: Int[Array, ""]
    max_cross_program: Int[Array, ""]
    sliced_from: Int[Array, ""]  # Granules from which on a prefetch is made in slices.
    tick_seconds: Float[Array, ""]
    all_slow_seconds: Float[Array, ""]
    price: Float[
        Array, " T"
    ]  # Seconds per granule of fast memory, the relaxation's multipliers.
    value_to_go: Float[
        Array, " M"
    ]  # M = N + 1: priced saving of order[k:], see `relaxation`.


class Heap(NamedTuple):
    """Rectangles (time x offset) in fast memory, sorted by offset; empty ones have end -1."""

    offset: Int[Array, " N"]
    top: Int[Array, " N"]
    start: Int[Array, " N"]
    end: Int[Array, " N"]
    access: Int[Array, " N"]
    usage: Int[Array, " T"]  # Granules in use at each time.


class Queue(NamedTuple):
    """Asynchronous copies of one direction."""

    resource: CopyResource
    deadline: Int[Array, " P"]  # Per start point, see `backup`.
    started: Int[Array, " P"]  # Copies that start at or in front of the point.
    ended: Int[Array, " P"]  # Copies due at or in front of instruction p.


class Outcome(NamedTuple):
    """What each action on the access at the cursor would do; decides the legal actions."""

    offset: Int[
        Array, ""
    ]  # Where NO_COPY or COPY puts the buffer when it needs a new place.
    extends: Bool[Array, ""]  # NO_COPY continues the residency of the previous access.
    enclosed: Bool[Array, ""]  # A fast region access holds the buffer already.
    copy_point: Int[Array, ""]
    copy_late: Bool[Array, ""]  # Nothing hides all of it: the access waits.
    evict_end: Int[
        Array, ""
    ]  # Write-back that COPY and DROP need first is due here; 0: none.
    evict_late: Bool[Array, ""]


class State(NamedTuple):
    """One position. Per-access arrays are indexed by access, not by turn."""

    cursor: Int[Array, ""]  # Turn; the access is `instance.order[cursor]`.
    action: Int[Array, " N"]  # UNDECIDED, NO_COPY, COPY or DROP.
    offset: Int[Array, " N"]
    start: Int[Array, " N"]  # First time of the access's own stay in fast memory.
    until: Int[Array, " N"]  # Last time of residency so far.
    owner: Int[Array, " N"]  # Access whose rectangle covers `until`.
    copy_point: Int[Array, " N"]  # Start point of the prefetch, or -1.
    evict_point: Int[
        Array, " N"
    ]  # Start point of the write-back behind this access, or -1.
    evict_end: Int[Array, " N"]
    copy_late: Bool[
        Array, " N"
    ]  # The prefetch is waited for, whatever hides part of it.
    evict_late: Bool[Array, " N"]
    stale_since: Int[Array, " N"]  # Point of the last write; -1: the slow copy is good.
    slow_point: Int[Array, " N"]  # Point from which the slow copy is good, if it is.
    banned: Bool[Array, " N"]
    heap: Heap
    reads: Queue
    writes: Queue
    saved: Float[Array, " T"]  # Seconds saved per execution, floors aside.
    num_cross_program: Int[Array, ""]
    num_backups: Int[Array, ""]
    outcome: Outcome
    legal_action_mask: Bool[Array, " A"]
    reward: Float[Array, ""]  # Fraction of the all-slow time saved by the last step.
    terminated: Bool[Array, ""]
