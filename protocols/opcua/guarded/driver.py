"""asyncua's client under guard.

asyncua does the socket, the secure channel, the session and the encoding of requests. What leaves and what comes in is
watched here: a request that is not in READ_ONLY_REQUESTS does not leave, and no header makes us wait for gigabytes.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asyncua import ua as _ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UASocketProtocol
from asyncua.client.ua_session import UaSession
from asyncua.common.shortcuts import Shortcuts
from asyncua.common.utils import Buffer
from asyncua.crypto import security_policies
from asyncua.ua.ua_binary import nodeid_to_binary, struct_to_binary

from protocols.opcua import chunks
from protocols.opcua.columns import EPOCH_TICKS
from protocols.opcua.target import OpcUaEndpoint

ua: Any = _ua
"""Untyped here: asyncua fills this package with star imports and generated classes that mypy cannot follow."""

SESSION_TIMEOUT_S = 60.0
CHANNEL_LIFETIME_S = 3600.0
_TIME_AND_HANDLE = struct.Struct("<qI")
READ_RESPONSE = bytes(nodeid_to_binary(ua.FourByteNodeId(ua.ObjectIds.ReadResponse_Encoding_DefaultBinary)))
READ_REQUEST = bytes(nodeid_to_binary(ua.FourByteNodeId(ua.ObjectIds.ReadRequest_Encoding_DefaultBinary)))

READ_ONLY_REQUESTS: tuple[type, ...] = (
    ua.CreateSessionRequest, ua.ActivateSessionRequest, ua.CloseSessionRequest, ua.ReadRequest, ua.BrowseRequest,
    ua.CreateSubscriptionRequest, ua.DeleteSubscriptionsRequest, ua.CreateMonitoredItemsRequest, ua.PublishRequest,
    ua.RepublishRequest, ua.BrowseNextRequest, ua.TransferSubscriptionsRequest,
)

POLICY_CLASSES: dict[str, Any] = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256_Sha256_RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}
REFUSED_LOGIN = frozenset((ua.StatusCodes.BadUserAccessDenied, ua.StatusCodes.BadIdentityTokenRejected,
                            ua.StatusCodes.BadIdentityTokenInvalid))

DISTRUST = frozenset((ua.StatusCodes.BadCertificateUntrusted, ua.StatusCodes.BadSecurityChecksFailed,
                       ua.StatusCodes.BadCertificateInvalid, ua.StatusCodes.BadCertificateUseNotAllowed,
                       ua.StatusCodes.BadCertificateUriInvalid, ua.StatusCodes.BadCertificateTimeInvalid))
"""How a server says that it does not take our certificate."""


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError after that time, as asyncio.timeout does, around what asyncua waits for.

    If an answer comes as the time runs out, asyncua raises a CancelledError of a kind of its own. asyncio.timeout takes
    that for somebody else's: a task was then cancelled that nobody had cancelled, and whoever watched it ended.
    """
    async with asyncio.timeout(seconds):
        try:
            yield
        except asyncio.CancelledError as error:
            raise asyncio.CancelledError from error


class GuardedSession(UaSession):
    """A session that sends the allowed requests only, and leaves publishing to the driver.

    is_fast: chunks are made and opened by `chunks.py` where that can do it; else by asyncua.
    """

    is_fast = True

    def __init__(self, client: Any, allowed: tuple[type, ...]) -> None:
        super().__init__(client)
        self._allowed = allowed
        self._header_for: tuple[Any, float] | None = None
        self._header = bytearray(), 0

    async def _send_request(self, request: Any, timeout: float | None = None,  # noqa: ASYNC109 -- asyncua's signature
                            message_type: Any = ua.MessageType.SecureMessage) -> Buffer:
        if not isinstance(request, self._allowed):
            raise AssertionError(f"{type(request).__name__} is not a request that may leave")
        return await super()._send_request(request, timeout, message_type)

    def ensure_publish_loop(self) -> None:
        """Start nothing: the collector asks for notifications."""

    async def exchange(self, request: Any, timeout_s: float | None = None) -> bytes:
        """Send a request and return the body of its response. A ServiceFault raises; timeout_s 0 waits for ever."""
        return bytes(await self._send_request(request, timeout_s))

    async def read_again(self, requests: Sequence[bytes]) -> list[bytes]:
        """Send ReadRequests whose parameters are encoded already, all at once; return the bodies of their responses.

        What asyncua does for a request of its own, but for the encoding: a thousand nodes take it some milliseconds.
        """
        protocol = self._client.protocol
        if protocol is None or protocol.transport is None:
            raise ConnectionError("not connected")
        protocol.revolve_security_token()
        loop = asyncio.get_running_loop()
        header, at = self._read_header(protocol)
        messages, answers = [], []
        for parameters in requests:
            protocol._request_handle += 1
            _TIME_AND_HANDLE.pack_into(header, at, time.time_ns() // 100 + EPOCH_TICKS, protocol._request_handle)
            number = protocol._request_id + 1
            messages.append(chunks.sealed(protocol._connection, header, parameters, number) if self.is_fast else
                            protocol._connection.message_to_binary(bytes(header) + parameters, request_id=number))
            protocol._request_id = number
            answers.append(loop.create_future())
            protocol._callbackmap[number] = answers[-1]
        protocol.transport.write(b"".join(messages))
        try:
            async with asyncio.timeout(protocol.timeout):
                for answer in reversed(answers):  # the last comes last: one waking for all
                    await answer
        finally:
            for answer in answers:
                answer.cancel()
        bodies = [bytes(answer.result()) for answer in answers]
        for body in bodies:
            if not body.startswith(READ_RESPONSE):
                protocol.check_answer(Buffer(body), " in response to a prepared ReadRequest")
        return bodies

    def _read_header(self, protocol: UASocketProtocol) -> tuple[bytearray, int]:
        """Return a ReadRequest's type and header, and where time and handle stand in it."""
        made_for = protocol.authentication_token, protocol.timeout
        if made_for != self._header_for:
            token = bytes(nodeid_to_binary(protocol.authentication_token))
            header = ua.RequestHeader(AuthenticationToken=protocol.authentication_token,
                                      TimeoutHint=int(protocol.timeout * 1000))
            self._header_for = made_for
            self._header = bytearray(READ_REQUEST + struct_to_binary(header)), len(READ_REQUEST + token)
        return self._header


class GuardedClient(Client):
    """asyncua's client with our session, and a guard on what it receives. allowed: requests that may leave."""

    def __init__(self, endpoint: OpcUaEndpoint, allowed: tuple[type, ...] = READ_ONLY_REQUESTS) -> None:
        super().__init__(endpoint.url, timeout=endpoint.timeout_s)
        self.our_session = GuardedSession(self.uaclient, allowed)
        self.uaclient.session = self.our_session
        self.nodes = Shortcuts(self.our_session)  # else they would keep the session made above, which may write
        self.name = self.description = "Tallystick"
        self.product_uri = "urn:tallystick"
        self.session_timeout = int(SESSION_TIMEOUT_S * 1000)
        self.secure_channel_timeout = int(CHANNEL_LIFETIME_S * 1000)

    async def connect_socket(self) -> None:
        """Connect, and look at every byte from then on. Raises OSError.

        Who has hung up by now is gone: asyncua would say its hello to nobody and wait out the time for the answer.
        """
        await super().connect_socket()
        protocol = self.uaclient.protocol
        if protocol is None or protocol.is_closed:
            raise ConnectionError("it hung up")
        guard(protocol)


def guard(protocol: UASocketProtocol) -> None:
    """Close a connection that announces more than the limits, before it fills the memory; open what is common here."""
    stream, receive, connection = chunks.Chunks(), protocol.data_received, protocol._connection

    def received(data: bytes) -> None:
        whole = stream.cut(data)
        if whole is None:
            protocol.disconnect_socket()
            return
        for chunk in whole:
            answer = None
            if GuardedSession.is_fast and not protocol.receive_buffer:  # else asyncua waits for more of a crippled one
                answer = chunks.opened(connection, chunk, protocol._callbackmap)
            if answer is not None:
                protocol._call_callback(answer[0], Buffer(answer[1]))
                continue
            receive(chunk)
            if protocol.transport is None or protocol.transport.is_closing():
                return

    protocol.data_received = received  # type: ignore[method-assign]  # the transport looks it up for every read
