"""Where the gateway's local page listens, and for whom: loopback only, unless it is said in as many words."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pydantic import Field

from config.loader import Section
from protocols.errors import Problem

DEFAULT_LISTEN = "127.0.0.1:8421"
HOSTS_MAX = 20
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*\.?")


class WebTable(Section):
    """[web]: the local page, off while the table is absent. It has no login, and nothing can be changed from it.

    listen: IP address (or localhost) and port. allow_remote: must be true for an address that other machines reach.
    hosts: names under which it may be asked for besides IP addresses and localhost. values: show last values.
    """

    listen: str = DEFAULT_LISTEN
    allow_remote: bool = False
    hosts: list[str] = Field(default=[], max_length=HOSTS_MAX)
    values: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WebPage:
    """The table, checked. hosts: in lower case."""

    host: str
    port: int
    is_remote: bool
    hosts: frozenset[str]
    values: bool

    @property
    def url(self) -> str:
        """Return what to type into a browser on this machine, or the address that was configured."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def web_page(table: WebTable, where: str) -> tuple[WebPage | None, list[Problem]]:
    """Return the checked table, or None and what is wrong with it."""
    problems = [Problem.of(f"{where}.hosts", "web.bad_host", value=name[:80]) for name in table.hosts
                if _NAME.fullmatch(name) is None]
    host, _, port = table.listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = _address(bare)
    is_number = port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65_535
    if not is_number or (address is None and bare.lower() != "localhost") or (":" in bare) != (host != bare):
        return None, [*problems, Problem.of(f"{where}.listen", "web.bad_listen", value=table.listen[:80],
                                            example=DEFAULT_LISTEN)]
    is_remote = address is not None and not address.is_loopback
    if is_remote and not table.allow_remote:
        problems.append(Problem.of(f"{where}.listen", "web.remote", address=bare))
    if problems:
        return None, problems
    return WebPage(host=bare.lower(), port=int(port), is_remote=is_remote, values=table.values,
                   hosts=frozenset(name.lower().rstrip(".") for name in table.hosts)), []


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
