"""Where a service listens, and whether it speaks TLS: the same table for platform and witness."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import Field

from config.loader import Section
from protocols.errors import ConfigError, Problem

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ListenTable(Section):
    """[listen]: address, and the certificate for TLS. Without one, plain HTTP on loopback only."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_535)
    cert_file: str | None = None
    key_file: str | None = None
    allow_plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Checked; paths are absolute. Port 0 means: any free one."""

    host: str
    port: int
    cert_file: Path | None
    key_file: Path | None

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, None for plain HTTP. Raises ConfigError if certificate and key do not load."""
        if self.cert_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(Problem.of(str(self.cert_file), "platform.config_certificate", reason=error)) from error
        return context

    def url(self, port: int) -> str:
        """Return the URL of this service on the port that it got."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.cert_file is None else 'https'}://{host}:{port}"


def listening(table: ListenTable, base: Path, where: str) -> tuple[Listening | None, list[Problem]]:
    """Return the checked table, or None and what is wrong with it."""
    problems = []
    if (table.cert_file is None) != (table.key_file is None):
        problems.append(Problem.of(where, "platform.config_half_tls"))
    if table.cert_file is None and not table.allow_plain and table.host not in LOOPBACK:
        problems.append(Problem.of(where, "platform.config_plain", host=table.host))
    if problems:
        return None, problems
    return Listening(host=table.host, port=table.port, cert_file=base / table.cert_file if table.cert_file else None,
                     key_file=base / table.key_file if table.key_file else None), []


def split_address(text: str) -> tuple[str, int]:
    """Split `host:port` of a command line. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(Problem.of("--listen", "platform.config_address", value=text[:80]))
    return host.strip("[]"), int(port)


def example(name: str) -> str:
    """Return the commented example configuration `name`."""
    return files("config").joinpath("examples", name).read_text(encoding="utf-8")


def fill(text: str, values: Mapping[str, str | int]) -> str:
    """Return an example with the first `key = ...` line of each key given another value; its comment stays."""
    for key, value in values.items():
        shown = str(value) if isinstance(value, int) else f'"{value}"'
        line = re.search(rf"^{key} = (\"[^\"]*\"|\S+)", text, re.MULTILINE)
        if line is None:
            raise KeyError(key)
        text = f"{text[:line.start(1)]}{shown}{text[line.end(1):]}"
    return text
