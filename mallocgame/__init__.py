"""The memory-mapping game: which tensor sits in fast memory, when, and at which offset."""

import json
from pathlib import Path


def compiler_options(path: Path | str) -> dict[str, str]:
    """Returns what a search handed over, for `jax.jit(..., compiler_options=...)`.

    Args:
        path: a `mapping.json`. It is empty where the compiler's own mapping was not beaten.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a mapping of this toolkit's.
    """
    try:
        document = json.loads(Path(path).read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a mapping.json: {error}") from None
    options = document.get("compiler_options") if isinstance(document, dict) else None
    if not isinstance(options, dict) or not all(
        isinstance(value, str) for value in options.values()
    ):
        raise ValueError(
            f"{path} is not a mapping.json: it holds no compiler_options; "
            "python -m mallocgame.search writes one"
        )
    return options
