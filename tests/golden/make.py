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
import os
import subprocess
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
    "gpt2_generate",
    "resnet18",
    "early_exit_cond",
    "lstm_scan",
    "smol_decode_b16",
    "moe_decode",
    "moe_block",
    "muon_update",
    "mamba_decode",
    "deblur_while",
)
DUMPS = {
    "before_optimizations.hlo.pb": "before_optimizations.hlo.pb",
    "after_optimizations_before_buffer_assignment.hlo.pb": "scheduled.hlo.pb",
    "after_codegen.hlo.pb": "compiled.hlo.pb",
    "target_arguments.txt": "target_arguments.txt",
}
TABLES = ("bufferinfo", "allocinfo", "scheduleinfo")
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
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def compile_here(name: str, folder: Path) -> None:
    """Compiles one workload in this process, dumping to `folder`; the environment is set by `make_golden`."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from benchmarks import workloads

    jax.config.update("jax_hlo_source_file_canonicalization_regex", f"{ROOT}/")
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    sharding = SingleDeviceSharding(topology.devices[0])
    call = workloads.get(name).make()
    args = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), call.args
    )
    jax.jit(call.fn, **call.jit_kwargs).lower(*args).compile(
        compiler_options={
            "xla_dump_to": str(folder),
            "xla_dump_hlo_as_proto": True,
            "xla_dump_hlo_as_text": True,
        }
    )


def settings(text: str) -> dict[str, str]:
    """Returns the settings of a `tpu_comp_env.txt` that bear on memory-space assignment.

    Nested messages keep their text, without line breaks.
    """
    found: dict[str, str] = {}
    depth, name = 0, ""
    for line in text.splitlines():
        body = line.strip()
        if depth == 0:
            name, _, value = body.rstrip("{").strip().partition(": ")
            if body.endswith("{"):
                found[name] = ""
            else:
                found[name] = value.strip('"')
        elif not (depth == 1 and body == "}"):
            found[name] = f"{found[name]} {body}".strip()
        depth += body.endswith("{") - (body == "}")
    return {k: v for k, v in found.items() if any(word in k for word in RELEVANT)}


def write_gz(path: Path, data: bytes) -> None:
    """Writes a gzip file that depends on nothing but the data."""
    path.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))


def only(folder: Path, pattern: str) -> Path:
    """Returns the one file that matches; a compile that dumped several modules or none is an error."""
    matches = sorted(folder.glob(pattern))
    if len(matches) != 1:
        raise FileNotFoundError(
            f"{len(matches)} files match {folder}/{pattern}, expected one"
        )
    return matches[0]


def make_golden(name: str, out: Path) -> None:
    """Compiles one workload in a child process and writes its golden folder."""
    with tempfile.TemporaryDirectory() as scratch:
        tables = Path(scratch) / "tables"
        tables.mkdir()
        flags = f"--xla_jf_dump_to={tables} --xla_jf_dump_llo_pass_label_regex=memory-space-assignment.*"
        environment = {
            **os.environ,
            **ENVIRONMENT,
            "LIBTPU_INIT_ARGS": flags,
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, __file__, "--compile", scratch, name]
        subprocess.run(command, env=environment, check=True, timeout=900)
        out.mkdir(parents=True, exist_ok=True)
        for source, target in DUMPS.items():
            write_gz(
                out / f"{target}.gz", only(Path(scratch), f"*.{source}").read_bytes()
            )
        for table in TABLES:
            source = only(tables, f"*-memory-space-assignment-{table}.txt")
            write_gz(out / f"{table}.csv.gz", source.read_bytes())
        options = {
            "workload": name,
            "topology": TOPOLOGY,
            "versions": {p: version(p) for p in ("jax", "jaxlib", "libtpu")},
            "settings": settings(only(Path(scratch), "*.tpu_comp_env.txt").read_text()),
        }
        text = json.dumps(options, indent=1, sort_keys=True)
        (out / "options.json").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"default: {' '.join(PROGRAMS)}")
    parser.add_argument("--compile", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in args.names or PROGRAMS:
        if args.compile:
            compile_here(name, args.compile)
        else:
            out = Path(__file__).parent / name
            make_golden(name, out)
            size = sum(f.stat().st_size for f in out.iterdir())
            print(f"{name}: {size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
