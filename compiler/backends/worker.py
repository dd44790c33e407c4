"""The child process in which compilers run: `python -m compiler.backends.worker`.

Reads one JSON request a line from stdin and answers each with one JSON line on the original stdout; whatever the
compiler prints goes to stderr. It ends at the end of stdin. The environment is the parent's business.

Request: `{"folder", "platform", "topology", "kind", "options", "partitions", "mesh", "torus", "target_config"}`, where
`folder` holds `module.bin`. The answer is `{"ok": true, "seconds", "memory", "coordinates", "version"}` with the
compiler's dumps in `folder/dump` and memory-space assignment's tables in `folder/tables`, or
`{"ok": false, "reason", "message"}`.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compiler.backends import jaxlib_adapter as adapter
from compiler.backends import meshes
from compiler.backends.errors import CompilerError, classify

Handler = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]

TABLES_ENVIRONMENT = "SCHEDULE_ZERO_TABLES"  # Where libtpu was told to write tables.


def _devices(request: dict[str, Any], known: dict[str, Any]) -> list[Any]:
    """Returns the devices of a topology, kept from one request to the next."""
    key = json.dumps(
        [request["platform"], request["topology"], request.get("target_config")]
    )
    if key not in known:
        known[key] = _find_devices(request)
    devices: list[Any] = known[key]
    return devices


def _find_devices(request: dict[str, Any]) -> list[Any]:
    import jax
    from jax.experimental import topologies

    platform, name = request["platform"], request["topology"]
    if platform == "cpu":
        return list(jax.devices("cpu"))
    extra: dict[str, Any] = {}
    if platform == "cuda":
        extra = {"topology": "1x1x1", "target_config": request["target_config"]}
    try:
        topology = topologies.get_topology_desc(
            platform=platform, topology_name=name, **extra
        )
    except Exception as error:
        reason = classify(str(error))
        if reason != "unknown-topology":
            reason = "unknown-topology" if platform == "tpu" else "failed"
        first = str(error).strip().partition("\n")[0]
        raise CompilerError(reason, f"{platform} topology {name!r}: {first}") from error
    return list(topology.devices)


def parse(kind: str, data: bytes) -> Any:
    """Returns the MLIR module of a source of this kind.

    Raises:
        CompilerError: "invalid-module".
    """
    read = adapter.parse_hlo if kind == "hlo" else adapter.parse_stablehlo
    try:
        return read(data)
    except CompilerError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise CompilerError(
            "invalid-module", f"the module cannot be read: {first}"
        ) from error


def _compile(request: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    folder = Path(request["folder"])
    data = (folder / "module.bin").read_bytes()
    devices = meshes.arrange(
        _devices(request, known),
        request["mesh"] or (request["partitions"],),
        request["torus"],
    )
    module = parse(request["kind"], data)
    options = {
        **request["options"],
        "xla_dump_to": str(folder / "dump"),
        "xla_dump_hlo_as_proto": True,
        "xla_dump_hlo_as_text": request.get("text", False),
    }
    tables = os.environ.get(TABLES_ENVIRONMENT)
    if tables:  # A compile that failed has left its tables.
        for file in Path(tables).iterdir():
            file.unlink()
    start = time.monotonic()
    try:
        executable = adapter.compile_module(module, devices, options)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise CompilerError(classify(str(error)), first) from error
    seconds = time.monotonic() - start
    if tables:
        (folder / "tables").mkdir(exist_ok=True)
        for file in Path(tables).glob("*memory-space-assignment*"):
            shutil.move(file, folder / "tables" / file.name)
    return {
        "ok": True,
        "seconds": seconds,
        "memory": adapter.memory_stats(executable),
        "coordinates": meshes.coordinates(devices) if len(devices) > 1 else [],
        "version": getattr(devices[0].client, "platform_version", ""),
    }


def serve(answer: Callable[[dict[str, Any]], None], handle: Handler) -> None:
    """Answers the requests on stdin until it ends."""
    known: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            answer(handle(json.loads(line), known))
        except CompilerError as error:
            answer({"ok": False, "reason": error.reason, "message": str(error)})
        except (
            Exception
        ) as error:  # A bug here must not look like a crash of the compiler.
            message = f"{type(error).__name__}: {error}"
            answer({"ok": False, "reason": "failed", "message": message})


def main(handle: Handler = _compile) -> None:
    """Serves; whatever else prints goes to stderr."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def answer(message: dict[str, Any]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            serve(answer, handle)


if __name__ == "__main__":
    main()
