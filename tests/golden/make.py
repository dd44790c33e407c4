"""Makes the golden dumps: real programs through the real TPU compiler, with the compiler's own tables beside them.

    python tests/golden/make.py [NAME ...]        # needs the [tpu] extra; a few seconds to a minute per program

Each `tests/golden/NAME/` holds, gzipped without a time stamp so that equal content is an equal file:

- `before_optimizations.hlo.pb.gz`: the user's program.
- `scheduled.hlo.pb.gz`: scheduled, before memory-space assignment (XLA's `after_optimizations_before_buffer_assignment`).
- `compiled.hlo.pb.gz`: the final module with memory spaces, copies and estimated cycles (XLA's `after_codegen`).
- `bufferinfo.csv.gz`, `allocinfo.csv.gz`, `scheduleinfo.csv.gz`: memory-space assignment's own tables.
- `target_arguments.txt.gz`: which chip.
- `options.json`: versions, topology, and the settings of memory-space assignment in force.

The compiler's output depends on its version; `options.json` names it. Tests read these files and never compile.
"""

import argparse
import gzip
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGY = "v5e:1x1"
PROGRAMS = (
    "mlp",
    "gpt2_decode_b8",
    "gpt2_forward",
    "gpt2_train",
    "gpt2_generate",  # A while loop, and donated buffers inside it.
    "resnet18",
    "early_exit_cond",  # Conditionals.
    "lstm_scan",
    "smol_decode_b16",
    "moe_decode",
    "moe_block",
    "muon_update",  # Donation: every result takes over an argument.
    "mamba_decode",
    "deblur_while",
)
FILES = (
    "before_optimizations.hlo.pb.gz",
    "scheduled.hlo.pb.gz",
    "compiled.hlo.pb.gz",
    "bufferinfo.csv.gz",
    "allocinfo.csv.gz",
    "scheduleinfo.csv.gz",
    "target_arguments.txt.gz",
)
RELEVANT = (
    "msa",
    "vmem",
    "memory_space",
    "prefetch",
    "bandwidth",
    "cost_model",
    "capacity",
    "async_copy",
    "outstanding",
    "memory_limit",
)


def make_golden(name: str, out: Path) -> None:
    """Compiles one workload and writes its golden folder."""
    from benchmarks import workloads
    from compiler import backends

    with tempfile.TemporaryDirectory() as scratch:
        call = workloads.get(name).make()
        source = backends.from_function(
            call.fn, *call.args, topology=TOPOLOGY, **call.jit_kwargs
        )
        compiled = backends.compile_source(
            source, TOPOLOGY, cache=backends.Cache(Path(scratch))
        )
        out.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            data = gzip.decompress((compiled.folder / file).read_bytes())
            (out / file).write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
        settings = compiled.settings()
    options = {
        "workload": name,
        "topology": TOPOLOGY,
        "versions": {p: version(p) for p in ("jax", "jaxlib", "libtpu")},
        "settings": {
            k: v for k, v in settings.items() if any(word in k for word in RELEVANT)
        },
    }
    text = json.dumps(options, indent=1, sort_keys=True)
    (out / "options.json").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"default: {' '.join(PROGRAMS)}")
    names = parser.parse_args().names or PROGRAMS
    sys.path.insert(0, str(ROOT))
    import jax

    # Source lines in the dumps, but not where this checkout happens to be.
    jax.config.update("jax_hlo_source_file_canonicalization_regex", f"{ROOT}/")
    for name in names:
        out = Path(__file__).parent / name
        make_golden(name, out)
        size = sum(f.stat().st_size for f in out.iterdir())
        print(f"{name}: {size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
