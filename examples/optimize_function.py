"""From your own function to compile options that make it faster, in a dozen lines.

    python examples/optimize_function.py [--budget 60s]        # needs the [tpu] extra, no TPU

Replace `step` and its arguments by your own. On a machine with a TPU the last lines are just
`jax.jit(step, compiler_options=options)`.
"""

import argparse
import subprocess
import sys

import jax
import jax.numpy as jnp

import compiler
import mallocgame


def step(weights: list[jax.Array], x: jax.Array) -> jax.Array:
    """Six dense layers: what is to be made faster."""
    for w in weights:
        x = jax.nn.gelu(x @ w)
    return x


def main() -> None:
    """Dump, search, compile."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--out", default="runs/optimize_function")
    flags = parser.parse_args()
    square = jax.ShapeDtypeStruct((2048, 2048), jnp.bfloat16)
    arguments = ([square] * 6, jax.ShapeDtypeStruct((64, 2048), jnp.bfloat16))

    compiler.dump(step, *arguments, topology="v5e:1x1", out=f"{flags.out}/dump")
    search = [sys.executable, "-m", "mallocgame.search", f"{flags.out}/dump"]
    subprocess.run([*search, "--out", flags.out, "--budget", flags.budget], check=True)
    options = mallocgame.compiler_options(f"{flags.out}/mapping.json")

    ours = compiler.dump(
        step,
        *arguments,
        topology="v5e:1x1",
        out=f"{flags.out}/ours",
        compiler_options=options,
    )
    print(
        f"{len(options)} compile options; estimated cycles {sum(ours.cycles.values()):,}"
    )


if __name__ == "__main__":
    main()
