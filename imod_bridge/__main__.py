"""The loop as a command, in the manner of IMOD's programs: ``python -m imod_bridge``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

_ERROR = "ERROR: imod_bridge - "


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{_ERROR}{message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status, 0 or 1."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return _fail("stopped")
    except Exception as error:  # an action is another package's: whatever it raises, one line
        from imod_bridge.exchange import describe

        return _fail(describe(error))
    return 0


def _fail(message: str) -> int:
    print(_ERROR + " ".join(message.split()), file=sys.stderr)
    return 1


def _say(message: str) -> None:
    print(message, flush=True)


def _parser() -> _Parser:
    parser = _Parser(prog="imod_bridge", description="Let an action answer what you draw in 3dmod.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, run: object) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name != "actions":
            command.add_argument("action", metavar="NAME", help="an action, as the command 'actions' lists them")
            command.add_argument("tomogram", metavar="TOMO", help="the image that the model was drawn on")
            command.add_argument("model", metavar="MODEL", help="the model")
        return command

    add("actions", "List the actions that the installed packages have.", _actions)
    once = add("run", "Call an action once; the model is changed in place, and kept as MODEL~.", _run)
    once.add_argument("-o", "--output", metavar="OUT", help="write this new model, and leave MODEL as it is")
    once.add_argument("--overwrite", action="store_true", help="OUT may exist")
    add("watch", "Call an action whenever MODEL has changed, until Ctrl-C.", _watch)
    add("live", "Open 3dmod; call an action after each save, or when Enter is pressed here.", _live)
    return parser


def _actions(options: argparse.Namespace) -> None:
    from imod_bridge.actions import available_actions

    for name, origin in available_actions().items():
        _say(f"{name:20} {origin}")


def _run(options: argparse.Namespace) -> None:
    from imod_bridge.actions import load_action
    from imod_bridge.loop import run_once

    action = load_action(options.action)
    answer = run_once(action, options.tomogram, options.model, output=options.output, overwrite=options.overwrite)
    for message in answer.messages:
        _say(message)


def _watch(options: argparse.Namespace) -> None:
    from imod_bridge.actions import load_action
    from imod_bridge.loop import polling_with_keys, watch

    action = load_action(options.action)
    _say(f"watching {options.model}; open it again in 3dmod after a change; Ctrl-C ends")
    watch(action, options.tomogram, options.model, wakeups=polling_with_keys(sys.stdin), report=_say)


def _live(options: argparse.Namespace) -> None:
    from imod_bridge.actions import load_action
    from imod_bridge.loop import live, polling_with_keys
    from imod_bridge.session import Session

    action = load_action(options.action)
    with Session(options.tomogram, options.model) as session:
        _say("save the model in 3dmod, or press Enter here; Ctrl-C ends")
        live(action, options.tomogram, session, wakeups=polling_with_keys(sys.stdin), report=_say)


if __name__ == "__main__":
    sys.exit(main())
