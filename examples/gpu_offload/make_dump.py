"""Makes `examples/gpu_offload/dump/`: the training step compiled for an H100, without a GPU.

    python examples/gpu_offload/make_dump.py [--out DIR]      # needs the [gpu] extra; about 10 seconds

The files have XLA's own names, as `XLA_FLAGS=--xla_dump_to=DIR --xla_dump_hlo_as_proto` writes them on a machine with a
GPU, gzipped. `checkpoint_names.json` beside them says which source places make the named residuals.
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "dump")
    out = parser.parse_args().out
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(HERE.parents[1]))
    import jax
    import train_step

    from compiler import backends
    from mallocgame import offload

    jax.config.update(
        "jax_hlo_source_file_canonicalization_regex", f"{HERE.parents[1]}/"
    )
    step = train_step.make_train_step()
    arguments = train_step.abstract_arguments()
    try:
        backends.dump(
            step, *arguments, topology="h100", out=out, gz=True, donate_argnums=0
        )
    except backends.CompilerError as error:
        print(error, file=sys.stderr)
        return 3
    offload.record(step, *arguments, out=out)
    for file in sorted(out.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
