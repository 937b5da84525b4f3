"""`init`: a new folder with a commented configuration and keys; or one that takes the place of a PC that is gone."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.commissioning import roster
from gateway.commissioning.backup import FILES, TEMPLATES, Backup
from gateway.commissioning.state import State
from protocols import system
from protocols.errors import ConfigError, Problem

EXAMPLE_USCC = "91320594MAEXAMPLEB"
EXAMPLE_SITE = "示例工厂 1 号车间"
EXAMPLE_DATE = "2026-11-01"
BOM = "\ufeff".encode()
"""Excel on a Chinese PC takes a CSV without it for GB 18030."""

SUPERSEDED = "superseded"
"""Folder of the state: <gateway id>/ of the PC that is gone, needed to open its devices to an auditor."""


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `init` made. config: the TOML file. superseded: id of the gateway that the restored PC was, else None."""

    config: Path
    state: State
    superseded: str | None = None


def initialise(folder: Path, *, site: str | None, uscc: str | None, k: bytes | None, today: date) -> Initialised:
    """Write the three example files and make the keys.

    Args:
        site, uscc: filled in where given; without `uscc` the file asks for it before anything can start.
        k: the enterprise's K, if another of its gateways has one already.
    Raises: ConfigError `commissioning.exists` for everything that is in the way; nothing is written then.
    """
    examples = resources.files("config") / "examples"
    contents = {}
    for name in FILES:
        text = (examples / name).read_text(encoding="utf-8").replace(EXAMPLE_USCC, uscc or "")
        if name.endswith(".toml"):
            text = text.replace(EXAMPLE_DATE, today.isoformat())
            if site is not None:
                text = text.replace(json.dumps(EXAMPLE_SITE, ensure_ascii=False), json.dumps(site, ensure_ascii=False))
        contents[name] = text.encode() if name.endswith(".toml") else BOM + text.encode()
    state = State(folder / "state")
    _write(folder, contents, state)
    state.create_keys(k)
    return Initialised(folder / FILES[0], state)


def restore(folder: Path, backup: Backup) -> Initialised:
    """Write what a backup holds, with a new gateway key: this PC is a new gateway that supersedes the old one.

    The slots keep their numbers and private parts, so that lists stay comparable; the address tags are made anew,
    because they name the gateway. What the old gateway needs to open its devices is kept below `state/superseded`.
    Raises: ConfigError `commissioning.exists`, `commissioning.no_backup`.
    """
    toml = backup.files[FILES[0]]
    try:
        table = tomllib.loads(toml.decode("utf-8-sig")).get("gateway", {})
    except (ValueError, RecursionError) as error:
        raise ConfigError(Problem.of(backup.toml_name, "config.bad_toml", reason=error)) from error
    names = {FILES[0]: backup.toml_name}
    for kind, name in (("devices", FILES[1]), ("points", FILES[2]), ("templates", TEMPLATES)):
        names[name] = _below(str(table.get(kind, name)), name)
    state = State(folder / str(table.get("state_dir", "state")))
    key = load_pem_private_key(backup.recovery_key.encode(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(Problem.of("recovery_key", "commissioning.no_backup", reason="not an Ed25519 key"))
    _write(folder, {names[name]: raw for name, raw in backup.files.items()}, state)
    state.create_keys(backup.k, key)
    kept = state.dir / SUPERSEDED / backup.gateway
    kept.mkdir(parents=True, mode=0o700)
    for path, text in ((kept / "enrolment.json", backup.enrolment), (kept / "roster.json", backup.roster)):
        if text is not None:
            system.write_private(path, text.encode())
    if backup.roster is not None:
        held = roster.load(kept / "roster.json")
        assert held is not None
        roster.save(roster.moved(held, gateway=state.gateway_id(), key=backup.k), state.roster_file)
    return Initialised(folder / backup.toml_name, state, backup.gateway)


def _below(name: str, default: str) -> str:
    """Return where a file of a backup goes: beside the TOML file it named, never outside the folder."""
    return name if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) and ".." not in name.split("/") else default


def _write(folder: Path, contents: Mapping[str, bytes], state: State) -> None:
    wanted = [*(folder / name for name in contents), state.keys_dir, state.enrolment_file, state.roster_file,
              state.journal_dir]
    there = [path for path in wanted if os.path.lexists(path)]
    if there:
        raise ConfigError([Problem.of(str(path), "commissioning.exists") for path in there])
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(raw)
