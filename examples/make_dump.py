"""Makes `examples/gpt2_decode/`: the dump of a GPT-2 small decode step (batch 8) for TPU v5e, without a TPU.

    python examples/make_dump.py [--out DIR]      # needs the [tpu] extra; about 10 seconds

The files have XLA's own names, as `XLA_FLAGS=--xla_dump_to=DIR --xla_dump_hlo_as_proto` writes them on a machine with a
TPU, gzipped. Only those that the search reads are kept.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNUSED = ("tpu_comp_env", "memory-space-assignment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "gpt2_decode")
    out = parser.parse_args().out
    sys.path.insert(0, str(ROOT))
    import jax

    from benchmarks import workloads
    from compiler.backends import dump

    jax.config.update("jax_hlo_source_file_canonicalization_regex", f"{ROOT}/")
    call = workloads.get("gpt2_decode_b8").make()
    dump(call.fn, *call.args, topology="v5e:1x1", out=out, gz=True, **call.jit_kwargs)
    for file in sorted(out.iterdir()):
        if any(word in file.name for word in UNUSED):
            file.unlink()
        else:
            print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
