"""An asyncua server that refuses and counts whatever would change it: a gateway must never send such a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from asyncua.common.utils import ServiceError
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.ua.status_codes import StatusCodes


class ReadOnlyServer(InternalServer):
    """asyncua's server behind the protocol, with sessions from outside that may only read. refused: how many tried.

    refused_of_process: the same for every server of this process; the tests compare it.
    """

    refused_of_process: ClassVar[int] = 0
    session_class: ClassVar[type[ReadOnlySession]]

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def create_session(self, name: str, user: Any = None, external: bool = False) -> InternalSession:
        """Return a session; one from outside may only read."""
        more = {} if user is None else {"user": user}
        if not external:
            return super().create_session(name, **more)
        return self.session_class(self, self.aspace, self.subscription_service, name, external=True, **more)


class ReadOnlySession(InternalSession):
    """A session from outside."""

    iserver: ReadOnlyServer

    def _refuse(self) -> NoReturn:
        self.iserver.refused += 1
        ReadOnlyServer.refused_of_process += 1
        raise ServiceError(StatusCodes.BadServiceUnsupported)


ReadOnlyServer.session_class = ReadOnlySession


def _refusing(name: str) -> Callable[..., Any]:
    async def refuse(self: ReadOnlySession, *_args: Any, **_more: Any) -> NoReturn:
        self._refuse()

    refuse.__name__ = name
    return refuse


CHANGING = ("write", "call", "add_nodes", "delete_nodes", "add_references", "delete_references", "history_update")
for _name in CHANGING:
    assert hasattr(InternalSession, _name), f"asyncua has no {_name} any more"
    setattr(ReadOnlySession, _name, _refusing(_name))
