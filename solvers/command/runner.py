"""The one place where a command begins and ends."""

import contextlib
import glob
import io
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import tyro
from tyro.conf import FlagCreatePairsOff

from solvers.command import files
from solvers.command.console import Console, one_line, reader_may_leave
from solvers.command.flags import Flags, FlagsT
from solvers.command.interrupt import Interrupt
from solvers.command.result import (
    Elsewhere,
    Exit,
    Failure,
    Outcome,
    failure_object,
)
from solvers.command.session import Session, version

_PATIENCE = 1.0  # Seconds.
_SHOW_CURSOR = "\x1b[?25h"


def run(
    search: Callable[[FlagsT, Session], Outcome],
    flags_type: type[FlagsT],
    *,
    name: str,
    args: Sequence[str] | None = None,
) -> int:
    """Runs a search command from its arguments to its exit status.

    The result is checked, written to `result.json` in `--out`, and shown: as one JSON
    object under `--json`, else as a table. Whatever goes wrong becomes one line on
    stderr (under `--json` also one object on stdout) and the status of its cause.

    Args:
        search: does the work. It polls `session.meter.done()` and returns a result
            also when interrupted.
        flags_type: the command's flags; its docstring is the help text.
        name: of the command, such as `mallocgame.search`.
        args: the arguments; the process's own if None.
    """
    args = sys.argv[1:] if args is None else list(args)
    with _Ending(name, json=_asks_for_json(args)) as ending:
        return ending.run(search, lambda: _parse(flags_type, name, args))


def run_silently(
    search: Callable[[FlagsT, Session], Outcome],
    flags: FlagsT,
    *,
    name: str,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Runs a search command inside another; nothing is printed.

    Args:
        search: as in `run`.
        flags: of this run; they say `quiet`, and where to write.
        name: of the command.
        stopped: a reason to end with the best so far, besides a signal.

    Returns:
        The JSON object, of a failure too; `exit_status` is always among its keys.
    """
    with _Ending(name, json=True, silent=True, stopped=stopped) as ending:
        status = ending.run(search, lambda: flags)
    return ending.told | {"exit_status": int(status)}


class _Ending:
    """Owns stdout, the signals and the one line or object that the command ends with."""

    def __init__(
        self,
        name: str,
        *,
        json: bool,
        silent: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.json = json
        self.told: dict[str, Any] = {}
        self._silent = silent
        self.session: Session | None = None
        self.out: Path | None = None
        self._interrupt = Interrupt(self._asked_to_stop, self._stop_now, stopped)
        self._lock = threading.Lock()
        self._ended = False
        self._stack = contextlib.ExitStack()
        self._stdout: IO[str] = sys.stdout

    def __enter__(self) -> "_Ending":
        self._stack.enter_context(self._interrupt)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # A terminal without µ, say.
        if self.json:
            self._stdout = self._stack.enter_context(_only_for_us())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(
        self,
        search: Callable[[FlagsT, Session], Outcome],
        given: Callable[[], FlagsT | None],
    ) -> int:
        debug = False
        try:
            flags = given()
            if flags is None:
                return Exit.OK
            debug = flags.debug
            self.out = files.prepare_out(flags.out or _default_out(self.name, flags))
            shown = None if flags.json or flags.quiet else self._stdout
            self.session = Session(
                self.name,
                flags,
                out=self.out,
                interrupt=self._interrupt,
                console=Console(shown, quiet=flags.quiet),
            )
            return self._finish(search(flags, self.session))
        except KeyboardInterrupt:
            return self._fail("interrupted", "interrupted", Exit.INTERRUPTED)
        except BaseException as error:
            status = getattr(error, "exit_status", None)
            if status == Exit.INFEASIBLE and self._interrupt.is_set():
                status = Exit.INTERRUPTED  # It did not run to its end.
            if isinstance(status, int) and 0 < status < 256:
                reason = getattr(error, "reason", None) or _snake(type(error).__name__)
                return self._fail(str(reason), str(error), status, debug=debug)
            return self._fail_internally(error, debug=debug)

    def _finish(self, outcome: Outcome) -> int:
        assert self.session is not None and self.out is not None
        interrupted = self._interrupt.is_set()
        status = "INTERRUPTED" if interrupted else outcome.status
        exit_status = Exit.INTERRUPTED if interrupted else outcome.exit_status
        if isinstance(outcome, Elsewhere):
            return exit_status
        path = self.out / "result.json"
        try:
            result = outcome.to_dict(status)
            result["artifacts"]["result"] = str(path)
            text = files.to_json(result)
        except ValueError as error:
            raise Failure("not_finite", str(error), Exit.CHECK_FAILED) from error
        files.write_text(path, text)
        if "error" in result and not self._silent:
            print(f"{self.name}: {result['error']}", file=sys.stderr, flush=True)
        if not self.json:
            outcome.show(self.session.console, status)
            return exit_status
        with self._end() as first:
            if first:
                self._tell(result, text)
        return exit_status

    def _fail_internally(self, error: BaseException, *, debug: bool) -> int:
        details = "".join(traceback.format_exception(error))
        what = f"internal failure: {type(error).__name__}: {error}"
        if debug:
            print(details, end="", file=sys.stderr, flush=True)
        elif self.out is not None:
            path = self.out / "traceback.txt"
            with contextlib.suppress(Failure):
                files.write_text(path, details)
                what = f"{one_line(what)} (traceback in {path})"
        else:
            what = f"{one_line(what)} (--debug shows the traceback)"
        return self._fail("internal", what, Exit.INTERNAL)

    def _fail(
        self, reason: str, message: str, status: int, *, debug: bool = False
    ) -> int:
        message = one_line(message) or reason
        with self._end() as first:
            if first:
                if debug:
                    traceback.print_exc()
                if not self._silent:
                    print(f"{self.name}: {message}", file=sys.stderr, flush=True)
                if self.json:
                    told = failure_object(self.name, version(), reason, message, status)
                    self._tell(told, files.to_json(told))
        return int(status)

    @contextlib.contextmanager
    def _end(self) -> Iterator[bool]:
        """Yields True to the first that ends the command, and keeps others out."""
        # A reader that does not read may hold up the other thread for ever.
        mine = self._lock.acquire(timeout=_PATIENCE)
        try:
            first, self._ended = mine and not self._ended, True
            yield first
        finally:
            if mine:
                self._lock.release()

    def _tell(self, told: dict[str, Any], text: str) -> None:
        self.told = told
        if self._silent:
            return
        with reader_may_leave(self._stdout):
            self._stdout.write(text)
            self._stdout.flush()

    def _asked_to_stop(self) -> None:
        if self.session is not None:
            self.session.note(
                "interrupted: finishing with the best so far; once more stops at once"
            )

    def _stop_now(self) -> None:
        if self.session is not None:
            self.session.exit_now()
        files.remove_in_flight()
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)  # A progress bar hides it.
        self._fail("interrupted", "interrupted twice: stopped", Exit.INTERRUPTED)
        os._exit(Exit.INTERRUPTED)


def _parse(flags_type: type[FlagsT], name: str, args: Sequence[str]) -> FlagsT | None:
    """Returns the flags, or None after `--help`."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                flags_type,
                args=args,
                prog=f"python -m {name}",
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as error:
        if not error.code:
            return None
    message = _condense(said.getvalue())
    raise Failure("usage", f"{message}; see --help", Exit.USAGE)


@contextlib.contextmanager
def _only_for_us() -> Iterator[IO[str]]:
    """Yields stdout, and sends what anything else prints there to stderr.

    Libraries and child processes write to file descriptor 1, so that is turned too.
    """
    original = sys.stdout
    original.flush()
    try:
        is_real = original.fileno() == 1
    except (OSError, AttributeError):
        is_real = False
    with contextlib.ExitStack() as stack:
        ours: IO[str] = original
        if is_real:
            saved = os.dup(1)
            ours = stack.enter_context(os.fdopen(saved, "w", encoding="utf-8"))
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield ours


def _asks_for_json(args: Sequence[str]) -> bool:
    """True if the arguments ask for JSON, even where they can't be parsed."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options and "--help" not in options and "-h" not in options


def _default_out(name: str, flags: Flags) -> Path:
    given = getattr(flags, "input", "")
    if isinstance(given, tuple):
        single = len(given) == 1 and not glob.has_magic(given[0])
        given = given[0] if single else "batch"
    source = str(given or "run")
    stem = "stdin" if source == "-" else Path(source).resolve().stem
    return Path("runs") / name.split(".")[0] / (stem or "run")


def _condense(said: str) -> str:
    """Returns tyro's framed message as one sentence."""
    lines = [re.sub(r"^[│|]\s?|\s*[│|]\s*$", "", line) for line in said.splitlines()]
    lines = [line for line in lines if not line.startswith(("╭", "╰"))]
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"\s*─+\s*", line)]
    head = one_line(" ".join(lines[: rules[0]] if rules else lines))
    # A flag's name helps, the name of our dataclass does not.
    head = re.sub(r"^Error parsing (\w+: )?", "", head)
    meant = re.search(r"Perhaps you meant:[\s│]*(--[\w-]+)", said)
    if meant is not None:
        head += f" (did you mean {meant.group(1)}?)"
    return head.rstrip(".") or "the arguments can't be read"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
