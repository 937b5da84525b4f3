"""One session on one server, and what was created in it: the questions that the collector asks, in asyncua's words."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from asyncua import ua as _ua
from asyncua.client.ua_client import UaClientState
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary, struct_to_binary

from protocols.opcua import bulk, codec, profiles, session
from protocols.opcua.collector import Collector, Prepared, Subscription
from protocols.opcua.columns import Columns
from protocols.opcua.discovery import PAGES_MAX, Reference
from protocols.opcua.guarded.driver import GuardedClient, within
from protocols.opcua.takeover import Left
from protocols.opcua.target import OpcUaAddress, OpcUaEndpoint

ua: Any = _ua
"""Untyped here: asyncua fills this package with star imports and generated classes that mypy cannot follow."""

NodeId = Any
CLOSE_S = 1.5
REFERENCES_MAX = 1000
"""Of one node in one response: a folder with 10 000 variables comes in pages."""

_TOO_MUCH = frozenset((ua.StatusCodes.BadTooManyOperations, ua.StatusCodes.BadRequestTooLarge,
                       ua.StatusCodes.BadResponseTooLarge, ua.StatusCodes.BadEncodingLimitsExceeded,
                       ua.StatusCodes.BadTcpMessageTooLarge))
BUILD_INFO = (ua.ObjectIds.Server_ServerStatus_BuildInfo_ManufacturerName,
              ua.ObjectIds.Server_ServerStatus_BuildInfo_ProductName,
              ua.ObjectIds.Server_ServerStatus_BuildInfo_ProductUri)
LIMITS = (ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
          ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
          ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
          ua.ObjectIds.Server_ServerCapabilities_MaxMonitoredItems,
          ua.ObjectIds.Server_ServerCapabilities_MaxMonitoredItemsPerSubscription)


@dataclass(slots=True, kw_only=True)
class Link:
    """One session on one server and what was created in it; a `collector.Link`."""

    client: GuardedClient
    server_certificate: bytes | None
    wanted_profile: str = profiles.AUTO
    timestamps: ua.TimestampsToReturn = ua.TimestampsToReturn.Source
    profile: profiles.Profile = profiles.UNKNOWN
    item_batch: int = profiles.BATCH_UNKNOWN
    read_batch: int = profiles.BATCH_UNKNOWN
    browse_batch: int = profiles.BATCH_UNKNOWN
    item_limit: int | None = None
    epoch: int = 0
    reads_at_once: int = 1
    namespaces: dict[str, int] = field(default_factory=dict)
    created: Subscription | None = None
    sampling_ms: float = 0.0
    revised: tuple[float, int] = (0.0, 0)
    server_started: str = ""
    queue_size: int = 1
    lost_s: float | None = None
    endless: list[NodeId] = field(default_factory=list)

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
            request.Parameters.TimestampsToReturn = self.timestamps
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

    def prepare(self, addresses: Sequence[OpcUaAddress]) -> Prepared:
        """Encode the requests that read known addresses, to be sent again and again until `epoch` is another."""
        parts = []
        for part in session.batches(range(len(addresses)), self.read_batch):
            parameters = ua.ReadParameters(TimestampsToReturn=self.timestamps)
            parameters.NodesToRead = [
                ua.ReadValueId(NodeId=self.node_id(addresses[place]), AttributeId=ua.AttributeIds.Value,
                               IndexRange=addresses[place].index_range or None) for place in part]
            parts.append((len(part), bytes(struct_to_binary(parameters)), bulk.Decoder()))
        return Prepared(addresses=addresses, parts=parts)

    async def poll(self, prepared: Prepared) -> Columns:
        """Send prepared requests, some at a time; row i of the answer is the i-th address."""
        found: list[bytes] = []
        loop = asyncio.get_running_loop()
        while len(found) < len(prepared.parts):
            together = prepared.parts[len(found):len(found) + self.reads_at_once]
            began_s = loop.time()
            try:
                bodies = await self.client.our_session.read_again([parameters for _, parameters, _ in together])
            except ua.UaStatusCodeError as error:
                if error.code not in _TOO_MUCH or together[0][0] == 1:
                    raise
                self.read_batch, self.reads_at_once = max(1, together[0][0] // 2), 1
                prepared.parts, found = self.prepare(prepared.addresses).parts, []
                continue
            self.reads_at_once = session.reads_at_once(self.reads_at_once, loop.time() - began_s,
                                                       self.profile.reads_at_once)
            found += bodies
        return bulk.read_all([(count, decoder, body) for (count, _, decoder), body
                              in zip(prepared.parts, found, strict=True)])

    async def learn(self) -> None:
        """Learn the namespaces, which may move when a server restarts, what the server is, and its limits."""
        self.epoch += 1
        uris = await self.client.get_namespace_array()
        self.namespaces = {uri: index for index, uri in reversed(list(enumerate(uris)))}
        items = await self.read_nodes([(ua.NodeId(node), "") for node in (*BUILD_INFO, *LIMITS)])
        texts = dict(items.texts)
        told = [texts.get(row, "") if items.status[row] >> 30 == 0 else "" for row in range(len(BUILD_INFO))]
        self.profile = profiles.PROFILES.get(self.wanted_profile) or profiles.recognise(*told)
        stated = [_limit(items, len(BUILD_INFO) + row) for row in range(len(LIMITS))]
        self.item_batch, self.read_batch, self.browse_batch = map(self.profile.batch_of, stated[:3])
        self.item_limit = self.profile.items_of(*stated[3:])

    async def server_time(self) -> datetime | None:
        """Return the server's own time, UTC; None when it does not tell."""
        value, = await self.client.uaclient.session.read_attributes(
            [ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)], ua.AttributeIds.Value)
        if value.Value is None or (value.StatusCode is not None and not value.StatusCode.is_good()):
            return None
        told = value.Value.Value
        return told.replace(tzinfo=UTC) if isinstance(told, datetime) else None

    async def subscribe(self, endpoint: OpcUaEndpoint, collector: Collector) -> None:
        """Create the one subscription: short-lived, so that an orphan does not burden its server for long."""
        interval_ms = float(endpoint.publishing_interval_ms)
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=interval_ms, MaxNotificationsPerPublish=0, PublishingEnabled=True)
        parameters.RequestedMaxKeepAliveCount, parameters.RequestedLifetimeCount = (
            session.keep_alive_counts(interval_ms))
        self.queue_size, self.sampling_ms = endpoint.queue_size, interval_ms
        result = await self.client.our_session.create_subscription(parameters, callback=_unused_callback)
        self.revised = (float(result.RevisedPublishingInterval), int(result.RevisedMaxKeepAliveCount))
        self.created = collector.subscribed(int(result.SubscriptionId), interval_ms=result.RevisedPublishingInterval,
                                            keep_alive_count=result.RevisedMaxKeepAliveCount)

    async def started(self) -> str:
        """Return when the server says that it was started, empty when it does not."""
        value, = await self.client.uaclient.session.read_attributes(
            [ua.NodeId(ua.ObjectIds.Server_ServerStatus_StartTime)], ua.AttributeIds.Value)
        told = value.Value.Value if value.Value is not None else None
        return told.isoformat() if isinstance(told, datetime) else ""

    def leaves(self) -> Left | None:
        """Return what a gateway after us needs in order to take this session over; None when it cannot."""
        client = self.client
        if self.created is None or not self.server_started:
            return None
        interval_ms, keep_alive_count = self.revised
        return Left(
            token=bytes(nodeid_to_binary(client.our_session.authentication_token)), nonce=client._server_nonce or b"",
            subscription=self.created.id, interval_ms=interval_ms, keep_alive_count=keep_alive_count,
            started=self.server_started,
            refused=tuple(place for place, is_there in enumerate(self.created.monitored) if not is_there))

    def adopt(self, left: Left, beside: Link) -> None:
        """Make this channel, still without a session, ready to activate an earlier session of ours.

        beside: another link to the same server, which knows what CreateSession told.
        """
        client = self.client
        client.security_policy.peer_certificate = beside.client.security_policy.peer_certificate
        client._policy_ids = beside.client._policy_ids
        client._server_nonce = left.nonce or None  # type: ignore[assignment]  # asyncua infers None
        client.our_session.restore_authentication_token(nodeid_from_binary(Buffer(left.token)))

    async def transfer(self, left: Left) -> bool:
        """Move the subscription of an earlier session of ours into this one; False when the server does not."""
        parameters = ua.TransferSubscriptionsParameters(SubscriptionIds=[left.subscription], SendInitialValues=True)
        try:
            result, = await self.client.our_session.transfer_subscriptions(parameters)
        except ua.UaStatusCodeError:
            return False
        return bool(result.StatusCode.is_good())

    def follow(self, left: Left, endpoint: OpcUaEndpoint, collector: Collector) -> None:
        """Go on with a subscription that is now this session's, where an earlier run of ours left it."""
        self.queue_size, self.sampling_ms = endpoint.queue_size, float(endpoint.publishing_interval_ms)
        self.revised, self.server_started = (left.interval_ms, left.keep_alive_count), left.started
        self.created = collector.subscribed(left.subscription, interval_ms=left.interval_ms,
                                            keep_alive_count=left.keep_alive_count)
        self.created.sequence.taken_over()
        self.created.monitored = [place not in left.refused for place in range(len(self.created.monitored))]

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
            parameters.TimestampsToReturn = self.timestamps
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

    async def parents(self, nodes: Sequence[NodeId]) -> list[NodeId | None]:
        """Return the first node above each node, None where there is none."""
        above = await self.children(nodes, inverse=True)
        return [listed[0][1] if listed else None for listed in above]

    async def children(self, nodes: Sequence[NodeId], *, inverse: bool = False) -> list[list[tuple[str, NodeId]]]:
        """Return (browse name, node) of all below each node along hierarchical references; above it when inverse."""
        listed: list[list[tuple[str, NodeId]]] = []
        for part in session.batches(range(len(nodes)), self.browse_batch):
            parameters = ua.BrowseParameters()
            parameters.NodesToBrowse = [ua.BrowseDescription(
                NodeId=nodes[position], IncludeSubtypes=True,
                BrowseDirection=ua.BrowseDirection.Inverse if inverse else ua.BrowseDirection.Forward,
                ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
                ResultMask=ua.BrowseResultMask.BrowseName) for position in part]
            listed += [
                [(reference.BrowseName.Name or "", ua.NodeId(reference.NodeId.Identifier,
                                                             reference.NodeId.NamespaceIndex))
                 for reference in result.References or []]
                for result in await self.client.our_session.browse(parameters)]
        return listed

    async def references(self, nodes: Sequence[NodeId]) -> list[list[Reference]]:
        """Return the objects and variables below each node, at most `browse_batch` nodes, with all that are paged.

        A node with more than PAGES_MAX pages is kept in `endless`, and the rest of it is left out.
        """
        parameters = ua.BrowseParameters()
        parameters.RequestedMaxReferencesPerNode = REFERENCES_MAX
        parameters.NodesToBrowse = [ua.BrowseDescription(
            NodeId=node, IncludeSubtypes=True, BrowseDirection=ua.BrowseDirection.Forward,
            ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
            NodeClassMask=ua.NodeClass.Object | ua.NodeClass.Variable,
            ResultMask=ua.BrowseResultMask.BrowseName | ua.BrowseResultMask.NodeClass
            | ua.BrowseResultMask.TypeDefinition) for node in nodes]
        uris = {index: uri for uri, index in self.namespaces.items()}
        listed: list[list[Reference]] = []
        results = await self.client.our_session.browse(parameters)
        for node, page in zip(nodes, results, strict=True):
            found = _references(page, uris)
            for _ in range(1, PAGES_MAX):
                if not page.ContinuationPoint or len(found) >= PAGES_MAX * REFERENCES_MAX:
                    break
                page = await self._following(page)
                found += _references(page, uris)
            if page.ContinuationPoint:
                self.endless.append(node)
                with suppress(ua.UaError):  # a server that will not be told keeps it until the session ends
                    await self._following(page, is_last=True)
            listed.append(found)
        return listed

    async def _following(self, page: Any, *, is_last: bool = False) -> Any:
        """Return the page behind this one. is_last: let the server forget that there is one."""
        found = await self.client.our_session.browse_next(ua.BrowseNextParameters(
            ReleaseContinuationPoints=is_last, ContinuationPoints=[page.ContinuationPoint]))
        return found[0] if found else ua.BrowseResult()

    async def data_types(self, nodes: Sequence[NodeId]) -> list[int]:
        """Return the built-in data type of each variable, 0 where it has another."""
        found: list[int] = []
        for part in session.batches(range(len(nodes)), self.read_batch):
            values = await self.client.uaclient.session.read_attributes(
                [nodes[position] for position in part], ua.AttributeIds.DataType)
            for value in values:
                told = value.Value.Value if value.Value is not None else None
                is_plain = isinstance(told, ua.NodeId) and told.NamespaceIndex == 0
                identifier = told.Identifier if is_plain and told is not None else 0
                found.append(identifier if isinstance(identifier, int) else 0)
        return found

    async def texts(self, nodes: Sequence[NodeId]) -> list[str]:
        """Return the value of each node as text; empty where it has none or none that is good."""
        items = await self.read_nodes([(node, "") for node in nodes])
        texts = dict(items.texts)
        return [texts.get(row, "") if status >> 30 == 0 else "" for row, status in enumerate(items.status)]

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
            await client.activate_session(username, password, client.user_certificate)
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
            async with within(CLOSE_S):
                if self.created is not None:
                    with suppress(Exception):
                        await client.our_session.delete_subscriptions([self.created.id])
                if client.our_session.has_session:
                    with suppress(Exception):
                        await client.close_session()
                with suppress(Exception):
                    await client.close_secure_channel()
        client.disconnect_socket()


def _unused_callback(_result: object) -> None:
    """Stand where asyncua wants a callback for its own publish loop, which does not run."""


def _references(page: Any, uris: Mapping[int, str]) -> list[Reference]:
    return [made for reference in page.References or [] if (made := _reference(reference, uris)) is not None]


def _reference(reference: Any, uris: Mapping[int, str]) -> Reference | None:
    """Return a reference as told, None when it leads to another server or into a namespace without a name."""
    node = reference.NodeId
    uri = getattr(node, "NamespaceUri", None) or uris.get(node.NamespaceIndex)
    if getattr(node, "ServerIndex", None) or uri is None:
        return None
    identifier = node.Identifier
    match identifier:
        case int():
            id_type, text = "i", str(identifier)
        case str():
            id_type, text = "s", identifier
        case uuid.UUID():
            id_type, text = "g", str(identifier)
        case bytes():
            id_type, text = "b", base64.b64encode(identifier).decode()
        case _:
            return None
    address = OpcUaAddress(namespace_uri=uri, id_type=id_type, identifier=text)
    kind: Any = reference.TypeDefinition
    return Reference(key=ua.NodeId(identifier, node.NamespaceIndex), address=address.node,
                     name=reference.BrowseName.Name or "",
                     is_variable=reference.NodeClass == ua.NodeClass.Variable,
                     is_property=kind is not None
                     and (kind.NamespaceIndex, kind.Identifier) == (0, ua.ObjectIds.PropertyType))


def _limit(items: codec.Items, row: int) -> int | None:
    """Return a limit that a server states; 0 means none."""
    value = items.value[row]
    return int(value) if items.status[row] >> 30 == 0 and 0 < value < 2**32 else None
