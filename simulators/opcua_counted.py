"""asyncua's server, watched where it answers: which values of which nodes leave, and in which bytes.

Beyond asyncua's public interface this uses: BinaryServer._make_protocol, OPCUAProtocol.processor and its
send_response, InternalSession.read and create_monitored_items. A test fails when one of them changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from asyncua import ua as _ua
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.server import Server
from asyncua.server.uaprocessor import UaProcessor

from simulators.opcua_readonly import ReadOnlyServer, ReadOnlySession

ua: Any = _ua
"""Untyped here: asyncua fills this package with star imports and generated classes that mypy cannot follow."""

Left = Callable[[Any, int, Iterable[Any], str], None]
"""Is told: the peer, how many bytes were written, the nodes whose values they hold, and the kind of message."""


class _CountingTransport:
    """A transport that knows how much was written."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Processor(UaProcessor):
    """Answers as asyncua does, and tells what it answered."""

    def __init__(self, plain: UaProcessor, transport: _CountingTransport, left: Left) -> None:
        super().__init__(plain.iserver, transport, plain._limits)
        self._left = left
        self._told = 0

    def send_response(self, requesthandle: Any, seqhdr: Any, response: Any, msgtype: Any = ua.MessageType.SecureMessage,
                      ) -> None:
        """Send, then tell; what was written before without an answer (an acknowledgement) is told with it."""
        super().send_response(requesthandle, seqhdr, response, msgtype)  # type: ignore[no-untyped-call]  # asyncua's
        nodes: list[Any] = []
        kind = type(response).__name__.removesuffix("Response")
        session = self.session
        if isinstance(session, CountedSession):
            if isinstance(response, ua.PublishResponse):
                nodes = session.nodes_in(response.Parameters.SubscriptionId, response.Parameters.NotificationMessage)
            elif isinstance(response, ua.RepublishResponse):
                nodes = session.nodes_again(response.NotificationMessage)
            elif isinstance(response, ua.ReadResponse):
                nodes, session.asked = session.asked, []
        total = self._transport.written
        self._left(self.name, total - self._told, nodes, kind)
        self._told = total


class CountedSession(ReadOnlySession):
    """A session from outside, with what it asked for."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.asked: list[Any] = []
        self._node_of: dict[tuple[int, int], Any] = {}
        self._subscription = 0

    async def read(self, params: Any) -> Any:
        """Read, and note the nodes whose values are asked for."""
        self.asked = [item.NodeId for item in params.NodesToRead if item.AttributeId == ua.AttributeIds.Value]
        return await super().read(params)

    async def create_monitored_items(self, params: Any) -> Any:
        """Note which client handle stands for which node."""
        results = await super().create_monitored_items(params)
        for item, result in zip(params.ItemsToCreate, results, strict=True):
            if result.StatusCode.is_good() and item.ItemToMonitor.AttributeId == ua.AttributeIds.Value:
                handle = item.RequestedParameters.ClientHandle
                self._node_of[params.SubscriptionId, handle] = item.ItemToMonitor.NodeId
        return results

    def nodes_in(self, subscription: int, message: Any) -> list[Any]:
        """Return the node of every value in a notification message."""
        self._subscription = subscription
        return [self._node_of.get((subscription, item.ClientHandle)) for data in message.NotificationData or ()
                if isinstance(data, ua.DataChangeNotification) for item in data.MonitoredItems]

    def nodes_again(self, message: Any) -> list[Any]:
        """Return the same for a message that is sent again; it does not say of which subscription."""
        return self.nodes_in(self._subscription, message)


class CountedInternalServer(ReadOnlyServer):
    """What stands behind the protocol."""

    session_class = CountedSession


class _Protocol(OPCUAProtocol):
    """One connection."""

    left: Left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        counting = _CountingTransport(transport)  # type: ignore[arg-type]  # TCP is a transport in both directions
        super().connection_made(counting)  # type: ignore[arg-type]  # it quacks
        if self.processor is not None:  # None: too many connections
            self.processor = _Processor(self.processor, counting, self.left)
            self.processor.set_policies(self.policies)  # type: ignore[no-untyped-call]  # asyncua's


class _Listener(BinaryServer):
    """The listening half."""

    left: Left

    def _make_protocol(self) -> OPCUAProtocol:
        made = _Protocol(iserver=self.iserver, policies=self._policies, clients=self.clients,
                         closing_tasks=self.closing_tasks, limits=self.limits)
        made.left = self.left
        return made


class CountedServer(Server):
    """asyncua's server that tells `left` what leaves, and that can go away and come back."""

    def __init__(self, left: Left) -> None:
        self.guarded = CountedInternalServer()
        super().__init__(iserver=self.guarded)
        self._left = left

    async def start(self) -> None:
        """Listen with a listener of our own in place of asyncua's."""
        await super().start()
        await self._listen_anew()

    async def _listen_anew(self) -> None:
        assert self.bserver is not None
        await self.bserver.stop()
        host, _ = self._get_bind_socket_info()
        listener = _Listener(self.iserver, host or "127.0.0.1", 0, self.limits)
        listener.left = self._left
        listener.set_policies(self._policies)
        self.bserver = listener
        await listener.start()

    async def forget(self) -> None:
        """End every connection, session and subscription, as a restart does."""
        assert self.bserver is not None
        await self.bserver.stop()
        for session in list(self.iserver._external_sessions.values()):
            await session.close_session(True)
        service = self.iserver.subscription_service
        await service.delete_subscriptions(list(service.subscriptions))

    async def come_back(self) -> None:
        """Listen again, on another port."""
        await self._listen_anew()

    @property
    def port(self) -> int:
        """Where it listens now."""
        assert self.bserver is not None
        return int(self.bserver.port)
