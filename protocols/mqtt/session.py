"""One Sparkplug edge node as this host sees it: events in, effects out, time as an argument. No sockets, no tasks.

Sequence numbers run over all messages of a node, deaths of the node excepted; MQTT keeps the order of one topic only.
So a message that comes early is held for a moment. What is still missing then is lost: aliases may have changed
meanwhile, so nothing of this node is believed before its next birth. Every frame leaves as `Deliver` or as `Discard`.

Source: Eclipse Sparkplug Specification 3.0.0, chapters 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from protocols.mqtt.births import AliasTable
from protocols.mqtt.codec import Frame, alias_table

NS_PER_S = 1_000_000_000

HOLD_NS = NS_PER_S
"""How long an early message waits for those before it; shorter than the grace of a window, so that it is never late."""

HELD_MAX = 64
"""Messages held at once. More of them are no disorder but a loss."""

REPEATS_MAX = 32
"""How far behind a sequence number may be to pass for a repeat of a message already seen."""

CONNECT_GRACE_NS = NS_PER_S
"""After we connected, nodes that connected with us get this long to send their births unasked."""

ASK_PAUSE_MIN_NS = 5 * NS_PER_S
ASK_PAUSE_MAX_NS = 300 * NS_PER_S
"""Pause between two rebirth requests to one node: doubled from the one to the other while they follow each other."""

SEQ_END = 256

WHY = ("before_birth", "connected", "connection_lost", "death", "gap", "in_death", "no_sequence", "queue_full",
       "rebirth", "repeat", "silent", "unknown_alias", "unreadable")
"""Why an effect: words for the caller, which finds sentences for them."""


class Kind(StrEnum):
    """Message types of a node and of its devices that a host receives."""

    NBIRTH = "NBIRTH"
    NDATA = "NDATA"
    NDEATH = "NDEATH"
    DBIRTH = "DBIRTH"
    DDATA = "DDATA"
    DDEATH = "DDEATH"


class Message(NamedTuple):
    """One message of this node. device: empty for those of the node itself. received_ns: UTC, by this gateway."""

    kind: Kind
    device: str
    frame: Frame
    received_ns: int


@dataclass(frozen=True, slots=True)
class Connected:
    """We subscribed; births from before are unknown to us, as they are not retained."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to the broker is gone, and with it every knowledge of this node."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A message of this node was dropped or could not be read, so that a birth or death may have been missed.

    why: queue_full or unreadable.
    """

    why: str


@dataclass(frozen=True, slots=True)
class Unexplained:
    """Data named an alias that its birth does not have."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at `wake_ns`, harmless at any other time."""


Event = Message | Connected | Disconnected | Missed | Unexplained | Tick


class Deliver(NamedTuple):
    """The samples of `message`, which `table` explains, are good to be counted."""

    message: Message
    table: AliasTable


@dataclass(frozen=True, slots=True)
class Discard:
    """`count` samples leave uncounted. reason: one of terms.DISCARD_REASONS; why: one of WHY."""

    reason: str
    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Online:
    """A birth of the node (empty) or of one of its devices."""

    device: str


@dataclass(frozen=True, slots=True)
class Offline:
    """These devices, the node itself being the empty name, are no longer known to be connected."""

    devices: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class AskRebirth:
    """Send this node a rebirth request."""

    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """A message that waits for those before it, until then."""

    message: Message
    until_ns: int


Effect = Deliver | Discard | Online | Offline | AskRebirth
Step = tuple["NodeSession", tuple[Effect, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSession:
    """What we know of one edge node. Times are of any clock that never goes back, except `Message.received_ns`.

    points: device (empty: the node) -> metric -> point slot. may_ask: rebirth requests are allowed.
    silence_ns: a node not heard for so long is taken as gone; None: its death certificate is trusted.
    hold_ns: how long an early message waits for those before it.
    tables: births in force, by device; empty while the node is not online.
    """

    points: Mapping[str, Mapping[str, int]]
    may_ask: bool = True
    silence_ns: int | None = None
    hold_ns: int = HOLD_NS
    online: bool = False
    bd_seq: int | None = None
    birth_ms: int = 0
    next_seq: int = 0
    tables: Mapping[str, AliasTable] = field(default_factory=dict)
    held: tuple[Held, ...] = ()
    behind: int = 0
    heard_ns: int = 0
    wanted: str = ""
    ask_after_ns: int = 0
    ask_pause_ns: int = ASK_PAUSE_MIN_NS

    @property
    def wake_ns(self) -> int | None:
        """When the next `Tick` is due; None: time alone changes nothing."""
        due = [self.held[0].until_ns] if self.held else []  # they are in the order they came
        if self.wanted and self.may_ask:
            due.append(self.ask_after_ns)
        if self.online and self.silence_ns is not None:
            due.append(self.heard_ns + self.silence_ns)
        return min(due, default=None)

    @property
    def is_deaf(self) -> bool:
        """Whether births cannot be expected to come: we may not ask, or asked twice and were not heard."""
        return not self.may_ask or self.ask_pause_ns > 2 * ASK_PAUSE_MIN_NS

    def turns_taken(self, next_seq: int, heard_ns: int) -> NodeSession:
        """Return the session after data in its turn, which the caller has delivered: `is_calm` was true all along."""
        return replace(self, next_seq=next_seq, heard_ns=heard_ns, behind=0)

    @property
    def is_calm(self) -> bool:
        """Whether data in its turn, of who is born, changes nothing but whose turn it is."""
        return self.online and not self.held

    def step(self, event: Event, *, now_ns: int) -> Step:
        """Return the session after `event` and what the caller must do, in order."""
        match event:
            case Message():
                return replace(self, heard_ns=now_ns)._message(event, now_ns)
            case Tick():
                return self._tick(now_ns)
            case Connected():
                if self.online:
                    return self, ()
                grace_ns = max(self.ask_after_ns, now_ns + CONNECT_GRACE_NS)
                return replace(self, wanted="connected", ask_after_ns=grace_ns), ()
            case Disconnected():
                gone, effects = self._forget("connection_lost")
                return replace(gone, wanted=""), effects  # the pace of asking stays, however often we reconnect
            case Missed(why):
                return self._lose(why, now_ns)
            case Unexplained():
                return self._ask("unknown_alias", now_ns)

    def _message(self, message: Message, now_ns: int) -> Step:
        if message.kind is Kind.NBIRTH:
            return self._node_birth(message, now_ns)
        if message.kind is Kind.NDEATH:
            return self._node_death(message)
        seq = message.frame.seq
        if seq is None and self.online and self.next_seq == 0:
            seq = 0  # proto3 leaves a zero out; Sparkplug is proto2, but not every edge node knows
        if seq is None or seq >= SEQ_END:
            lost, effects = self._lose("no_sequence", now_ns)
            return lost, (*_discard("undecodable", [message], "no_sequence"), *effects)
        if not self.online:
            return self._hold(message, now_ns)
        ahead = (seq - self.next_seq) % SEQ_END
        if ahead == 0:
            session, effects = self._apply(message, now_ns)
            return session._drained(effects, now_ns)
        if ahead < SEQ_END - REPEATS_MAX:
            return self._hold(message, now_ns)
        if self.behind < REPEATS_MAX:
            return replace(self, behind=self.behind + 1), _discard("not_live", [message], "repeat")
        lost, effects = self._lose("gap", now_ns)
        return lost, (*_discard("undecodable", [message], "gap"), *effects)

    def _node_birth(self, message: Message, now_ns: int) -> Step:
        frame = message.frame
        if self.online and frame.sent_ms and (frame.sent_ms, frame.bd_seq) == (self.birth_ms, self.bd_seq):
            return self, _discard("not_live", [message], "repeat")
        table = alias_table(frame, self.points.get("", {}))
        # What a node sends after its birth may have overtaken it, on another topic; the rest is of the life before.
        after = tuple(h for h in self.held if h.message.frame.sent_ms >= frame.sent_ms)
        before = [h.message for h in self.held if h.message.frame.sent_ms < frame.sent_ms]
        # Every device has to be born again, and those that are not were lost.
        effects = (*_discard("undecodable", before, "before_birth"), *self._offline("rebirth"),
                   Online(""), Deliver(message, table))
        born = replace(
            self, online=True, bd_seq=frame.bd_seq, birth_ms=frame.sent_ms, next_seq=((frame.seq or 0) + 1) % SEQ_END,
            tables={"": table}, held=after, behind=0, wanted="")
        return born._drained(effects, now_ns)

    def _node_death(self, message: Message) -> Step:
        discards = _discard("not_live", [message], "in_death")
        known = self.bd_seq is not None and message.frame.bd_seq is not None
        if not self.online or (known and message.frame.bd_seq != self.bd_seq):
            return self, discards  # the will of an older session, published after the node came back
        dead, effects = self._forget("death")
        return dead, (*discards, *effects)

    def _apply(self, message: Message, now_ns: int) -> Step:
        """Take the message whose turn it is."""
        turn, effects = replace(self, next_seq=(self.next_seq + 1) % SEQ_END, behind=0)._without_the_dead(message)
        turn, more = turn._take(message, now_ns)
        return turn, (*effects, *more)

    def _without_the_dead(self, message: Message) -> Step:
        """Drop what was held at the birth because it was sent in the same millisecond, and is of the life before.

        Times of one life follow its numbers: what has a higher number than `message` cannot be older.
        """
        dead = [h for h in self.held if h.message.frame.sent_ms == self.birth_ms < message.frame.sent_ms]
        if not dead:
            return self, ()
        left = tuple(h for h in self.held if h not in dead)
        return replace(self, held=left), _discard("undecodable", (h.message for h in dead), "before_birth")

    def _take(self, message: Message, now_ns: int) -> Step:
        device = message.device
        if message.kind is Kind.DBIRTH:
            table = alias_table(message.frame, self.points.get(device, {}))
            return (replace(self, tables={**self.tables, device: table}), (Online(device), Deliver(message, table)))
        if message.kind is Kind.DDEATH:
            left = {name: table for name, table in self.tables.items() if name != device}
            gone = (Offline((device,), "death"),) if device in self.tables else ()
            return replace(self, tables=left), (*_discard("not_live", [message], "in_death"), *gone)
        known = self.tables.get(device)
        if known is not None:
            return self, (Deliver(message, known),)
        asking, effects = self._ask("before_birth", now_ns)
        return asking, (*_discard("undecodable", [message], "before_birth"), *effects)

    def _hold(self, message: Message, now_ns: int) -> Step:
        if any(h.message.frame.seq == message.frame.seq for h in self.held):
            return self, _discard("not_live", [message], "repeat")
        if len(self.held) >= HELD_MAX:
            lost, effects = self._lose("gap", now_ns)
            return lost, (*effects, *_discard("undecodable", [message], "gap"))
        return replace(self, held=(*self.held, Held(message, now_ns + self.hold_ns))), ()

    def _drained(self, effects: tuple[Effect, ...], now_ns: int) -> Step:
        """Take the held messages whose turn has come."""
        session, collected = self, list(effects)
        while turn := next((h for h in session.held if h.message.frame.seq == session.next_seq), None):
            session = replace(session, held=tuple(h for h in session.held if h is not turn))
            session, more = session._apply(turn.message, now_ns)
            collected += more
        return session, tuple(collected)

    def _tick(self, now_ns: int) -> Step:
        if self.held and now_ns >= self.held[0].until_ns:
            return self._lose("gap" if self.online else "before_birth", now_ns)
        if self.online and self.silence_ns is not None and now_ns >= self.heard_ns + self.silence_ns:
            return self._lose("silent", now_ns)
        if self.wanted and now_ns >= self.ask_after_ns:
            return self._ask(self.wanted, now_ns)
        return self, ()

    def _lose(self, why: str, now_ns: int) -> Step:
        forgotten, effects = self._forget(why)
        session, asked = forgotten._ask(why, now_ns)
        return session, (*effects, *asked)

    def _forget(self, why: str) -> Step:
        effects = (*_discard("undecodable", (h.message for h in self.held), why), *self._offline(why))
        return replace(self, online=False, bd_seq=None, tables={}, held=(), behind=0), effects

    def _offline(self, why: str) -> tuple[Effect, ...]:
        return (Offline(tuple(self.tables), why),) if self.tables else ()

    def _ask(self, why: str, now_ns: int) -> Step:
        """Ask for a rebirth now, or at the end of the pause that keeps a confused node from a storm of births."""
        if not self.may_ask:
            return replace(self, wanted=""), ()
        if now_ns < self.ask_after_ns:
            return replace(self, wanted=why), ()
        calm = now_ns >= self.ask_after_ns + ASK_PAUSE_MAX_NS
        pause = ASK_PAUSE_MIN_NS if calm else self.ask_pause_ns
        return (replace(self, wanted="", ask_after_ns=now_ns + pause, ask_pause_ns=min(2 * pause, ASK_PAUSE_MAX_NS)),
                (AskRebirth(why),))


def _discard(reason: str, messages: Iterable[Message], why: str) -> tuple[Effect, ...]:
    count = sum(m.frame.samples for m in messages)
    return (Discard(reason, count, why),) if count else ()
