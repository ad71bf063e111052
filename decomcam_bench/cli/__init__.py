"""The command line. Each sub-command is one module with ``add_parser`` and ``execute``.

To add one, write the module and name it in :data:`COMMANDS`. Modules import what is heavy inside
``execute``, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from decomcam_bench import __version__
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
)

_EPILOG = """\
examples:
  decomcam-bench run                                        the embedded benchmark: toybox, toyclip, DecomCAM
  decomcam-bench run method=decomcam,gradcam rank=1,5,10    a sweep
  decomcam-bench run dataset=voc dataset.root=VOCdevkit     a real benchmark
  decomcam-bench table                                      every cell of the store
  decomcam-bench explain photo.jpg --text "a cat"           the maps of one picture, as a figure
  decomcam-bench COMMAND --help                             more of each
"""


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns the exit status: 0, 1 (failed) or 2 (for the user to mend, or nothing to judge)."""
    # Not list(): once imported, the sub-command `list` is what that name means in this package.
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in arguments
    parser = _Parser(
        prog="decomcam-bench",
        description="A benchmark of saliency maps for CLIP-like models.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"decomcam-bench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        importlib.import_module(f"decomcam_bench.cli.{name}").add_parser(subparsers)
    word = next((w for w in arguments if not w.startswith("-")), "")
    try:
        if word and word not in COMMANDS:
            raise UserError(f"unknown command '{word}'{did_you_mean(word, COMMANDS)}; valid: {', '.join(COMMANDS)}")
        parsed, rest = parser.parse_known_args([w for w in arguments if w != "--debug"])
        if rest:
            # Words behind an option, which argparse gives no list that could have ended before it.
            words = getattr(parsed, "overrides", getattr(parsed, "keys", None))
            if words is None or any(w.startswith("-") for w in rest):
                raise UserError(f"unrecognized arguments: {' '.join(rest)}; see decomcam-bench {parsed.command} --help")
            words += rest
        if parsed.command is None:
            parser.print_help()
            return 0
        return int(parsed.execute(parsed))
    except UserError as error:
        if debug:
            raise
        print(f"decomcam-bench: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("decomcam-bench: interrupted; finished parts are kept, run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        print(
            f"decomcam-bench: {type(error).__name__}: {text}; finished parts are kept, --debug shows where",
            file=sys.stderr,
        )
        # To those who run the gate 1 means that a number regressed.
        return 2 if word == "check" else 1


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """A sub-command's parser, with its one-line summary and its examples."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
