"""Makes the golden modules of several chips: real programs of `benchmarks.sharded` through the real TPU compiler.

    python tests/golden/make_sharded.py [NAME ...]        # needs the [tpu] extra; some ten seconds per program

Each `tests/golden/sharded/NAME/` holds

- `compiled.hlo.pb.gz`: the final module with its schedule and estimated cycles, gzipped without a time stamp.
- `options.json`: versions, topology, compile options, coordinates of the partitions, and `reference`: the cycles that a
  simulator gave which shares no code with this package and reads the module's text (all collectives on one link, an
  all-reduce as one ring, no latency). It is kept when a module is made again.

Tests read these files and never compile.
"""

import argparse
import gzip
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "sharded"
NAMES = ("mlp_fsdp", "experts_8_r8", "experts_4x2_r8", "train_fsdp", "scan_fsdp")


def programs() -> dict[str, Any]:
    """Returns the programs by name."""
    from benchmarks import sharded

    return {
        "mlp_fsdp": sharded.mlp("FSDP"),
        "experts_8_r8": sharded.experts(8),
        "experts_4x2_r8": sharded.experts(8, 2),
        "train_fsdp": sharded.training_step(),
        "scan_fsdp": sharded.scanned(),
    }


def make_golden(name: str, out: Path) -> None:
    """Compiles one program and writes its folder."""
    from benchmarks import sharded
    from compiler import backends

    call = programs()[name]
    known = out / "options.json"
    reference = json.loads(known.read_text())["reference"] if known.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        compiled = sharded.compile_call(call, backends.Cache(Path(scratch)))
        data = gzip.decompress(compiled.final.read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(data, compresslevel=9, mtime=0)
    (out / "compiled.hlo.pb.gz").write_bytes(packed)
    options = {
        "topology": compiled.topology,
        "versions": {p: version(p) for p in ("jax", "jaxlib", "libtpu")},
        "options": call.options,
        "coordinates": compiled.coordinates,
        "memory": compiled.memory._asdict(),
        "reference": reference,
    }
    text = json.dumps(options, sort_keys=True)
    known.write_text(text.replace(', "', ',\n "') + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"default: {' '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    sys.path.insert(0, str(ROOT))
    import jax

    # Source lines in the modules, but not where this checkout happens to be.
    jax.config.update("jax_hlo_source_file_canonicalization_regex", f"{ROOT}/")
    for name in names:
        make_golden(name, FOLDER / name)
        size = sum(f.stat().st_size for f in (FOLDER / name).iterdir())
        print(f"{name}: {size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
