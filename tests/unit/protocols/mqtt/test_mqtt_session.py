"""One edge node, message by message, and any messages in any order: what goes in comes out, delivered or discarded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocols.mqtt import codec
from protocols.mqtt.session import (
    ASK_PAUSE_MAX_NS,
    ASK_PAUSE_MIN_NS,
    CONNECT_GRACE_NS,
    HELD_MAX,
    HOLD_NS,
    NS_PER_S,
    REPEATS_MAX,
    AskRebirth,
    Connected,
    Deliver,
    Discard,
    Disconnected,
    Effect,
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
from protocols.terms.vocabulary import DISCARD_REASONS
from tests.unit.protocols.mqtt.mqtt_recording import payload

POINTS = {"": {"N": 0}, "D": {"A": 1}, "E": {"A": 2}}
METRIC = {"": ("N", 3, 1), "D": ("A", 3, 1), "E": ("A", 3, 1)}


def message(kind: Kind, seq: int | None = 0, *, bd: int | None = None, device: str = "", sent_ms: int = 1000,
            metrics: int = 1) -> Message:
    device = device or ("D" if kind.startswith("D") else "")
    if kind in (Kind.NDEATH, Kind.DDEATH):
        metrics = 0
    body = payload(seq, *[METRIC[device]] * metrics, bd_seq=bd, sent_ms=sent_ms)
    return Message(kind, device, codec.parse(body, where="t"), 5)


class Node:
    """A session with a clock, and short names for what comes out of it."""

    def __init__(self, **more: object) -> None:
        self.session = NodeSession(points=POINTS, **more)  # type: ignore[arg-type]  # keywords of a test
        self.now_ns = 1_000 * NS_PER_S

    def do(self, *events: Event) -> list[str]:
        out: list[str] = []
        for event in events:
            self.session, effects = self.session.step(event, now_ns=self.now_ns)
            out += map(short, effects)
        return out

    def wait(self, wait_ns: int) -> list[str]:
        self.now_ns += wait_ns
        return self.do(Tick())

    def born(self, seq: int = 0, bd: int = 1) -> Node:
        self.do(message(Kind.NBIRTH, seq, bd=bd), message(Kind.DBIRTH, (seq + 1) % 256))
        assert set(self.session.tables) == {"", "D"}
        return self


def short(effect: Effect) -> str:
    match effect:
        case Deliver(what, _):
            return f"deliver {what.kind} {what.frame.seq}"
        case Discard(reason, count, why):
            assert reason in DISCARD_REASONS
            return f"discard {count} {reason} {why}"
        case Online(device):
            return f"online {device or '-'}"
        case Offline(devices, why):
            return f"offline {','.join(d or '-' for d in devices)} {why}"
        case AskRebirth(why):
            return f"ask {why}"


def test_a_life() -> None:
    node = Node()
    assert node.do(message(Kind.NBIRTH, 0, bd=4)) == ["online -", "deliver NBIRTH 0"]
    assert node.do(message(Kind.DBIRTH, 1)) == ["online D", "deliver DBIRTH 1"]
    assert node.do(message(Kind.DDATA, 2), message(Kind.NDATA, 3)) == ["deliver DDATA 2", "deliver NDATA 3"]
    assert node.do(message(Kind.DDEATH, 4)) == ["offline D death"]
    assert node.do(message(Kind.NDATA, 5)) == ["deliver NDATA 5"]
    assert node.do(message(Kind.NDEATH, None, bd=4)) == ["offline - death"]
    assert node.session.wake_ns is None


def test_sequence_numbers_wrap() -> None:
    node = Node().born(seq=253)
    assert node.do(*[message(Kind.DDATA, seq) for seq in (255, 0, 1)]) == [
        "deliver DDATA 255", "deliver DDATA 0", "deliver DDATA 1"]


def test_a_zero_that_was_left_out_is_a_zero_where_it_is_due_and_nowhere_else() -> None:
    node = Node().born(seq=253)
    assert node.do(*[message(Kind.DDATA, seq) for seq in (255, None, 1)]) == [
        "deliver DDATA 255", "deliver DDATA None", "deliver DDATA 1"]
    assert node.do(message(Kind.DDATA, None)) == [
        "discard 1 undecodable no_sequence", "offline -,D no_sequence", "ask no_sequence"]


def test_births_that_another_host_asked_for_are_births_like_any_other() -> None:
    node = Node().born()
    assert node.do(message(Kind.DDATA, 2, sent_ms=1500)) == ["deliver DDATA 2"]
    for sent_ms in (1501, 1502):
        assert node.do(message(Kind.NBIRTH, 0, bd=1, sent_ms=sent_ms), message(Kind.DBIRTH, 1, sent_ms=sent_ms)) == [
            "offline -,D rebirth", "online -", "deliver NBIRTH 0", "online D", "deliver DBIRTH 1"]
    assert node.do(message(Kind.DDATA, 2, sent_ms=1502)) == ["deliver DDATA 2"]


def test_births_of_one_millisecond_for_two_hosts_cost_at_most_what_came_between() -> None:
    node = Node()
    births = [message(Kind.NBIRTH, 0, bd=1), message(Kind.DBIRTH, 1)]
    node.do(*births, message(Kind.DDATA, 2))
    assert node.do(*births, message(Kind.DDATA, 2), message(Kind.DDATA, 3)) == [
        "discard 1 not_live repeat"] * 3 + ["deliver DDATA 3"]


def test_data_of_the_life_before_that_was_sent_in_the_millisecond_of_the_birth_is_no_gap() -> None:
    node = Node()
    assert node.do(message(Kind.DDATA, 11), message(Kind.NBIRTH, 0, bd=1), message(Kind.DBIRTH, 1)) == [
        "online -", "deliver NBIRTH 0", "online D", "deliver DBIRTH 1"]
    assert node.do(message(Kind.DDATA, 2, sent_ms=1001)) == ["discard 1 undecodable before_birth", "deliver DDATA 2"]
    assert node.wait(2 * HOLD_NS) == [] and node.session.online


def test_the_will_of_an_older_session_kills_nobody() -> None:
    node = Node().born(bd=7)
    assert node.do(message(Kind.NDEATH, None, bd=6)) == []
    assert node.session.online
    assert node.do(message(Kind.NDEATH, None, bd=7)) == ["offline -,D death"]
    assert node.do(message(Kind.NDEATH, None, bd=7)) == []


@pytest.mark.parametrize(("birth", "death"), [(None, 3), (3, None), (None, None)])
def test_a_death_that_cannot_be_matched_counts(birth: int | None, death: int | None) -> None:
    node = Node()
    node.do(message(Kind.NBIRTH, 0, bd=birth))
    assert node.do(message(Kind.NDEATH, None, bd=death)) == ["offline - death"]


def test_a_rebirth_starts_everything_again() -> None:
    node = Node().born()
    assert node.do(message(Kind.NBIRTH, 0, bd=1, sent_ms=2000)) == [
        "offline -,D rebirth", "online -", "deliver NBIRTH 0"]
    # the device has not been born again
    assert node.do(message(Kind.DDATA, 1)) == ["discard 1 undecodable before_birth", "ask before_birth"]
    assert node.do(message(Kind.DBIRTH, 2)) == ["online D", "deliver DBIRTH 2"]


def test_a_birth_that_comes_twice_counts_once() -> None:
    node = Node().born()
    assert node.do(message(Kind.NBIRTH, 0, bd=1)) == ["discard 1 not_live repeat"]
    assert node.do(message(Kind.DDATA, 2)) == ["deliver DDATA 2"]


def test_early_messages_wait_for_those_before_them() -> None:
    node = Node().born()
    assert node.do(message(Kind.DDATA, 4), message(Kind.NDATA, 3)) == []
    assert node.do(message(Kind.DDATA, 2)) == ["deliver DDATA 2", "deliver NDATA 3", "deliver DDATA 4"]
    assert node.wait(2 * HOLD_NS) == []


def test_a_device_birth_may_overtake_the_birth_of_its_node() -> None:
    node = Node()
    assert node.do(message(Kind.DBIRTH, 1), message(Kind.DDATA, 2)) == []
    assert node.do(message(Kind.NBIRTH, 0, bd=1)) == [
        "online -", "deliver NBIRTH 0", "online D", "deliver DBIRTH 1", "deliver DDATA 2"]


def test_what_was_sent_before_a_birth_does_not_count_after_it() -> None:
    node = Node()
    node.do(message(Kind.DDATA, 1, sent_ms=999), message(Kind.NDATA, 2, sent_ms=1000))
    assert node.do(message(Kind.NBIRTH, 0, bd=1)) == [
        "discard 1 undecodable before_birth", "online -", "deliver NBIRTH 0"]
    assert node.do(message(Kind.NDATA, 1)) == ["deliver NDATA 1", "deliver NDATA 2"]


def test_a_gap_that_stays_ends_the_session() -> None:
    node = Node().born()
    node.do(message(Kind.DDATA, 3, metrics=2), message(Kind.NDATA, 5))
    assert node.wait(HOLD_NS - 1) == []
    assert node.wait(1) == ["discard 3 undecodable gap", "offline -,D gap", "ask gap"]
    node.now_ns += 1
    assert node.do(message(Kind.DDATA, 6)) == []
    assert node.wait(HOLD_NS) == ["discard 1 undecodable before_birth"]  # asked a moment ago
    assert node.do(message(Kind.NBIRTH, 0, bd=1, sent_ms=2000)) == ["online -", "deliver NBIRTH 0"]
    assert node.wait(ASK_PAUSE_MAX_NS) == []


def test_how_long_early_messages_wait_can_be_set() -> None:
    node = Node(hold_ns=5 * HOLD_NS).born()
    node.do(message(Kind.DDATA, 3))
    assert node.wait(5 * HOLD_NS - 1) == []
    assert node.do(message(Kind.DDATA, 2)) == ["deliver DDATA 2", "deliver DDATA 3"]
    assert node.wait(1) == [], "the wait is over with what was missing"
    node.do(message(Kind.DDATA, 5))
    assert node.wait(5 * HOLD_NS)[-1] == "ask gap"


def test_after_a_death_nothing_counts_until_the_next_birth() -> None:
    node = Node().born()
    assert node.do(message(Kind.DDEATH, 2)) == ["offline D death"]
    assert node.do(message(Kind.DDATA, 3)) == ["discard 1 undecodable before_birth", "ask before_birth"]
    assert node.do(message(Kind.NDATA, 4)) == ["deliver NDATA 4"], "the node itself lives"
    assert node.do(message(Kind.NDEATH, None, bd=1)) == ["offline - death"]
    assert node.do(message(Kind.NDATA, 5), message(Kind.DDATA, 6)) == []
    assert "discard 2 undecodable before_birth" in node.wait(HOLD_NS)


def test_each_held_message_waits_for_its_own_time_only() -> None:
    node = Node().born()
    node.do(message(Kind.DDATA, 3))
    node.now_ns += HOLD_NS - 1
    node.do(message(Kind.DDATA, 5))
    assert node.do(message(Kind.DDATA, 2)) == ["deliver DDATA 2", "deliver DDATA 3"]
    assert node.wait(HOLD_NS - 1) == []
    assert node.wait(1) == ["discard 1 undecodable gap", "offline -,D gap", "ask gap"]


def test_too_many_early_messages_are_a_gap_at_once() -> None:
    node = Node().born()
    assert node.do(*[message(Kind.DDATA, 3 + i) for i in range(HELD_MAX)]) == []
    assert node.do(message(Kind.DDATA, 3 + HELD_MAX)) == [
        f"discard {HELD_MAX} undecodable gap", "offline -,D gap", "ask gap", "discard 1 undecodable gap"]


def test_repeats_are_no_news() -> None:
    node = Node().born()
    node.do(message(Kind.DDATA, 2), message(Kind.DDATA, 3))
    assert node.do(message(Kind.DDATA, 3), message(Kind.DDATA, 2)) == ["discard 1 not_live repeat"] * 2
    assert node.do(message(Kind.DDATA, 5), message(Kind.DDATA, 5)) == ["discard 1 not_live repeat"]
    assert node.do(message(Kind.DDATA, 4)) == ["deliver DDATA 4", "deliver DDATA 5"]


def test_a_loss_that_looks_like_repeats_is_found_out() -> None:
    """230 messages lost: the next are 26 behind, and would pass for repeats until they fit by chance."""
    node = Node().born()
    out = node.do(*[message(Kind.DDATA, (2 + 230 + i) % 256) for i in range(26)])
    assert out == ["discard 1 not_live repeat"] * 26
    assert REPEATS_MAX >= 26
    node = Node().born()
    node.do(message(Kind.DDATA, 2))
    out = node.do(*[message(Kind.DDATA, 1)] * (REPEATS_MAX + 1))
    assert out[-3:] == ["discard 1 undecodable gap", "offline -,D gap", "ask gap"]


def test_no_sequence_number_no_trust() -> None:
    node = Node().born()
    assert node.do(message(Kind.DDATA, None)) == [
        "discard 1 undecodable no_sequence", "offline -,D no_sequence", "ask no_sequence"]
    assert Node().do(message(Kind.DDATA, 256)) == ["discard 1 undecodable no_sequence", "ask no_sequence"]
    node = Node()
    node.do(message(Kind.NBIRTH, None, bd=1))
    assert node.do(message(Kind.NDATA, 1)) == ["deliver NDATA 1"]


def test_who_connects_waits_before_it_asks() -> None:
    node = Node()
    assert node.do(Connected()) == []
    assert node.wait(CONNECT_GRACE_NS - 1) == []
    assert node.wait(1) == ["ask connected"]
    assert node.wait(10 * ASK_PAUSE_MAX_NS) == []  # a node that is away is not asked again and again
    node = Node()
    node.do(Connected(), message(Kind.NBIRTH, 0, bd=1))
    assert node.wait(CONNECT_GRACE_NS) == []
    assert node.do(Connected()) == [] and node.wait(CONNECT_GRACE_NS) == []


def test_rebirth_requests_become_rare() -> None:
    node, asked = Node(), []
    for _ in range(4_000):  # a node that never answers and never stops
        node.now_ns += NS_PER_S // 2
        asked += [node.now_ns for effect in node.do(message(Kind.DDATA, 7), Tick()) if effect.startswith("ask")]
    pauses = [(b - a) // NS_PER_S for a, b in pairwise(asked)]
    assert len(asked) <= 12  # in 2000 s: 5, 10, 20, 40, 80, 160, 300, 300, ...
    assert pauses == sorted(pauses) and pauses[0] >= ASK_PAUSE_MIN_NS // NS_PER_S
    assert pauses[-1] >= ASK_PAUSE_MAX_NS // NS_PER_S


def test_a_wish_is_kept_until_it_may_be_told() -> None:
    node = Node().born()
    assert node.do(Unexplained()) == ["ask unknown_alias"]
    assert node.do(Unexplained()) == []
    assert node.session.wake_ns == node.now_ns + ASK_PAUSE_MIN_NS
    assert node.wait(ASK_PAUSE_MIN_NS) == ["ask unknown_alias"]
    assert node.session.wake_ns is None


def test_never_means_never() -> None:
    node = Node(may_ask=False)
    out = node.do(Connected()) + node.wait(CONNECT_GRACE_NS) + node.do(message(Kind.DDATA, 7)) + node.wait(HOLD_NS)
    out += node.do(Unexplained(), Missed("queue_full"), message(Kind.DDATA, None)) + node.wait(ASK_PAUSE_MAX_NS)
    assert out == ["discard 1 undecodable before_birth", "discard 1 undecodable no_sequence"]
    assert node.session.wake_ns is None


def test_a_lost_connection_forgets_everything() -> None:
    node = Node().born()
    node.do(message(Kind.DDATA, 9))
    assert node.do(Disconnected()) == ["discard 1 undecodable connection_lost", "offline -,D connection_lost"]
    assert not node.session.online and not node.session.tables and not node.session.held
    assert node.session.wake_ns is None


def test_what_was_missed_may_have_been_a_death() -> None:
    assert Node().born().do(Missed("queue_full")) == ["offline -,D queue_full", "ask queue_full"]


def test_silence_is_no_death_unless_the_owner_says_so() -> None:
    node = Node().born()
    assert node.session.wake_ns is None and node.wait(10**6 * NS_PER_S) == []
    node = Node(silence_ns=60 * NS_PER_S).born()
    node.now_ns += 59 * NS_PER_S
    node.do(message(Kind.DDATA, 2))
    assert node.wait(60 * NS_PER_S - 1) == []
    assert node.wait(1) == ["offline -,D silent", "ask silent"]


def test_values_in_a_death_are_not_lost_unseen() -> None:
    node = Node().born()
    death = message(Kind.DDEATH, 2)
    with_value = death._replace(frame=message(Kind.DDATA, 2).frame)
    assert node.do(with_value) == ["discard 1 not_live in_death", "offline D death"]


class AnyOrder(RuleBasedStateMachine):
    """Any messages, of any node life, in any order, with repeats, waits, losses and reconnects."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(silence_ns=50 * NS_PER_S)
        self.received = self.delivered = self.discarded = 0
        self.online: set[str] = set()
        self.asked_ns: list[int] = []

    def step(self, event: Event) -> None:
        self.node.session, effects = self.node.session.step(event, now_ns=self.node.now_ns)
        for effect in effects:
            match effect:
                case Deliver(what, _):
                    self.delivered += what.frame.samples
                    assert what.device in self.online
                case Discard(reason, count, _):
                    assert count > 0 and reason in DISCARD_REASONS
                    self.discarded += count
                case Online(device):
                    self.online.add(device)
                case Offline(devices, _):
                    assert devices and self.online.issuperset(devices)
                    self.online -= set(devices)
                case AskRebirth():
                    self.asked_ns.append(self.node.now_ns)

    @rule(kind=st.sampled_from(Kind), seq=st.none() | st.integers(0, 6) | st.integers(0, 256),
          device=st.sampled_from("DE"), bd=st.none() | st.integers(0, 1), sent_ms=st.integers(0, 3),
          metrics=st.integers(0, 3))
    def hear(self, kind: Kind, seq: int | None, device: str, bd: int | None, sent_ms: int, metrics: int) -> None:
        one = message(kind, seq, bd=bd, device=device if kind.startswith("D") else "", sent_ms=sent_ms, metrics=metrics)
        self.received += one.frame.samples
        self.step(one)

    @rule(kind=st.sampled_from([Kind.NDATA, Kind.DDATA, Kind.DBIRTH, Kind.DDEATH]), ahead=st.integers(0, 3))
    def hear_almost_in_order(self, kind: Kind, ahead: int) -> None:
        one = message(kind, (self.node.session.next_seq + ahead) % 256)
        self.received += one.frame.samples
        self.step(one)

    @rule(event=st.sampled_from([Connected(), Disconnected(), Missed("queue_full"), Unexplained(), Tick()]))
    def happen(self, event: Event) -> None:
        self.step(event)

    @rule(wait_ms=st.sampled_from([1, 300, 1000, 6000, 60_000]))
    def wait(self, wait_ms: int) -> None:
        self.node.now_ns += wait_ms * 1_000_000
        due = self.node.session.wake_ns
        self.step(Tick())
        if due is not None and due <= self.node.now_ns:
            assert self.node.session.wake_ns is None or self.node.session.wake_ns > due

    @invariant()
    def nothing_is_lost(self) -> None:
        held = sum(h.message.frame.samples for h in self.node.session.held)
        assert self.received == self.delivered + self.discarded + held
        assert len(self.node.session.held) <= HELD_MAX

    @invariant()
    def the_caller_knows_who_is_online(self) -> None:
        assert self.online == set(self.node.session.tables)
        assert self.node.session.online == ("" in self.online)

    def teardown(self) -> None:
        self.step(Disconnected())
        assert self.received == self.delivered + self.discarded and not self.online
        assert all(b - a >= CONNECT_GRACE_NS for a, b in pairwise(self.asked_ns))


AnyOrder.TestCase.settings = settings(max_examples=60)
test_any_order = AnyOrder.TestCase


@given(st.permutations(list(range(1, 20))), st.lists(st.integers(1, 19), max_size=10))
def test_disorder_within_a_moment_changes_nothing(order: list[int], again: list[int]) -> None:
    node = Node()
    node.do(message(Kind.NBIRTH, 0, bd=1))
    out = node.do(*[message(Kind.NDATA, seq) for seq in order + again])
    assert out[:19] == [f"deliver NDATA {seq}" for seq in range(1, 20)]
    assert out[19:] == ["discard 1 not_live repeat"] * len(again)
