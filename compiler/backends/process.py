"""A warm child process that answers requests, with a time limit for each.

Starting a compiler costs seconds (imports, loading the library), so a worker is kept and asked again. If it dies or
hangs it is replaced at the next request; the request that it died on is an error with one line of explanation.
"""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from compiler.backends.errors import CompilerError

# Who started a child: by the time that it could ask, its parent may have ended.
PARENT_ENVIRONMENT = "SCHEDULE_ZERO_PARENT"
_ROOT = Path(__file__).resolve().parents[2]
_TAIL = 20_000
_FATAL = re.compile(r"F\d{4} ")  # How the compiler's log marks the line it dies on.


class Worker:
    """One child process; made at the first request, replaced after a failure. Safe to share between threads."""

    def __init__(
        self, environment: Mapping[str, str], command: Sequence[str] | None = None
    ) -> None:
        """
        Args:
            environment: variables that only the child gets, on top of this process's own.
            command: what to run instead of the compile worker (tests).
        """
        self._environment = dict(environment)
        self._command = list(
            command or (sys.executable, "-m", "compiler.backends.worker")
        )
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Sends one request and returns the answer.

        Args:
            request: goes through JSON.
            timeout: seconds; then the child is stopped.

        Raises:
            CompilerError: "timeout", "aborted", or the reason in the answer.
        """
        with self._lock:
            process = self._start()
            try:
                line = self._exchange(process, json.dumps(request) + "\n", timeout)
            except BaseException:
                self.close()
                raise
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise CompilerError(answer["reason"], answer["message"])
        return answer

    def close(self) -> None:
        """Stops the child, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _start(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed in `close`.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={
                **os.environ,
                **self._environment,
                "PYTHONPATH": path,
                PARENT_ENVIRONMENT: str(os.getpid()),
            },
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent; it stops the child itself.
        )
        return self._process

    def _exchange(
        self, process: "subprocess.Popen[str]", line: str, timeout: float
    ) -> str:
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + timeout
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            raise self._aborted(process) from None
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise CompilerError(
                        "timeout",
                        f"the compiler gave no answer within {timeout:g} s and was stopped",
                    )
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._aborted(process)
                received += chunk
        return received.decode()

    def _aborted(self, process: "subprocess.Popen[str]") -> CompilerError:
        try:
            status = process.wait(10)
        except (
            subprocess.TimeoutExpired
        ):  # It closed its output and lives on; `ask` stops it.
            status = 0
        cause = f"exit status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                cause = signal.Signals(-status).name
        return CompilerError(
            "aborted", f"the compiler's process died ({cause}){self._last_words()}"
        )

    def _last_words(self) -> str:
        """Returns the line of the child's stderr that says most about its end."""
        if self._log is None:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL))
        lines = [
            x.strip() for x in self._log.read().decode(errors="replace").splitlines()
        ]
        telling = [
            x for x in lines if "Check failed" in x or _FATAL.match(x) or "Error" in x
        ]
        last = telling[-1:] or [x for x in lines if x][-1:]
        return f": {last[0][:300]}" if last else ""
