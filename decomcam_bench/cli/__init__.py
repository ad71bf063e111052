"""The command line. Each sub-command is one module with ``add_parser`` and ``execute``.

To add one, write the module and name it in :data:`COMMANDS`. Modules import what is heavy inside
``execute``, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from decomcam_bench import __version__
from decomcam_bench.core.console import console, log
from decomcam_bench.core.errors import UserError, did_you_mean

COMMANDS = (
    "run",
    "table",
    "list",
    "show",
    "doctor",
    "data",
    "explain",
    "reproduce",
    "report",
    "check",
    "baseline",
    "results",
    "completion",
)

#: Where a fault of the program is to be reported.
ISSUES = "https://github.com/decomcam-bench/decomcam-bench/issues"

_EPILOG = """\
examples:
  decomcam-bench run limit=20                               the embedded benchmark: toybox, toyclip, DecomCAM
  decomcam-bench run method=decomcam,gradcam rank=1,5,10    a sweep
  decomcam-bench run @week.yaml                             overrides from a file
  decomcam-bench run dataset=voc dataset.root=VOCdevkit     a real benchmark
  decomcam-bench table                                      every cell of the store
  decomcam-bench explain photo.jpg --text "a cat"           the maps of one picture, as a figure
  decomcam-bench COMMAND --help                             more of each

exit status:
  0    done
  1    it ran and the answer is bad: no map at all, a data set that is not sound, a regression, a method
       that fails, strict=true with bad data, or a fault of this program (for `check`: 2)
  2    something for you to put right: a name, a value, a file; for `check` also a number that cannot be judged
  130  interrupted (Ctrl-C); 143 after SIGTERM: finished shards are kept, the same command goes on
"""


class _Parser(argparse.ArgumentParser):
    """A parser without abbreviations whose errors are one line, and whose options are given once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)

    def error(self, message: str) -> NoReturn:
        for action in self._actions:
            name = str(action.metavar or action.dest)
            if message.startswith("the following arguments are required") and action.choices and name in message:
                message += f"; {name} is one of {', '.join(map(str, action.choices))}"
        raise UserError(f"{message}; see {self.prog} --help")


class _StoreOnce(argparse._StoreAction):
    """Stores a value, and refuses a second, different one: half of what was asked for would be done."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = vars(namespace).setdefault("_given", {})
        if option_string and given.setdefault(self.dest, values) != values:
            parser.error(f"{option_string} is given twice: {given[self.dest]} and {values}")
        super().__call__(parser, namespace, values, option_string)


def _common() -> _Parser:
    """Return the options that every command has, before or after its name."""
    parser = _Parser(prog="decomcam-bench", add_help=False)
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="DIR",
        help="folder with YAMLs (method/, metric/, dataset/, experiment/, ...) and classes of your own; repeatable; "
        "also $DECOMCAM_BENCH_INCLUDE",
    )
    group.add_argument("--quiet", action="store_true", help="results, warnings and errors alone: no notes, no progress")
    group.add_argument("--verbose", action="store_true", help="also details, such as the plan of a run")
    group.add_argument("--log-file", metavar="FILE", help="append messages and progress to a file, with their time")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as cluster schedulers send it."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command and return its exit status, as ``decomcam-bench --help`` describes them."""
    # Not list(): once imported, the sub-command `list` is what that name means in this package.
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in an ASCII locale other letters are escaped
            stream.reconfigure(errors="backslashreplace")
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser())
    try:
        common, rest = _common().parse_known_args(arguments)
        if common.quiet and common.verbose:
            raise UserError("--quiet and --verbose exclude each other")
    except UserError as error:
        print(f"decomcam-bench: {error}", file=sys.stderr)
        return error.exit_status
    level = logging.WARNING if common.quiet else logging.DEBUG if common.verbose else logging.INFO
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(console(level, common.log_file))
        except UserError as error:
            print(f"decomcam-bench: {error}", file=sys.stderr)
            return error.exit_status
        log.debug("decomcam-bench %s: %s", __version__, " ".join(arguments))
        return _guarded(rest, common)


def _guarded(arguments: list[str], common: argparse.Namespace) -> int:
    """Run a sub-command and turn whatever it raises into one line and an exit status."""
    previous = None
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        try:
            previous = signal.signal(signal.SIGTERM, _terminate)
        except ValueError:  # not in the main thread
            previous = None
    try:
        return _execute(arguments, common)
    except UserError as error:
        if common.debug:
            raise
        log.error("decomcam-bench: %s", one_line(error))
        return error.exit_status
    except KeyboardInterrupt as error:
        what = "terminated" if isinstance(error, _Terminated) else "interrupted"
        log.error("decomcam-bench: %s; finished shards are kept, run the same command to go on", what)
        return 143 if isinstance(error, _Terminated) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if common.debug:
            raise
        log.error(
            "decomcam-bench: %s: %s; this is a fault of decomcam-bench, not yours: please report it with the output "
            "of the same command and --debug at %s (finished shards are kept)",
            type(error).__name__,
            one_line(error, 500),
            ISSUES,
        )
        log.debug("traceback", exc_info=True)
        # To those who run the gate 1 means that a number regressed.
        return 2 if arguments[:1] == ["check"] else 1
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def one_line(error: BaseException, most: int = 4000) -> str:
    """Return the message of an exception on one line of at most so many letters."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands."""
    parser = _Parser(
        prog="decomcam-bench",
        description="A benchmark of saliency maps for CLIP-like models.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common()],
    )
    parser.add_argument("--version", action="version", version=f"decomcam-bench {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        importlib.import_module(f"decomcam_bench.cli.{name}").add_parser(subparsers)
    return parser


def _execute(arguments: list[str], common: argparse.Namespace) -> int:
    """Parse and run a sub-command.

    Raises:
        UserError: for anything that cannot be parsed, and whatever the command raises.
    """
    from decomcam_bench.config import sources

    parser = build_parser()
    word = next((w for w in arguments if not w.startswith("-")), "")
    if word and word not in COMMANDS:
        raise UserError(f"unknown command '{word}'{did_you_mean(word, COMMANDS)}; valid: {', '.join(COMMANDS)}")
    parsed, rest = parser.parse_known_args(arguments)
    if rest:
        # Words after an option, which argparse gives no list that could have ended before it.
        name = "overrides" if hasattr(parsed, "overrides") else "keys"
        words = getattr(parsed, name, None)
        wrong = [w for w in rest if w.startswith("-")] or (rest if words is None else [])
        if wrong:
            command = f" {parsed.command}" if parsed.command else ""
            hint = _nearest_option(parser, parsed.command, wrong[0])
            if parsed.command == "table" and "=" in wrong[0] and not wrong[0].startswith("-"):
                hint = f" (to filter rows: --where {wrong[0]})"
            raise UserError(f"unrecognized arguments: {' '.join(wrong)}{hint}; see decomcam-bench{command} --help")
        setattr(parsed, name, [*(words or []), *rest])
    if parsed.command is None:
        parser.print_help()
        return 0
    sources.reach(os.getcwd())
    for folder in common.include:
        sources.include(folder)
    return int(parsed.execute(parsed))


def _nearest_option(parser: argparse.ArgumentParser, command: str | None, word: str) -> str:
    choices = next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})
    chosen = choices.get(command) if command else parser
    options = [name for name in (chosen or parser)._option_string_actions if name.startswith("--")]
    return did_you_mean(word.partition("=")[0], options)


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """Add the parser of a sub-command, with its one-line summary, its examples and the common options."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common()],
    )


def add_overrides(parser: argparse.ArgumentParser, explained: str) -> None:
    """Add the words ``key=value``, which a shell can complete."""
    action = parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=explained)

    def complete(prefix: str, parsed_args: argparse.Namespace, **rest: Any) -> list[str]:
        from decomcam_bench.cli.completion import override_words

        return override_words(prefix, parsed_args, **rest)

    action.completer = complete  # type: ignore[attr-defined]


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the store."""
    parser.add_argument("--results", default="results", metavar="DIR", help="root of the store (default: results)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes the answer one JSON document on stdout."""
    parser.add_argument("--json", action="store_true", help="print one JSON document, for scripts")
