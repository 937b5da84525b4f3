"""The command `tallystick witness`: make the key once, print it, co-sign."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from config.witness import WitnessConfig

ACTIONS = ("key", "init")


def witness_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments: `CONFIG`, `key CONFIG` or `init DIR`."""
    parser.add_argument("words", metavar="[key|init] PATH", nargs="+", help=say("platform.help_witness"))
    parser.add_argument("--name", default="witness.example", help=say("platform.help_witness_name"))
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8471", help=say("platform.help_listen"))
    parser.add_argument("--log", metavar="VKEY", action="append", default=[], help=say("platform.help_log"))


def witness_command(args: argparse.Namespace, say: Say) -> int:
    """Run the service until SIGTERM, or do what the first word says."""
    from config.witness import load_witness
    from protocols.errors import ConfigError, Problem

    action, rest = (args.words[0], args.words[1:]) if args.words[0] in ACTIONS else ("run", args.words)
    if len(rest) != 1:
        raise ConfigError(Problem.of("tallystick witness", "platform.one_path"))
    path = Path(rest[0])
    if action == "init":
        path = _init(path, args)
    config = load_witness(path)
    if action == "run":
        return _serve(config)
    key = _vkey(config, make=True)
    print(key)
    return 0


def _init(folder: Path, args: argparse.Namespace) -> Path:
    """Write a commented configuration; the key follows when it is printed."""
    from config.listening import example, fill, split_address

    host, port = split_address(args.listen)
    target = folder / "witness.toml"
    text = fill(example("witness.toml"), {"name": args.name, "host": host, "port": port})
    logs = "".join(f'  "{line}",\n' for line in args.log)
    text = text.replace("logs = [\n]", f"logs = [\n{logs}]")
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8") as file:
        file.write(text)
    return target


def _vkey(config: WitnessConfig, *, make: bool) -> str:
    from protocols.evidence import keys, note

    if make and not config.key_file.exists():
        keys.save(keys.generate(), config.key_file)
    key = keys.load(config.key_file)
    return str(note.VerifierKey(config.name, note.COSIGNATURE_V1, keys.public_bytes(key)))


def _serve(config: WitnessConfig) -> int:
    from protocols.evidence import keys
    from verifier.witness.serving import serve
    from verifier.witness.state import Book
    from verifier.witness.web import application

    vkey = _vkey(config, make=True)
    book = Book(config.state_dir, name=config.name, key=keys.load(config.key_file), logs=config.logs)
    try:
        serve(lambda: application(book, prefix=config.prefix), config.listening,
              {"service": "witness", "vkey": vkey, "prefix": config.prefix, "logs": sorted(config.logs)})
    finally:
        book.close()
    return 0
