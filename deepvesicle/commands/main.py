"""The program `deepvesicle`: its commands, and what a user sees when one fails."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NoReturn

import typer

from deepvesicle import __version__
from deepvesicle.commands import (
    batch,
    check,
    demo,
    evaluate,
    examples,
    export,
    fix,
    info,
    models,
    phantom,
    prepare,
    pyto,
    report,
    segment,
    stats,
    train,
)
from deepvesicle.errors import DeepVesicleError

EXIT_INTERNAL, EXIT_USAGE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="deepvesicle",
    help="Find synaptic vesicles in cryo-electron tomograms and fit each one as an exact sphere.",
    epilog=examples.first_examples(),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# One line a command, in the order of the help. Command modules import nothing heavy at their top.
_COMMANDS: dict[str, Callable[..., None]] = {
    "segment": segment.segment,
    "batch": batch.batch,
    "fix": fix.fix,
    "prepare": prepare.prepare,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "report": report.report,
    "export": export.export,
    "stats": stats.stats,
    "pyto": pyto.pyto,
    "demo": demo.demo,
    "phantom": phantom.phantom,
    "check": check.check,
    "info": info.info,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, epilog=examples.epilog(_name))(_command)
app.add_typer(models.app, name="models")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"deepvesicle {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        text = context.get_help()
        if text:  # with rich, Typer has printed it already
            print(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and turn every failure into one line on stderr and an exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0 done, 1 internal error, 2 usage, 3 bad input, 4 some of several tomograms failed, 130 interrupted.
    """
    # The fits have threads of their own, and their matrices are small: more threads inside each only get in the way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    # --debug is for the whole program, so it may stand anywhere before a "--".
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [a for a in arguments[:end] if a != "--debug"] + arguments[end:]
    try:
        with _terminated_cleanly():
            code = app(args=arguments, prog_name="deepvesicle", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # Typer's answer to a KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED, debug)
    except SystemExit as end_of_process:
        return end_of_process.code if isinstance(end_of_process.code, int) else 1
    except DeepVesicleError as error:
        return _fail(str(error), error.exit_code, debug)
    except MemoryError as error:
        return _fail(f"not enough memory. {error}", EXIT_BAD_INPUT, debug)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", EXIT_BAD_INPUT, debug)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own: a wrong option or argument
            if not error.format_message():  # a group without a command: its help has been printed
                return 0
            message = f"{error.format_message().rstrip('.')}. {_help_hint(error)}"
            return _fail(message, getattr(error, "exit_code", EXIT_USAGE), debug=False)
        advice = "" if debug else ". This is a defect of the program; run again with --debug to see where"
        return _fail(f"internal error: {type(error).__name__}: {error}{advice}", EXIT_INTERNAL, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code


def _help_hint(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"Try '{context.command_path if context else 'deepvesicle'} --help'."


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Let a SIGTERM (of a batch system) unwind the stack, so that half-written files are removed."""

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
