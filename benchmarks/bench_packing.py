"""Offset packing: MiniMalloc's public instances, and XLA's own assignments on real dumps.

    python -m benchmarks.bench_packing [DIR] [--seconds 60] [--seeds 3] [--dumps FILE ...]

`DIR` holds MiniMalloc's `benchmarks/challenging/*.CAPACITY.csv` (github.com/google/minimalloc),
which are not part of this repository; an instance of the eleven that is not there is listed as
such. The second table needs no files: fast memory as the TPU compiler laid it out on the golden
programs, and the heaps in the XLA:GPU and XLA:CPU dumps of the repository, each packed anew with
the same lives and sizes. XLA's own offsets are given as hints, so "found by hints" means that nothing
lower was found.
"""

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from compiler.hlo import buffers as xla
from compiler.hlo.tables import AllocationRow, read_allocations
from solvers import compiled, packing
from solvers.packing import Buffer, Part, csvfile

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
DUMPS = (
    ROOT / "tests/mallocgame/offload/golden",
    ROOT / "examples/gpu_offload/dump",
)
PUBLISHED_MS = {
    "A": 4910,
    "B": 3661,
    "C": 637,
    "D": 2674,
    "E": 3717,
    "F": 5358,
    "G": 1181,
    "H": 1808,
    "I": 3908,
    "J": 883,
    "K": 628,
}  # Moffitt, ASPLOS 2023, on the author's machine.
_ABSENT = {"B": 170, "E": 215, "G": 308, "I": 374, "K": 454}  # Buffers in others.
_ALIGNMENT = {"gpu": 256, "cpu": 64}
_LARGEST_UNIT = 4096


class Run(NamedTuple):
    """One search: whether it found a packing, and what it took."""

    solved: bool
    wall: float
    cpu: float
    evaluations: int
    by: str


def solve(buffers: Sequence[Buffer], capacity: int, seed: int, seconds: float) -> Run:
    """Packs once; the answer is checked again, apart from the search's own check."""
    wall, cpu = time.perf_counter(), time.process_time()
    evaluations = 0
    for step in packing.search(buffers, capacity, seed=seed, done=_deadline(seconds)):
        evaluations += step.evaluations
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = step.packing
    assert found is not None
    assert not packing.violations(buffers, found.offsets.tolist(), found.height)
    return Run(found.height <= capacity, wall, cpu, evaluations, found.by)


def _deadline(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def challenging(directory: Path, seconds: float, seeds: int) -> Iterator[str]:
    """The table of MiniMalloc's instances."""
    yield (
        "| instance | buffers | solved | CPU s, median | CPU s, all seeds | wall s, median "
        "| placements, median | order, seed 0 | published s | published / CPU |"
    )
    yield "|---|---:|---|---:|---|---:|---:|---|---:|---:|"
    for name, published in PUBLISHED_MS.items():
        files = sorted(directory.glob(f"{name}.*.csv"))
        if not files:
            yield (
                f"| {name} | {_ABSENT.get(name, 0)} | not available | - | - | - | - | - "
                f"| {published / 1000:.3f} | - |"
            )
            continue
        capacity = int(files[0].name.split(".")[1])
        table = csvfile.read(files[0].read_bytes(), files[0].name)
        runs = [solve(table.buffers, capacity, s, seconds) for s in range(seeds)]
        cpu = statistics.median(run.cpu for run in runs)
        yield (
            f"| {name} | {len(table.buffers)} | {sum(r.solved for r in runs)} of {seeds} "
            f"| {cpu:.3f} | {', '.join(f'{r.cpu:.2f}' for r in runs)} "
            f"| {statistics.median(r.wall for r in runs):.2f} "
            f"| {statistics.median(r.evaluations for r in runs):,.0f} | {runs[0].by} "
            f"| {published / 1000:.3f} | {published / 1000 / cpu:.2f} |"
        )


class Heap(NamedTuple):
    """Memory that XLA laid out: the same as a problem, and how high XLA's answer is."""

    name: str
    buffers: list[Buffer]
    height: int


def fast_memory(path: Path) -> Heap:
    """What the TPU compiler's `allocinfo` table says of a program's fast memory.

    Rows may share bytes: slices of a buffer that arrive apart, aliases, a buffer that goes on. Such
    rows keep their places to each other, as one buffer; so do those that lie between them.
    """
    rows = read_allocations(path)
    groups = [[row] for row in rows]
    while True:
        taken = [
            (n, *_box(group, part))
            for n, group in enumerate(groups)
            for part in _parts(group)
        ]
        clash = {
            n: m
            for n, *one in taken
            for m, *other in taken
            if m < n and _together(one, other)
        }
        if not clash:
            break
        for n in sorted(clash, reverse=True):
            groups[clash[n]] += groups[n]
            groups[n] = []
        groups = [group for group in groups if group]
    unit = math.gcd(_LARGEST_UNIT, *(row.offset for row in rows))
    buffers = [
        Buffer(f"{group[0].buffer_id} {n}", _parts(group), unit, hint=_base(group))
        for n, group in enumerate(groups)
    ]
    top = max(row.offset + row.size for row in rows)
    return Heap(f"{path.parent.name}, fast memory", buffers, top)


def _base(rows: Sequence[AllocationRow]) -> int:
    return min(row.offset for row in rows)


def _box(rows: Sequence[AllocationRow], part: Part) -> tuple[int, int, int, int]:
    base = _base(rows)
    return part.lower, part.upper, base + part.base, base + part.size


def _together(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two boxes, begin, end, low, high, share bytes at some time."""
    in_time = one[0] < other[1] and other[0] < one[1]
    return in_time and one[2] < other[3] and other[2] < one[3]


def _parts(rows: Sequence[AllocationRow]) -> tuple[Part, ...]:
    """The bytes that the rows take, by time; what is between them is taken too."""
    base = _base(rows)
    times = sorted({t for r in rows for t in (r.start_time, r.end_time + 1)})
    parts: list[Part] = []
    for begin, end in itertools.pairwise(times):
        alive = [r for r in rows if r.start_time <= begin and end <= r.end_time + 1]
        if not alive:
            continue
        low = min(r.offset for r in alive) - base
        high = max(r.offset + r.size for r in alive) - base
        if parts and parts[-1][1:] == (begin, high, low):
            parts[-1] = parts[-1]._replace(upper=end)
        else:
            parts.append(Part(begin, end, high, low))
    return tuple(parts)


def dumped(path: Path) -> Iterator[Heap]:
    """The heaps in a dump of XLA:GPU or XLA:CPU, by the buffer assignment in it."""
    kind = "gpu" if "gpu" in path.name else "cpu"
    for allocation in xla.load_buffers(path).packed:
        rectangles = xla.rectangles(allocation)
        buffers = [
            Buffer(
                f"{n} {r.names[0]}", tuple(Part(*p) for p in r.parts), _ALIGNMENT[kind]
            )
            for n, r in enumerate(rectangles)
        ]
        top = max(r.offset + r.size for r in rectangles)
        name = path.name.split(".")[1 if path.name.startswith("module") else 0]
        yield Heap(f"{name}, {kind}, heap {allocation.number}", buffers, top)


def heaps(dumps: Sequence[Path]) -> Iterator[Heap]:
    """All heaps of the repository's programs that hold anything, and those of further dumps."""
    for path in sorted(GOLDEN.glob("*/allocinfo.csv.gz")):
        if read_allocations(path):
            yield fast_memory(path)
    for directory in DUMPS:
        for path in sorted(directory.glob("*after_optimizations.hlo.pb.gz")):
            yield from dumped(path)
    for path in dumps:
        yield from dumped(path)


def against_xla(dumps: Sequence[Path], seconds: float) -> Iterator[str]:
    """The table of XLA's own assignments."""
    yield (
        "| memory | buffers | XLA, bytes | ours, bytes | bound, bytes | ours / XLA "
        "| XLA over bound | proved lowest | found by | CPU s |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---|---|---:|"
    lower = same = 0
    for heap in heaps(dumps):
        cpu = time.process_time()
        *_, step = packing.search(heap.buffers, done=_deadline(seconds))
        cpu = time.process_time() - cpu
        found = step.packing
        assert found is not None
        assert not packing.violations(
            heap.buffers, found.offsets.tolist(), found.height
        )
        theirs = [b.hint or 0 for b in heap.buffers]
        wrong = packing.violations(heap.buffers, theirs, heap.height)
        if wrong:  # Its lives are read too long, then: ours may look worse than it is.
            print(f"{heap.name}: XLA's offsets as read: {wrong[0]}", file=sys.stderr)
        assert found.height <= heap.height, f"{heap.name}: worse than XLA"
        lower += found.height < heap.height
        same += found.height == heap.height
        yield (
            f"| {heap.name} | {len(heap.buffers)} | {heap.height:,} | {found.height:,} "
            f"| {step.bound:,} | {found.height / heap.height:.4f} "
            f"| {heap.height / step.bound - 1:.2%} "
            f"| {'yes' if found.height == step.bound else 'no'} | {found.by} | {cpu:.2f} |"
        )
    yield ""
    yield f"Lower than XLA's in {lower}, the same in {same}, higher in none."


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dumps", nargs="*", type=Path, default=[])
    flags = parser.parse_args()
    compiled.require("this benchmark")
    start = time.process_time()
    import numba

    from solvers.packing import exact

    warm = [Buffer(str(n), (Part(n, n + 2, 2 + n % 2),)) for n in range(9)]
    list(packing.search(warm, method="orders"))
    list(exact.search(warm, 5, 0, lambda: False, None))
    warm_up = time.process_time() - start

    print(
        f"Python {platform.python_version()}, numba {numba.__version__}, "
        f"{platform.machine()}; loading or making compiled code: {warm_up:.1f} CPU s, not "
        "counted below.\n"
    )
    if flags.directory:
        print("## MiniMalloc's challenging instances, capacity 1,048,576\n")
        for line in challenging(flags.directory, flags.seconds, flags.seeds):
            print(line, flush=True)
        print()
    print("## XLA's own assignments, packed anew\n")
    for line in against_xla(flags.dumps, flags.seconds):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
