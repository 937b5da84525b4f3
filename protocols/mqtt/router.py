"""From messages to the sink: finds the topic or node a message belongs to, and makes one batch of many. No sockets.

`now_ns` is any clock that never goes back; `received_ns` is UTC as this gateway stamps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from protocols.errors import DeviceError, Problem
from protocols.mqtt import bulk, codec, documents
from protocols.mqtt.births import AliasTable
from protocols.mqtt.columns import Columns
from protocols.mqtt.documents import Topic
from protocols.mqtt.inbox import Chunk, Dropped, Incoming
from protocols.mqtt.layouts import Layouts
from protocols.mqtt.session import (
    NS_PER_S,
    SEQ_END,
    AskRebirth,
    Connected,
    Deliver,
    Discard,
    Disconnected,
    Event,
    Kind,
    Message,
    Missed,
    NodeSession,
    Offline,
    Online,
    Tick,
    Unexplained,
)
from protocols.mqtt.target import SPARKPLUG_NAMESPACE, MqttEndpoint, MqttPoint, Point, SparkplugPoint
from protocols.mqtt.values import POINT_TYPE
from protocols.samples import Sink

TELL_PAUSE_NS = 600 * NS_PER_S
"""The same trouble with the same topic is told at most once in this time."""

TELL_TOPICS_MAX = 10_000
NAMED_MAX = 5
STRANGERS_MAX = 20
"""Devices beside the ledger that are named to a person; all are counted."""

TOLD_WHY = {
    "before_birth": "mqtt.node_before_birth", "gap": "mqtt.node_gap", "no_sequence": "mqtt.node_no_sequence",
    "silent": "mqtt.node_silent", "unreadable": "mqtt.node_unreadable",
}
"""What a person can do something about; deaths and rebirths are everyday life."""

ADDRESSES_MAX = 20_000
"""Topics of edge nodes that are remembered; a stranger may invent more."""

Node = tuple[str, str]
Address = tuple[str, str, Kind, str]
"""Group, node, message type, device."""


class Router:
    """All points of one broker, through all connections to it.

    Called from one thread, but for `count`, which reads what never changes.
    """

    is_fast = True
    """False leaves every Sparkplug message to protobuf."""

    def __init__(self, endpoint: MqttEndpoint, points: Sequence[Point], sink: Sink) -> None:
        self._sink = sink
        by_topic: dict[str, list[MqttPoint]] = {}
        metrics: dict[Node, dict[str, dict[str, SparkplugPoint]]] = {}
        for point in points:
            if isinstance(point, MqttPoint):
                by_topic.setdefault(point.address.topic, []).append(point)
            else:
                at = point.address
                metrics.setdefault((at.group, at.node), {}).setdefault(at.device, {})[at.metric] = point
        clock = documents.Clock.of(endpoint.timestamp, endpoint.timestamp_format)
        self._topics = {name: Topic(name, group, clock) for name, group in by_topic.items()}
        self._by_bytes = {name.encode(): topic for name, topic in self._topics.items()}
        self._templates = {template: {template.device_of(name) for name in self._topics} - {None}
                           for template in endpoint.templates}
        self._strangers: set[tuple[str, str]] = set()
        self._metrics = metrics
        silence_ns = None if endpoint.silence_s is None else round(endpoint.silence_s * NS_PER_S)
        self._sessions = {
            node: NodeSession(
                points={device: {name: p.point_index for name, p in named.items()} for device, named in below.items()},
                may_ask=endpoint.rebirth == "auto", silence_ns=silence_ns, hold_ns=round(endpoint.reorder_s * NS_PER_S))
            for node, below in metrics.items()}
        self._members: dict[tuple[str, str, str], tuple[int, ...]] = {
            (*node, device): tuple(sorted({p.device_index for p in named.values()}))
            for node, below in metrics.items() for device, named in below.items()}
        self._alive: dict[int, set[tuple[str, str, str]]] = {}
        self._columns = Columns()
        self._discards: Counter[str] = Counter()
        self._told_ns: dict[tuple[str, str], int] = {}
        self._wakes: dict[Node, int] = {}
        self._asks: list[Node] = []
        self._addresses: dict[bytes, Address] = {}
        self._layouts: dict[Address, Layouts] = {}
        self._turns: dict[Node, tuple[int, int]] = {}
        """Nodes whose session has not been told yet what was delivered: its next number, and when it was heard."""

    @property
    def filters(self) -> list[str]:
        """What to subscribe to. Commands are left out: we would hear our own."""
        topics = [name for name in self._topics if not any(t.device_of(name) is not None for t in self._templates)]
        return [*(template.filter for template in self._templates), *topics, *(
            f"{SPARKPLUG_NAMESPACE}/{group}/{kind}/{node}" + ("/+" if kind.startswith("D") else "")
            for group, node in self._sessions for kind in Kind)]

    @property
    def nodes(self) -> list[Node]:
        """Group and node of every edge node."""
        return list(self._sessions)

    def _topics_of(self, subscription: str) -> list[Topic]:
        if subscription in self._topics:
            return [self._topics[subscription]]
        return [topic for template in self._templates if template.filter == subscription
                for name, topic in self._topics.items() if template.device_of(name) is not None]

    def points_of(self, subscription: str) -> int:
        """Return how many points a subscription serves."""
        if not self._sessions:
            return sum(len(topic.readers) for topic in self._topics_of(subscription))
        _, group, _, node, *device = subscription.split("/")
        return sum(len(named) for name, named in self._metrics[group, node].items() if bool(name) == bool(device))

    def devices_of(self, subscription: str) -> set[int]:
        """Return the devices that a subscription serves."""
        if not self._sessions:
            return {device for topic in self._topics_of(subscription) for device in topic.devices}
        _, group, _, node, *device = subscription.split("/")
        return {p.device_index for name, named in self._metrics[group, node].items() if bool(name) == bool(device)
                for p in named.values()}

    @property
    def wake_ns(self) -> int | None:
        """When `tick` is due next; None: not before something happens."""
        return min(self._wakes.values(), default=None)

    # What a message is

    def source_of(self, topic: str) -> str:
        """Return a name for whoever sent this: one of a bounded set, whatever topics a stranger invents."""
        address = _node_of(topic)
        if address is not None and address[:2] in self._sessions:
            return "/".join(address[:2])
        return topic if topic in self._topics else ""

    def count(self, topic: bytes, payload: bytes | None) -> tuple[str, int]:
        """Return `source_of` and `samples_in` of a message as it came from the wire."""
        name = topic.decode("utf-8", "replace")
        return self.source_of(name), self.samples_in(name, payload)

    def samples_in(self, topic: str, payload: bytes | None) -> int:
        """Return how many samples a message counts for if it is not looked into."""
        if topic in self._topics:
            return len(self._topics[topic].readers)
        try:
            return codec.parse(payload or b"", where=topic).samples if payload is not None else 1
        except DeviceError:
            return 1

    # What happens

    def connected(self, now_ns: int) -> None:
        """Subscriptions are in place."""
        for node in self._sessions:
            self._step(node, Connected(), 0, now_ns)

    def disconnected(self, received_ns: int, now_ns: int) -> None:
        """The broker is gone: every Sparkplug device below it is no longer known to be connected."""
        for node in self._sessions:
            self._step(node, Disconnected(), received_ns, now_ns)

    def tick(self, received_ns: int, now_ns: int) -> None:
        """Let time pass for the nodes for which it matters."""
        for node in [node for node, wake_ns in self._wakes.items() if wake_ns <= now_ns]:
            self._step(node, Tick(), received_ns, now_ns)

    def dropped(self, dropped: Mapping[str, Dropped], received_ns: int, now_ns: int) -> None:
        """Count what a full queue lost. A node may have lost a birth or a death: its session starts again."""
        for source, lost in dropped.items():
            self._discards["queue_full"] += lost.samples
            self._tell(Problem.of(source, "mqtt.queue_full", messages=lost.messages, samples=lost.samples), now_ns)
            group, _, node = source.partition("/")
            if (group, node) in self._sessions and source not in self._topics:
                self._step((group, node), Missed("queue_full"), received_ns, now_ns)

    def receive_chunk(self, chunk: Chunk, now_ns: int) -> None:
        """Take messages as they came."""
        received_ns = chunk.received_ns

        def otherwise(name: bytes, payload: bytes | None, marks: int) -> Sequence[int]:
            topic = self._by_bytes.get(name)
            if topic is None:
                address = self._addresses.get(name)
                if (address is not None and payload is not None and not marks
                        and self._is_in_turn(address, payload, received_ns, now_ns)):
                    return ()
                item = Incoming(name.decode("utf-8", "replace"), payload, marks != 0, received_ns)
                if address is not None:
                    self._sparkplug(address, item, now_ns)
                else:
                    self.receive(item, now_ns)
                return ()
            devices = self._document(topic, payload, marks != 0, received_ns, now_ns)
            return () if marks else devices

        devices = bulk.add_messages(chunk.messages, self._by_bytes, received_ns, self._columns, otherwise)
        if devices:  # all of it came at one time, so each device answered once
            self._sink.answered(sorted(devices), received_ns)

    def receive(self, item: Incoming, now_ns: int) -> None:
        """Take one message."""
        topic = self._topics.get(item.topic)
        if topic is not None:
            devices = self._document(topic, item.payload, item.is_retained, item.received_ns, now_ns)
            if devices and not item.is_retained:
                self._sink.answered(devices, item.received_ns)
            return
        address = _node_of(item.topic)
        if address is None or address[:2] not in self._sessions:
            self._discards["unknown_point"] += 1
            self._stranger(item.topic, now_ns)
            return
        if len(self._addresses) >= ADDRESSES_MAX:
            self._addresses.clear()
            self._layouts.clear()
        self._addresses[item.topic.encode()] = address
        self._sparkplug(address, item, now_ns)

    def _sparkplug(self, address: Address, item: Incoming, now_ns: int) -> None:
        group, node, kind, device = address
        if item.payload is None:
            self._tell(Problem.of(item.topic, "mqtt.payload_too_large", max=codec.MAX_PAYLOAD_BYTES), now_ns)
            self._unreadable((group, node), kind, item, now_ns)
            return
        try:
            frame = codec.parse(item.payload, where=item.topic)
        except DeviceError as error:
            self._tell(error.problems[0], now_ns)
            self._unreadable((group, node), kind, item, now_ns)
            return
        layouts = self._layouts.get(address)
        if layouts is not None:
            layouts.learn(item.payload)
        if item.is_retained:
            # Sparkplug retains nothing of this; what is retained nevertheless tells of another day.
            self._discards["not_live"] += frame.samples
            self._tell(Problem.of(item.topic, "mqtt.retained_sparkplug"), now_ns)
            return
        self._step((group, node), Message(kind, device, frame, item.received_ns), item.received_ns, now_ns)

    def flush(self) -> None:
        """Hand over what came together since the last call."""
        batch = self._columns.take()
        if batch is not None:
            self._sink.samples(batch)
        for reason, count in sorted(self._discards.items()):
            if count:
                self._sink.discarded(reason, count)
        self._discards.clear()

    def take_asks(self) -> list[Node]:
        """Return the nodes to send a rebirth request to, since the last call; none unless the endpoint allows it."""
        asks, self._asks = self._asks, []
        return asks

    # Plain JSON

    def _stranger(self, topic: str, now_ns: int) -> None:
        """Tell once of each device that speaks on a topic of a template and is not in the ledger."""
        for template, known in self._templates.items():
            device = template.device_of(topic)
            if device is None or device in known or (template.text, device) in self._strangers:
                continue
            if len(self._strangers) < STRANGERS_MAX:
                self._strangers.add((template.text, device))
                told = Problem.of(topic[:200], "mqtt.stranger", device=device[:100], template=template.text)
                self._tell(told, now_ns)

    def _document(self, topic: Topic, payload: bytes | None, is_retained: bool, received_ns: int, now_ns: int
                  ) -> tuple[int, ...]:
        """Take one document; return the devices that it is from."""
        try:
            if payload is None:
                raise DeviceError(Problem.of(topic.name, "mqtt.payload_too_large", max=codec.MAX_PAYLOAD_BYTES))
            tally = topic.add(payload, received_ns, is_retained=is_retained, columns=self._columns)
        except DeviceError as error:
            self._discards["undecodable"] += len(topic.readers)
            self._tell(error.problems[0], now_ns)
            return topic.devices
        if tally.undecodable:
            self._discards["undecodable"] += tally.undecodable
            self._tell(Problem.of(topic.name, "mqtt.wrong_type", count=tally.undecodable), now_ns)
        # A topic that many devices share tells of those only which it has something of.
        return tally.devices if len(topic.devices) > 1 else topic.devices

    # Sparkplug

    def _is_in_turn(self, address: Address, payload: bytes, received_ns: int, now_ns: int) -> bool:
        """Deliver data whose turn it is, by the layout of the data before it; return False for anything else."""
        group, name, kind, device = address
        node = (group, name)
        session = self._sessions[node]
        table = session.tables.get(device)
        if table is None or kind not in (Kind.NDATA, Kind.DDATA) or not session.is_calm or not self.is_fast:
            return False
        layouts = self._layouts.get(address)
        if layouts is None or layouts.table is not table:
            layouts = self._layouts[address] = Layouts(table)
        block = layouts.read(payload)
        if block is None:
            return False
        seq, _ = self._turns.get(node, (session.next_seq, 0))
        if block.seq != seq:
            return False
        self._turns[node] = ((seq + 1) % SEQ_END, now_ns)
        self._columns.add_block(block.points, block.source_ns, block.values, received_ns)
        if block.unknown:
            self._discards["unknown_point"] += block.unknown
        return True

    def _unreadable(self, node: Node, kind: Kind, item: Incoming, now_ns: int) -> None:
        self._discards["undecodable"] += 1
        if kind in (Kind.NBIRTH, Kind.NDEATH):  # all others are missed in the sequence
            self._step(node, Missed("unreadable"), item.received_ns, now_ns)

    def _step(self, node: Node, event: Event, received_ns: int, now_ns: int) -> None:
        before = self._sessions[node]
        if node in self._turns:
            before = self._sessions[node] = before.turns_taken(*self._turns.pop(node))
        session, effects = before.step(event, now_ns=now_ns)
        unexplained = False
        for effect in effects:
            match effect:
                case Deliver():
                    unexplained |= self._deliver(node, session, effect, now_ns)
                case Discard(reason, count, why):
                    self._discards[reason] += count
                    self._explain(node, why, now_ns)
                case Online(device):
                    self._born((*node, device), received_ns)
                case Offline(devices, why):
                    self._died(node, devices, received_ns)
                    self._explain(node, why, now_ns)
                case AskRebirth():
                    self._asks.append(node)
        self._sessions[node] = session
        if unexplained:
            self._step(node, Unexplained(), received_ns, now_ns)
            return
        if session.wake_ns is None:
            self._wakes.pop(node, None)
        else:
            self._wakes[node] = session.wake_ns

    def _deliver(self, node: Node, session: NodeSession, effect: Deliver, now_ns: int) -> bool:
        """Return whether the message used aliases that no birth explained."""
        message = effect.message
        points = session.points.get(message.device, {})
        tally = codec.add_metrics(message.frame, effect.table, points, message.received_ns, self._columns)
        if tally.unknown_point:
            self._discards["unknown_point"] += tally.unknown_point
        self._discards["undecodable"] += tally.undecodable
        where = "/".join((*node, message.device)) if message.device else "/".join(node)
        if tally.undecodable:
            self._tell(Problem.of(where, "mqtt.metrics_undecodable", count=tally.undecodable), now_ns)
        if message.kind in (Kind.NBIRTH, Kind.DBIRTH) and points:
            self._compare(where, self._metrics[node][message.device], effect.table, now_ns)
        return tally.strangers > 0

    def _compare(self, where: str, wanted: Mapping[str, SparkplugPoint], table: AliasTable, now_ns: int) -> None:
        """Tell what the ledger has and the birth lacks, or has as something else."""
        missing = [name for name in wanted if name not in table.by_name]
        if missing:
            self._tell(Problem.of(where, "mqtt.metrics_missing", count=len(missing), named=named(missing)), now_ns)
        others = [name for name, point in wanted.items() if point.type and name in table.by_name
                  and POINT_TYPE.get(table.by_name[name].datatype, "-") != point.type]
        if others:
            self._tell(Problem.of(where, "mqtt.metric_types_differ", count=len(others), named=named(others)), now_ns)

    def _born(self, place: tuple[str, str, str], received_ns: int) -> None:
        fresh = []
        for device in self._members.get(place, ()):
            alive = self._alive.setdefault(device, set())
            if not alive:
                fresh.append(device)
            alive.add(place)
        if fresh:
            self._sink.online(fresh, received_ns)

    def _died(self, node: Node, devices: Iterable[str], received_ns: int) -> None:
        """A device of the roster is gone when nothing of it is left: its metrics may come from several places."""
        gone = []
        for place in ((*node, device) for device in devices):
            for device in self._members.get(place, ()):
                alive = self._alive.get(device, set())
                if place in alive:
                    alive.discard(place)
                    if not alive:
                        gone.append(device)
        if gone:
            self._sink.offline(sorted(gone), received_ns)

    def _explain(self, node: Node, why: str, now_ns: int) -> None:
        if why == "before_birth" and not self._sessions[node].is_deaf:
            return  # everyday life of a host that came later than its nodes: it asks, and they answer
        if why in TOLD_WHY:
            self._tell(Problem("/".join(node), TOLD_WHY[why]), now_ns)

    def _tell(self, problem: Problem, now_ns: int) -> None:
        key = (problem.code, problem.where)
        if now_ns < self._told_ns.get(key, now_ns):
            return
        if len(self._told_ns) >= TELL_TOPICS_MAX:
            self._told_ns.clear()
        self._told_ns[key] = now_ns + TELL_PAUSE_NS
        self._sink.event(problem.code, problem.where, **dict(problem.args))


def named(names: Sequence[str]) -> str:
    """Return the first of these names for a person."""
    return ", ".join(names[:NAMED_MAX]) + (", ..." if len(names) > NAMED_MAX else "")


def _node_of(topic: str) -> Address | None:
    """Return group, node, message type and device of a Sparkplug topic that a host receives, else None."""
    parts = topic.split("/")
    if parts[0] != SPARKPLUG_NAMESPACE or len(parts) not in (4, 5) or parts[2] not in Kind.__members__:
        return None
    kind, device = Kind(parts[2]), parts[4] if len(parts) == 5 else ""
    if kind.startswith("D") != bool(device):
        return None
    return parts[1], parts[3], kind, device
