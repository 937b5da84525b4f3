"""The OPC UA driver: one session per server, subscriptions in batches. The only importer of asyncua here.

asyncua does the socket, the secure channel, the session and the encoding of requests. What it does not do is done here:
its publish loop drops a response that it cannot parse, its iterator drops what exceeds a queue, its reconnecting starts
without a certificate check. So the driver publishes itself, decodes into columns (codec.py), and reconnects itself.

Nothing is ever written: a request that is not in READ_ONLY_REQUESTS does not leave.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from asyncua import ua as _ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState, UASocketProtocol
from asyncua.client.ua_session import UaSession
from asyncua.common.shortcuts import Shortcuts
from asyncua.common.utils import Buffer, ServiceError
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.errors import ConfigError, DeviceError, Problem
from protocols.opcua import codec, session
from protocols.opcua.collector import PUBLISH_OUTSTANDING, Collector, Subscription
from protocols.opcua.commission import judge, plan_rows
from protocols.opcua.nameplate import read_nameplates
from protocols.opcua.pki import (
    OWN_CERTIFICATE,
    OwnCertificate,
    check_server_certificate,
    own_certificate,
    server_spki_sha256,
)
from protocols.opcua.target import SECURITY_POLICIES, Nameplate, OpcUaAddress, OpcUaEndpoint, OpcUaPoint
from protocols.samples import Sink
from protocols.terms.check import CheckResult

ua: Any = _ua
"""Untyped here: asyncua fills this package with star imports and generated classes that mypy cannot follow."""

NodeId = Any
CLOSE_S = 1.5
SESSION_TIMEOUT_S = 60.0
RESUME_S = 50.0
"""For so long after a loss the session on the server is taken up again: what it queued meanwhile is not lost."""
CHANNEL_LIFETIME_S = 3600.0
STEADY_S = 5.0
"""A connection that held for so long starts its pauses anew; one that fails at once is not pressed."""

READ_ONLY_REQUESTS: tuple[type, ...] = (
    ua.CreateSessionRequest, ua.ActivateSessionRequest, ua.CloseSessionRequest, ua.ReadRequest, ua.BrowseRequest,
    ua.CreateSubscriptionRequest, ua.DeleteSubscriptionsRequest, ua.CreateMonitoredItemsRequest, ua.PublishRequest,
    ua.RepublishRequest,
)

POLICY_CLASSES: dict[str, Any] = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256_Sha256_RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}
_TOO_MUCH = frozenset((ua.StatusCodes.BadTooManyOperations, ua.StatusCodes.BadRequestTooLarge,
                       ua.StatusCodes.BadResponseTooLarge, ua.StatusCodes.BadEncodingLimitsExceeded,
                       ua.StatusCodes.BadTcpMessageTooLarge))
_REFUSED_LOGIN = frozenset((ua.StatusCodes.BadUserAccessDenied, ua.StatusCodes.BadIdentityTokenRejected,
                            ua.StatusCodes.BadIdentityTokenInvalid))

DISTRUST = frozenset((ua.StatusCodes.BadCertificateUntrusted, ua.StatusCodes.BadSecurityChecksFailed,
                       ua.StatusCodes.BadCertificateInvalid, ua.StatusCodes.BadCertificateUseNotAllowed,
                       ua.StatusCodes.BadCertificateUriInvalid, ua.StatusCodes.BadCertificateTimeInvalid))
"""How a server says that it does not take our certificate."""


class _Session(UaSession):
    """A session that sends the allowed requests only, and leaves publishing to the driver."""

    def __init__(self, client: Any, allowed: tuple[type, ...]) -> None:
        super().__init__(client)
        self._allowed = allowed

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


class GuardedClient(Client):
    """asyncua's client with our session, and a guard on what it receives. allowed: requests that may leave."""

    def __init__(self, endpoint: OpcUaEndpoint, allowed: tuple[type, ...] = READ_ONLY_REQUESTS) -> None:
        super().__init__(endpoint.url, timeout=endpoint.timeout_s)
        self.our_session = _Session(self.uaclient, allowed)
        self.uaclient.session = self.our_session
        self.nodes = Shortcuts(self.our_session)  # else they would keep the session made above, which may write
        self.name = self.description = "Tallystick"
        self.product_uri = "urn:tallystick"
        self.session_timeout = int(SESSION_TIMEOUT_S * 1000)
        self.secure_channel_timeout = int(CHANNEL_LIFETIME_S * 1000)

    async def connect_socket(self) -> None:
        """Connect, and look at every byte from then on."""
        await super().connect_socket()
        if self.uaclient.protocol is not None:
            _guard(self.uaclient.protocol)


def _guard(protocol: UASocketProtocol) -> None:
    """Close a connection that announces more than the limits, before it fills the memory."""
    guard, receive = session.ChunkGuard(), protocol.data_received

    def checked(data: bytes) -> None:
        if guard.is_within_limits(data):
            receive(data)
        else:
            protocol.disconnect_socket()

    protocol.data_received = checked  # type: ignore[method-assign]  # the transport looks it up for every read


@dataclass(slots=True, kw_only=True)
class _Link:
    """One session on one server and what was created in it; a `collector.Link`."""

    client: GuardedClient
    server_certificate: bytes | None
    item_batch: int = session.BATCH_UNKNOWN
    read_batch: int = session.BATCH_UNKNOWN
    namespaces: dict[str, int] = field(default_factory=dict)
    created: Subscription | None = None
    sampling_ms: float = 0.0
    queue_size: int = 1
    lost_s: float | None = None

    @property
    def subscription(self) -> Subscription:
        """What was created on the server."""
        assert self.created is not None, "no subscription yet"
        return self.created

    def knows(self, address: OpcUaAddress) -> bool:
        """Whether the server has the namespace of this address."""
        return address.namespace_uri in self.namespaces

    def node_id(self, address: OpcUaAddress) -> NodeId:
        """Return the node of a known address for this session."""
        return ua.NodeId(address.value, self.namespaces[address.namespace_uri])

    async def read(self, addresses: Sequence[OpcUaAddress]) -> codec.Items:
        """Read known addresses, in batches. Row i of the answer is addresses[i]."""
        return await self.read_nodes([(self.node_id(address), address.index_range) for address in addresses])

    async def read_nodes(self, nodes: Sequence[tuple[NodeId, str]]) -> codec.Items:
        """Read the Value of (node, index range) pairs, in batches. Row i of the answer is nodes[i]."""
        whole = codec.Items()
        start = 0
        while start < len(nodes):
            part = nodes[start:start + self.read_batch]
            request = ua.ReadRequest()
            request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Source
            request.Parameters.NodesToRead = [
                ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value, IndexRange=index_range or None)
                for node, index_range in part]
            try:
                items = codec.decode_read(await self.client.our_session.exchange(request))
            except ua.UaStatusCodeError as error:
                if error.code in _TOO_MUCH and self.read_batch > 1:
                    self.read_batch = max(1, len(part) // 2)
                    continue
                raise
            if len(items.value) + items.undecodable != len(part):
                raise codec.UndecodableError(f"{len(part)} values asked, {len(items.value)} answered")
            for _ in range(items.undecodable):  # a row that cannot be read has a place, and no good value
                items.add(len(items.value), float("nan"), ua.StatusCodes.BadDecodingError, 0, 0, None)
            whole.extend(items)
            start += len(part)
        return whole

    async def learn(self) -> None:
        """Learn the namespaces, which may move when a server restarts, and the server's limits."""
        uris = await self.client.get_namespace_array()
        self.namespaces = {uri: index for index, uri in reversed(list(enumerate(uris)))}
        limits = await self.client.uaclient.session.read_attributes(
            [ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall),
             ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead)],
            ua.AttributeIds.Value)
        stated = [limit.Value.Value if limit.Value is not None else None for limit in limits]
        self.item_batch, self.read_batch = (
            session.batch_size(n if isinstance(n, int) and n > 0 else None) for n in stated)

    async def subscribe(self, endpoint: OpcUaEndpoint, collector: Collector) -> None:
        """Create the one subscription: short-lived, so that an orphan does not burden its server for long."""
        interval_ms = float(endpoint.publishing_interval_ms)
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=interval_ms, MaxNotificationsPerPublish=0, PublishingEnabled=True)
        parameters.RequestedMaxKeepAliveCount, parameters.RequestedLifetimeCount = (
            session.keep_alive_counts(interval_ms))
        self.queue_size, self.sampling_ms = endpoint.queue_size, interval_ms
        result = await self.client.our_session.create_subscription(parameters, callback=_unused_callback)
        self.created = collector.subscribed(int(result.SubscriptionId), interval_ms=result.RevisedPublishingInterval,
                                            keep_alive_count=result.RevisedMaxKeepAliveCount)

    async def publish(self, acks: Sequence[int]) -> bytes | None:
        """Wait for a PublishResponse; None when the server wants fewer requests outstanding."""
        request = ua.PublishRequest()
        while True:
            request.Parameters.SubscriptionAcknowledgements = [
                ua.SubscriptionAcknowledgement(SubscriptionId=self.subscription.id, SequenceNumber=number)
                for number in acks]
            try:
                return await self.client.our_session.exchange(request, timeout_s=0)
            except ua.UaStatusCodeError as error:
                if error.code == ua.StatusCodes.BadTooManyPublishRequests:
                    return None
                if error.code != ua.StatusCodes.BadTimeout:  # the request grew old at the server: ask anew
                    raise
            request, acks = ua.PublishRequest(), ()

    async def republish(self, number: int) -> bytes | None:
        """Return a RepublishResponse; None when the server has the message no more."""
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = self.subscription.id
        request.Parameters.RetransmitSequenceNumber = number
        try:
            return await self.client.our_session.exchange(request)
        except ua.UaStatusCodeError as error:
            if error.code == ua.StatusCodes.BadMessageNotAvailable:
                return None
            raise

    async def monitor(self, items: Sequence[tuple[int, OpcUaAddress]]) -> list[str]:
        """Create monitored items, in batches one after the other; return the name of each bad status, or ''."""
        statuses: list[str] = []
        while len(statuses) < len(items):
            part = items[len(statuses):len(statuses) + self.item_batch]
            parameters = ua.CreateMonitoredItemsParameters()
            parameters.SubscriptionId = self.subscription.id
            parameters.TimestampsToReturn = ua.TimestampsToReturn.Source
            parameters.ItemsToCreate = [self._item(handle, address) for handle, address in part]
            try:
                results = await self.client.our_session.create_monitored_items(parameters)
            except ua.UaStatusCodeError as error:
                if error.code not in _TOO_MUCH or len(part) == 1:
                    raise
                self.item_batch = max(1, len(part) // 2)
                continue
            if len(results) != len(part):
                raise codec.UndecodableError(f"{len(part)} items asked, {len(results)} answered")
            statuses += [str(result.StatusCode.name) if result.StatusCode.is_bad() else "" for result in results]
        return statuses

    def _item(self, handle: int, address: OpcUaAddress) -> Any:
        wanted = ua.MonitoringParameters(ClientHandle=handle, SamplingInterval=self.sampling_ms,
                                         QueueSize=self.queue_size, DiscardOldest=True)
        node = ua.ReadValueId(NodeId=self.node_id(address), AttributeId=ua.AttributeIds.Value,
                              IndexRange=address.index_range or None)
        return ua.MonitoredItemCreateRequest(ItemToMonitor=node, MonitoringMode=ua.MonitoringMode.Reporting,
                                             RequestedParameters=wanted)

    async def renew(self) -> None:
        """Renew the secure channel at 75 % of the lifetime that the server granted, for ever."""
        while True:
            await asyncio.sleep(self.client.secure_channel_timeout * 0.75 / 1000)
            await self.client.open_secure_channel(renew=True)
            self.client.uaclient.revolve_security_token()

    async def resume(self, username: str | None, password: str | None) -> bool:
        """Take the session up again over a new channel; the server kept what it could not send.

        False when there is none to take up: the server restarted, or has another certificate. Raises OSError when the
        server cannot be reached, so that it is worth another try.
        """
        client = self.client
        client.disconnect_socket()
        await client.connect_socket()
        await client.send_hello()
        try:
            await client.open_secure_channel()
            client.our_session.rebind_authentication_token()
            await client.activate_session(username, password)
        except (OSError, ua.UaError):
            client.disconnect_socket()
            return False
        return True

    async def close(self) -> None:
        """Delete subscription and session and close, in CLOSE_S at most, whatever the server does."""
        client = self.client
        if client.uaclient.state is UaClientState.DISCONNECTED:
            return
        with suppress(TimeoutError):  # the session ends by its own time-out if not by us
            async with asyncio.timeout(CLOSE_S):
                if self.created is not None:
                    with suppress(Exception):
                        await client.our_session.delete_subscriptions([self.created.id])
                if client.our_session.has_session:
                    with suppress(Exception):
                        await client.close_session()
                with suppress(Exception):
                    await client.close_secure_channel()
        client.disconnect_socket()


class OpcUaDriver:
    """Collects the points of one server.

    Args:
        endpoint: where and how. Raises ConfigError when it cannot be used.
        points: the slots to collect, each in one subscription item.
        sink: takes batches, answers and events. clock_ns: the gateway's UTC clock.
    """

    def __init__(self, endpoint: OpcUaEndpoint, points: Sequence[OpcUaPoint], sink: Sink,
                 clock_ns: Callable[[], int] = time.time_ns) -> None:
        if problems := endpoint.problems(endpoint.name):
            raise ConfigError(problems)
        self._endpoint = endpoint
        self._sink = sink
        self._rng = random.Random()
        self._collector = Collector(endpoint, points, sink, clock_ns, self._rng)
        self._spki: str | None = None
        self._server_certificate: bytes | None = None
        self._told: Problem | None = None
        self._told_s = 0.0

    def server_spki_sha256(self) -> str | None:
        """Hex SHA-256 of the server's DER SubjectPublicKeyInfo, proven by the last channel; None when unsecured."""
        return self._spki

    def server_certificate(self) -> bytes | None:
        """DER of the trusted certificate that the server proved by the last channel; None when unsecured."""
        return self._server_certificate

    def plan(self) -> list[dict[str, str]]:
        """Return the requests that would be sent, without any network, as rows of request, count and detail."""
        return plan_rows(self._endpoint, len(self._collector.points), self._collector.devices.size, PUBLISH_OUTSTANDING)

    # Connecting

    async def run(self) -> None:
        """Collect until cancelled. Reconnects for ever; on cancel deletes what it made on the server."""
        link: _Link | None = None
        attempt = -1
        loop = asyncio.get_running_loop()
        try:
            while True:
                cap_s = session.BACKOFF_REFUSED_CAP_S
                since_s = float("inf")
                try:
                    if link is not None and not await self._resumed(link):
                        await link.close()
                        link = None
                    if link is None:
                        link = await self._subscribed()
                    since_s = loop.time()
                    self._tell_back(since_s)
                    await self._serve(link)
                except OSError as error:  # refused, reset, timed out: the session may outlive it
                    cap_s = session.BACKOFF_UNREACHABLE_CAP_S
                    self._tell_lost(self._problem_of(error), loop.time())
                except AssertionError:
                    raise
                except Exception as error:  # what asyncua raises on a hostile answer has no end
                    self._tell_lost(self._problem_of(error), loop.time())
                    if link is not None:
                        await link.close()
                        link = None
                if link is not None and link.lost_s is None:
                    link.lost_s = loop.time()
                attempt = 0 if loop.time() - since_s > STEADY_S else attempt + 1
                await asyncio.sleep(session.backoff_s(attempt, cap_s, self._rng))
        finally:
            if link is not None:
                await link.close()

    async def _resumed(self, link: _Link) -> bool:
        """Take a lost session up again while the server still has it."""
        now_s = asyncio.get_running_loop().time()
        if link.lost_s is None or now_s - link.lost_s >= RESUME_S:
            return False
        if not await link.resume(self._endpoint.username, await self._password()):
            return False
        link.lost_s, link.subscription.heard_s = None, now_s
        try:
            await self._collector.catch_up(link)
        except ua.UaStatusCodeError:
            return False  # the session is there, its subscription is not
        return True

    async def _serve(self, link: _Link) -> None:
        """Collect, and renew the channel, until something ends it."""
        renewing = asyncio.create_task(link.renew())
        collecting = asyncio.create_task(self._collector.collect(link))
        try:
            done, _ = await asyncio.wait((renewing, collecting), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            renewing.cancel()
            collecting.cancel()
            await asyncio.gather(renewing, collecting, return_exceptions=True)

    async def _subscribed(self) -> _Link:
        """Return a new session with its subscription."""
        link = await self._open()
        try:
            await link.learn()
            await link.subscribe(self._endpoint, self._collector)
        except BaseException:
            await link.close()
            raise
        return link

    async def _open(self) -> _Link:
        """Open channel and session as configured; nothing secret is sent before the server's certificate is trusted."""
        end = self._endpoint
        client = GuardedClient(end)
        link = _Link(client=client, server_certificate=None)
        try:
            if end.is_secured:
                own = await asyncio.to_thread(own_certificate, end.pki_dir)
                link.server_certificate = await self._trusted_certificate(own)
                client.application_uri = own.application_uri
                await client.set_security(
                    POLICY_CLASSES[end.security_policy], CertProperties(own.certificate, "der"),
                    CertProperties(own.key, "pem"),
                    server_certificate=CertProperties(link.server_certificate, "der"),
                    mode=ua.MessageSecurityMode[end.security_mode])
            client.certificate_validator = self._validator(link.server_certificate)
            password = await self._password()
            await client.connect_socket()
            try:
                await client.send_hello()
                await client.open_secure_channel()
            except (ConnectionError, TimeoutError) as error:
                if end.is_secured:  # servers that do not trust us hang up without a word
                    raise DeviceError(self._channel_refused(type(error).__name__)) from error
                raise
            await client.create_session()
            self._refuse_clear_password(client)
            await client.activate_session(end.username, password)
        except BaseException:
            await link.close()
            raise
        self._server_certificate = link.server_certificate
        self._spki = server_spki_sha256(link.server_certificate) if link.server_certificate else None
        return link

    async def _trusted_certificate(self, own: OwnCertificate) -> bytes:
        """Ask the server for its endpoints, find the configured one, and check its certificate against the store."""
        end = self._endpoint
        client = GuardedClient(end)
        client.application_uri = own.application_uri
        client.certificate_validator = self._validator(None)
        offered = await client.connect_and_get_server_endpoints()
        mode, policy = ua.MessageSecurityMode[end.security_mode], SECURITY_POLICIES[end.security_policy]
        for description in offered:
            if (description.SecurityMode == mode and description.SecurityPolicyUri == policy
                    and (description.EndpointUrl or "").startswith("opc.tcp:")):
                return await asyncio.to_thread(
                    check_server_certificate, description.ServerCertificate or b"",
                    description.Server.ApplicationUri or "", end.trust_dir, where=end.name, url=end.url,
                    now=datetime.now(UTC))
        names = {uri: name for name, uri in SECURITY_POLICIES.items()}
        listed = sorted({f"{names.get(d.SecurityPolicyUri or '', d.SecurityPolicyUri)}/{d.SecurityMode.name}"
                         for d in offered})
        raise DeviceError(Problem.of(end.name, "opcua.policy_not_offered", endpoint=end.url,
                                     policy=f"{end.security_policy}/{end.security_mode}", offered=", ".join(listed)))

    def _validator(self, trusted: bytes | None) -> Callable[[x509.Certificate, Any], Awaitable[None]]:
        """Return asyncua's hook: the session's certificate must be the one that was checked for the channel."""
        async def validate(certificate: x509.Certificate, _application: Any) -> None:
            if self._endpoint.is_secured and certificate.public_bytes(Encoding.DER) != trusted:
                raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)
        return validate

    async def _password(self) -> str | None:
        path = self._endpoint.password_file
        if path is None:
            return None
        try:
            return (await asyncio.to_thread(path.read_text, "utf-8")).rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise DeviceError(Problem.of(self._endpoint.name, "opcua.password_file", file=path, why=error)) from error

    def _refuse_clear_password(self, client: Client) -> None:
        end = self._endpoint
        if end.username is None or end.allow_insecure or end.security_mode == "SignAndEncrypt":
            return
        policy = client.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri
        if not policy or policy == SECURITY_POLICIES["None"]:
            raise DeviceError(Problem.of(end.name, "opcua.password_in_clear", endpoint=end.url))

    # Telling

    def _tell_lost(self, problem: Problem, now_s: float) -> None:
        """Say once why the server is lost, and again only when the cause is another one."""
        if self._told is None:
            self._told_s = now_s
        if self._told is None or self._told.code != problem.code:
            self._sink.event(problem.code, problem.where, **dict(problem.args))
        self._told = problem

    def _tell_back(self, now_s: float) -> None:
        if self._told is not None:
            self._sink.event("opcua.back", self._endpoint.name, endpoint=self._endpoint.url,
                             seconds=round(now_s - self._told_s))
        self._told = None

    def _problem_of(self, error: BaseException) -> Problem:
        """Name what went wrong, in our words."""
        end = self._endpoint
        if isinstance(error, DeviceError | ConfigError):
            return error.problems[0]
        if isinstance(error, ua.UaStatusCodeError):
            if error.code in DISTRUST:
                return self._channel_refused(ua.StatusCode(error.code).name)
            code = "opcua.login_refused" if error.code in _REFUSED_LOGIN else "opcua.refused"
            return Problem.of(end.name, code, endpoint=end.url, status=ua.StatusCode(error.code).name,
                              user=end.username or "anonymous")
        if isinstance(error, TimeoutError):
            return Problem.of(end.name, "opcua.timeout", endpoint=end.url, timeout_s=end.timeout_s)
        if isinstance(error, OSError):
            return Problem.of(end.name, "opcua.unreachable", endpoint=end.url, why=error.strerror or error)
        return Problem.of(end.name, "opcua.protocol_error", endpoint=end.url,
                          why=f"{type(error).__name__}: {error}"[:200])

    def _channel_refused(self, status: str) -> Problem:
        return Problem.of(self._endpoint.name, "opcua.channel_refused", endpoint=self._endpoint.url, status=status,
                          file=self._endpoint.pki_dir / OWN_CERTIFICATE)

    # Commissioning

    async def check(self) -> list[CheckResult]:
        """Connect, read every point once, and close. Returns one result per device, ordered by device."""
        try:
            link = await self._open()
            try:
                await link.learn()
                return await self._check_points(link)
            finally:
                await link.close()
        except AssertionError:
            raise
        except Exception as error:  # what asyncua raises on a hostile answer has no end
            problem = self._problem_of(error)
            return [CheckResult(int(device), False, problem.code, problem.args) for device in self._collector.devices]

    async def _check_points(self, link: _Link) -> list[CheckResult]:
        points = self._collector.points
        known = [position for position, point in enumerate(points) if link.knows(point.address)]
        items = await link.read([points[position].address for position in known])
        row_of = {position: row for row, position in enumerate(known)}
        return judge(points, row_of, items, lambda status: str(ua.StatusCode(status).name))

    async def identify(self) -> list[Nameplate]:
        """Read the nameplates that the server shows near each device's points. Raises DeviceError when it cannot."""
        try:
            link = await self._open()
            try:
                await link.learn()
                collector = self._collector
                first = {int(device): collector.points[positions[0]].address
                         for device, positions in zip(collector.devices, collector.points_of, strict=True)}
                start = {device: link.node_id(address) for device, address in first.items() if link.knows(address)}
                return await read_nameplates(
                    start, root=ua.NodeId(ua.ObjectIds.ObjectsFolder),
                    parents=lambda nodes: self._parents(link, nodes),
                    children=lambda nodes: self._browse(link, nodes, ua.BrowseDirection.Forward),
                    read_text=lambda nodes: self._texts(link, nodes))
            finally:
                await link.close()
        except (AssertionError, DeviceError):
            raise
        except Exception as error:  # what asyncua raises on a hostile answer has no end
            raise DeviceError(self._problem_of(error)) from error

    async def _parents(self, link: _Link, nodes: Sequence[NodeId]) -> list[NodeId | None]:
        above = await self._browse(link, nodes, ua.BrowseDirection.Inverse)
        return [listed[0][1] if listed else None for listed in above]

    async def _browse(self, link: _Link, nodes: Sequence[NodeId],
                      direction: Any) -> list[list[tuple[str, NodeId]]]:
        listed: list[list[tuple[str, NodeId]]] = []
        for part in session.batches(range(len(nodes)), session.BATCH_UNKNOWN):
            parameters = ua.BrowseParameters()
            parameters.NodesToBrowse = [ua.BrowseDescription(
                NodeId=nodes[position], BrowseDirection=direction, IncludeSubtypes=True,
                ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
                ResultMask=ua.BrowseResultMask.BrowseName) for position in part]
            listed += [
                [(reference.BrowseName.Name or "", ua.NodeId(reference.NodeId.Identifier,
                                                             reference.NodeId.NamespaceIndex))
                 for reference in result.References or []]
                for result in await link.client.our_session.browse(parameters)]
        return listed

    async def _texts(self, link: _Link, nodes: Sequence[NodeId]) -> list[str]:
        items = await link.read_nodes([(node, "") for node in nodes])
        texts = dict(items.texts)
        return [texts.get(row, "") if status >> 30 == 0 else "" for row, status in enumerate(items.status)]


def _unused_callback(_result: object) -> None:
    """Stand where asyncua wants a callback for its own publish loop, which does not run."""
