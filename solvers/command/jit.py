"""Where what JAX compiles is kept, and where it runs; nothing here imports JAX before it is asked."""

import os

from solvers.command.files import cache_dir

_LEAST_SECONDS = 0.5  # Of compiling; what is quicker is not worth a file.


def keep_compiled(*, on_host: bool = False) -> None:
    """Keeps JAX's compiles in the user's cache folder, unless the environment names another.

    Args:
        on_host: whether to run on the CPU, unless the environment says otherwise: many small
            steps are quickest there, and an installed libtpu would only look for chips.
    """
    import jax

    if on_host and not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
