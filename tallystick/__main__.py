"""The command `tallystick`: finds the room that has a command, lets it run, and tells people what went wrong.

Nothing heavy is imported here. A room's `commands.py` is loaded when its command is called, and the libraries behind
it when it runs: `tallystick verify` works where neither numpy nor a device library is installed.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from protocols import system
from protocols.errors import ConfigError, Problem, TallystickError
from tallystick.words.lookup import LANGUAGES, Words, language, printable

EXIT_FAILED = 1
EXIT_USAGE = 2
"""Also argparse's own. A service manager must not restart what ends so: a wrong file does not mend itself."""
EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

ROOMS = ("tallystick", "gateway", "verifier", "simulators", "config", "protocols")


@dataclass(frozen=True, slots=True)
class Room:
    """Where a command lives, and the extra that its libraries come with; the base install needs none."""

    module: str
    extra: str = ""


GATEWAY = Room("gateway.commands", "gateway")
COMMISSIONING = Room("gateway.commissioning_commands", "gateway")
VERIFIER = Room("verifier.commands")
AUDIT = Room("verifier.audit.commands")
SAMPLING = Room("verifier.sampling.commands")
PLATFORM = Room("verifier.platform.commands", "platform")

COMMANDS: dict[str, Room] = {
    "demo": Room("tallystick.demo", "demo"),
    "simulate": Room("simulators.commands", "simulators"),
    "init": COMMISSIONING,
    "enrol": COMMISSIONING,
    "backup": COMMISSIONING,
    "discover": Room("gateway.commissioning.discover", "gateway"),
    "trust": COMMISSIONING,
    "check": COMMISSIONING,
    "plan": COMMISSIONING,
    "status": GATEWAY,
    "run": GATEWAY,
    "reload": GATEWAY,
    "bundle": GATEWAY,
    "open": Room("gateway.keeping.commands", "gateway"),
    "rotate": GATEWAY,
    "revoke": GATEWAY,
    "platform": PLATFORM,
    "witness": Room("verifier.witness.commands", "platform"),
    "import": PLATFORM,
    "verify": VERIFIER,
    "show": VERIFIER,
    "count": AUDIT,
    "audit": AUDIT,
    "export": Room("verifier.forms.commands", "documents"),
    "sign": Room("verifier.statements.commands"),
    "sample": SAMPLING,
    "spotcheck": SAMPLING,
    "conformance": Room("verifier.conformance.commands"),
    "chain": Room("verifier.chain_command"),
    "gaps": Room("verifier.raw.gaps_command", "raw"),
    "explain": Room("tallystick.__main__"),
}
"""In the order of the help. A command whose functions are not written yet is not offered: see `available`."""


def available(command: str) -> bool:
    """Return whether the room of a command has its two functions, without running a line of that room."""
    room = COMMANDS[command]
    try:
        spec = find_spec(room.module)
    except ModuleNotFoundError:  # a folder above it is missing
        return False
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin).read_text(encoding="utf-8")
    return all(re.search(rf"^def {command}_{part}\(", source, re.MULTILINE) for part in ("arguments", "command"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. With TALLYSTICK_DEBUG=1 an unexpected error is raised as it is."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    words = Words(language(_chosen_language(arguments), os.environ))
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character gets its number, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments, words)
        sys.stdout.flush()  # here, where a closed pipe can still be answered quietly
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return _report(error, arguments, words)
    return status


def _run(arguments: list[str], words: Words) -> int:
    """Parse and call. The functions of a room are loaded only when its command stands on the line."""
    parser = _parser(words)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title=words("cli.commands"))
    for command in filter(available, _named(arguments) or COMMANDS):
        summary = words(f"cli.command.{command}")
        # resolve: a room may give an option of every command a meaning of its own
        sub = commands.add_parser(command, help=summary, description=summary, allow_abbrev=False,
                                  conflict_handler="resolve")
        _common_options(sub, words, default=argparse.SUPPRESS)
        if command in arguments:
            import_module(COMMANDS[command].module).__dict__[f"{command}_arguments"](sub, words)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as done:  # argparse printed help, version or usage
        return done.code if isinstance(done.code, int) else EXIT_USAGE
    _set_up_logging(sys.stderr, verbosity=args.verbose - args.quiet)
    if args.command is None:
        parser.print_help()
        return 0
    run = import_module(COMMANDS[args.command].module).__dict__[f"{args.command}_command"]
    return int(run(args, words))


def _named(arguments: Sequence[str]) -> list[str]:
    """Return the command where the line begins with one: then the parser need not know the others, which takes time."""
    begin = arguments[2:3] if arguments[:1] == ["--lang"] else arguments[:1]
    return [command for command in begin if command in COMMANDS and available(command)]


def _parser(words: Words) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tallystick", description=words("cli.description"), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_examples(words))
    parser.add_argument("--version", action="version", version=f"tallystick {_version()}", help=words("cli.version"))
    _common_options(parser, words, default=None)
    return parser


def _common_options(parser: argparse.ArgumentParser, words: Words, *, default: str | None) -> None:
    """The options that every command has, before or after its name; SUPPRESS keeps the value given before it."""
    counted = 0 if default is None else default
    parser.add_argument("--lang", choices=LANGUAGES, default=default, help=words("cli.lang"))
    parser.add_argument("-v", "--verbose", action="count", default=counted, help=words("cli.verbose"))
    parser.add_argument("-q", "--quiet", action="count", default=counted, help=words("cli.quiet"))


def _examples(words: Words) -> str:
    """Return the lines below the help: one example for each of a few commands, of those that exist."""
    shown = [(command, words(f"cli.example.{command}")) for command in ("demo", "check", "verify", "explain")
             if available(command)]
    return "\n".join([words("cli.examples"), *(f"  tallystick {line}" for _, line in shown)])


def _chosen_language(arguments: Sequence[str]) -> str | None:
    """Return the value of --lang wherever it stands: the help is written in it, so it is needed before parsing."""
    chosen = None
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--lang" and place + 1 < len(arguments):
            chosen = arguments[place + 1]
        elif argument.startswith("--lang="):
            chosen = argument.removeprefix("--lang=")
    return chosen


def _version() -> str:
    try:
        return installed_version("tallystick")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "(not installed)"


def explain_arguments(parser: argparse.ArgumentParser, say: Words) -> None:
    """Arguments of `tallystick explain`."""
    parser.add_argument("code", metavar="CODE", nargs="*", help=say("cli.explain.code"))


def explain_command(args: argparse.Namespace, say: Words) -> int:
    """Print meaning, usual cause and fix of each code; without a code, list all that have a cause or a fix.

    Raises: ConfigError naming every code that has no sentence, with the codes that are spelled alike.
    """
    explained = [code for code in say.codes() if (say.explain(code) or {}).keys() & {"cause", "fix"}]
    if not args.code:
        for code in explained:
            print(f"{code}  {_readable((say.explain(code) or {}).get('text', ''))}")
        return 0
    unknown = [code for code in args.code if say.explain(code) is None]
    if unknown:
        raise ConfigError(Problem.of(
            "explain", "cli.unknown_code", code=code,
            similar=", ".join(difflib.get_close_matches(code, explained, n=3)) or "-") for code in unknown)
    for code in args.code:
        print(code)
        for part, sentence in (say.explain(code) or {}).items():
            print(f"  {say(f'cli.explain.{part}')}: {_readable(sentence)}")
    return 0


def _readable(sentence: str) -> str:
    """Return a sentence with each place that a run would fill shown as <name>."""
    return re.sub(r"\{(\w+)\}", r"<\1>", sentence).replace("{{", "{").replace("}}", "}")


def _report(error: Exception, arguments: Sequence[str], words: Words) -> int:
    """Tell a person what happened, on stderr, and return the exit status. Never a traceback, but for developers."""
    if isinstance(error, BrokenPipeError) and _reader_went_away():
        return EXIT_BROKEN_PIPE
    causes = list(_leaves(error))
    ours = [cause for cause in causes if isinstance(cause, TallystickError)]
    if ours and len(ours) == len(causes):
        _print_problems([problem for cause in ours for problem in cause.problems], words)
        return EXIT_USAGE if any(isinstance(cause, ConfigError) for cause in ours) else EXIT_FAILED
    if os.environ.get("TALLYSTICK_DEBUG") == "1":
        raise error
    if len(causes) == 1:
        known = _known(causes[0], arguments)
        if known is not None:
            problem, status = known
            _print_problems([problem], words)
            return status
    _print_problems([Problem.of("tallystick", "cli.unexpected", kind=type(cause).__name__, message=cause)
                     for cause in causes], words)
    return EXIT_UNEXPECTED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield what a group of a task group holds, however deep; an error outside a group is its own only leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _known(error: BaseException, arguments: Sequence[str]) -> tuple[Problem, int] | None:
    """Return what a missing library or an unusable file means to a user, with the exit status; None for the rest."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] not in ROOMS:
        command = next((a for a in arguments if a in COMMANDS), "")
        extra = COMMANDS[command].extra if command else ""
        code = "cli.missing_extra" if extra else "cli.missing_library"
        return Problem.of(f"tallystick {command}".rstrip(), code, library=error.name, extra=extra), EXIT_USAGE
    if isinstance(error, OSError) and error.filename is not None:
        user_gave_it = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
        problem = Problem.of(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "tallystick",
                             "cli.file", reason=error.strerror or type(error).__name__)
        return problem, EXIT_USAGE if user_gave_it else EXIT_FAILED
    return None


def _reader_went_away() -> bool:
    """Return whether nobody reads our output any more; if so nothing more is written there, also not at exit.

    A connection to a device that breaks raises the same error as `tallystick ... | head`, and is no reason to be quiet.
    """
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # replaced by something that is no file
        return False
    if not system.hung_up(output):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _print_problems(problems: Sequence[Problem], words: Words) -> None:
    """Print each problem as `error: where: text`, a blank line, `hint: fix`; then where to read more."""
    red, cyan, plain = ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") if _has_colours(sys.stderr) else ("", "", "")
    paragraphs = []
    for problem in problems:
        told = words.tell(problem.code, **{"where": problem.where, **dict(problem.args)})
        paragraphs.append(f"{red}{words('cli.error')}{plain}: {printable(problem.where)}: {told.text}")
        if told.fix:
            paragraphs.append(f"{cyan}{words('cli.hint')}{plain}: {told.fix}")
    explained = sorted({p.code for p in problems if "cause" in (words.explain(p.code) or {})})
    if explained:
        paragraphs.append(f"{cyan}{words('cli.more')}{plain}: tallystick explain {' '.join(explained)}")
    print("\n\n".join(paragraphs), file=sys.stderr)


def _has_colours(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal whose user has not asked for plain text (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Lines(logging.Formatter):
    """One record, one line, with the zone of its time: what a device sent cannot forge a second one."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self.tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception is its type and message, and its traceback only for who asked for it."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        line = f"{when} {record.levelname} {record.name}: {printable(record.getMessage())}"
        if record.exc_info is None or record.exc_info[1] is None:
            return line
        if self.tracebacks:
            return f"{line}\n{self.formatException(record.exc_info)}"
        error = record.exc_info[1]
        return f"{line} ({type(error).__name__}: {printable(str(error))})"


def _set_up_logging(stream: TextIO, *, verbosity: int) -> None:
    """Log to `stream`: our rooms from INFO, libraries from WARNING; each -v shows one level more, each -q one less."""
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(tracebacks=verbosity > 0 or os.environ.get("TALLYSTICK_DEBUG") == "1"))
    logging.basicConfig(handlers=[handler])  # does nothing where the caller has set up logging already
    root = logging.getLogger()
    root.setLevel(levels[min(max(2 - verbosity, 0), 4)])
    for room in ROOMS:
        logging.getLogger(room).setLevel(levels[min(max(1 - verbosity, 0), 4)])


if __name__ == "__main__":
    sys.exit(main())
