"""From messages to the sink, without a broker: what is delivered, who is connected, what is told, and nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.frames import KEPT, RETAINED, Messages
from protocols.mqtt.inbox import Chunk, Dropped, Incoming
from protocols.mqtt.router import STRANGERS_MAX, TELL_PAUSE_NS, Router
from protocols.mqtt.session import CONNECT_GRACE_NS, HOLD_NS, Kind
from protocols.mqtt.target import MqttPoint, SparkplugPoint
from protocols.samples import BAD, GOOD, NOT_LIVE
from tests.unit.protocols.mqtt.mqtt_recording import (
    Recording,
    document,
    json_endpoint,
    json_point,
    metric_point,
    payload,
    sparkplug_endpoint,
)

SPARKPLUG = [
    metric_point(0, "G/N/#Uptime", device=0), metric_point(1, "G/N/D#Temp", device=1, type_="int32"),
    metric_point(2, "G/N/D#Run", device=1), metric_point(3, "G/N/E#Temp", device=2),
    metric_point(4, "G/M/E#Temp", device=2), metric_point(5, "G/N/#Load", device=1)]
TEMP, RUN = ("Temp", 3, 20), ("Run", 11, True)


class Bench:
    def __init__(self, points: list[MqttPoint] | list[SparkplugPoint], **more: object) -> None:
        self.sink = Recording()
        endpoint = json_endpoint(**more) if isinstance(points[0], MqttPoint) else sparkplug_endpoint(**more)
        self.router = Router(endpoint, points, self.sink)
        self.now_ns = 10**12

    def hear(self, topic: str, body: bytes | None, *, retained: bool = False) -> None:
        self.router.receive(Incoming(topic, body, retained, 77), self.now_ns)

    def node(self, kind: str, body: bytes, node: str = "N", device: str = "") -> None:
        self.hear(f"spBv1.0/G/{kind}/{node}" + (f"/{device}" if device else ""), body)

    def done(self) -> Recording:
        self.router.flush()
        return self.sink

    def wait(self, wait_ns: int) -> None:
        self.now_ns += wait_ns
        self.router.tick(78, self.now_ns)


def test_subscriptions_leave_commands_out() -> None:
    assert Bench(SPARKPLUG[:4]).router.filters == [
        "spBv1.0/G/NBIRTH/N", "spBv1.0/G/NDATA/N", "spBv1.0/G/NDEATH/N",
        "spBv1.0/G/DBIRTH/N/+", "spBv1.0/G/DDATA/N/+", "spBv1.0/G/DDEATH/N/+"]
    router = Bench([json_point(0, "a#/x"), json_point(1, "a#/y", device=0), json_point(2, "b/c#")]).router
    assert router.filters == ["a", "b/c"]
    assert [router.points_of(name) for name in router.filters] == [2, 1]
    assert [router.devices_of(name) for name in router.filters] == [{0}, {2}]
    router = Bench(SPARKPLUG).router
    assert router.points_of("spBv1.0/G/NDATA/N") == 2 and router.points_of("spBv1.0/G/DDATA/N/+") == 3
    assert router.devices_of("spBv1.0/G/NDATA/N") == {0, 1} and router.devices_of("spBv1.0/G/DDATA/N/+") == {1, 2}


def test_documents_of_one_turn_are_one_batch() -> None:
    bench = Bench([json_point(0, "a#/x"), json_point(1, "b#/s", "string")])
    bench.hear("a", document(x=1))
    bench.hear("b", document(s="on"))
    bench.hear("a", document(x=2, y=3))
    sink = bench.done()
    assert [(r[0], r[1]) for r in sink.rows if r[0] == 0] == [(0, 1.0), (0, 2.0)]
    assert len(sink.batches) == 1 and sink.batches[0].received_ns.tolist() == [77] * 3 and sink.texts == ["on"]
    assert sink.answers == {0: 2, 1: 1} and not sink.discards
    bench.router.flush()
    assert len(sink.batches) == 1


def test_retained_messages_connect_nobody() -> None:
    bench = Bench([json_point(0, "a#/x"), json_point(1, "a#/n")])
    bench.hear("a", document(x=1, n=None), retained=True)
    sink = bench.done()
    assert sink.answers == {} and [q for _, _, q in sink.rows] == [GOOD | NOT_LIVE, BAD | NOT_LIVE]


def test_unreadable_documents_are_counted_by_point_and_told_once() -> None:
    bench = Bench([json_point(0, "a#/x"), json_point(1, "a#/y", device=0)])
    for body in (b"{", b"{", None, document(x="wrong", y=1)):
        bench.hear("a", body)
    sink = bench.done()
    assert sink.discards == {"undecodable": 7} and sink.values(1) == [1.0]
    assert sink.codes() == ["mqtt.not_json", "mqtt.payload_too_large", "mqtt.wrong_type"]
    assert sink.answers == {0: 4}  # the device speaks, if not well
    bench.now_ns += TELL_PAUSE_NS
    bench.hear("a", b"{")
    assert sink.codes()[-1] == "mqtt.not_json" and len(sink.codes()) == 4


def test_on_a_shared_topic_only_those_it_speaks_of_are_connected() -> None:
    bench = Bench([json_point(0, "a#/0/x"), json_point(1, "a#/1/x")])
    bench.hear("a", b'[{"x": 1}]')
    assert bench.done().answers == {0: 1}


def test_births_data_and_deaths() -> None:
    bench = Bench(SPARKPLUG)
    bench.node("NBIRTH", payload(0, ("Uptime", 8, 5), ("Load", 10, 0.5), ("Firmware", 12, "v1"), bd_seq=3))
    bench.node("DBIRTH", payload(1, TEMP, RUN, aliases=True), device="D")
    bench.node("DDATA", payload(2, ("", 0, -4), aliases=True, names=False), device="D")
    bench.node("DDATA", payload(3, TEMP), device="X")  # a device of the node that the roster does not have
    bench.node("DBIRTH", payload(4, TEMP, TEMP), device="Y")
    sink = bench.done()
    assert sink.values(0) == [5.0] and sink.values(5) == [0.5] and sink.values(2) == [1.0]
    assert sink.values(1) == [20.0, -4.0]
    assert len(sink.batches) == 1 and sink.batches[0].source_ns.tolist() == [10**9] * 5
    assert sink.discards == {"unknown_point": 3, "undecodable": 1}
    assert sink.calls == [("online", (0, 1))]  # device 1 has a metric of the node, too
    bench.node("DDEATH", payload(5), device="D")
    assert sink.calls == [("online", (0, 1))]
    bench.node("NDEATH", payload(None, bd_seq=3))
    assert sink.calls == [("online", (0, 1)), ("offline", (0, 1))]


def test_a_device_below_two_nodes_is_gone_when_both_are() -> None:
    bench = Bench(SPARKPLUG)
    for node in "NM":
        bench.node("NBIRTH", payload(0, bd_seq=1), node=node)
        bench.node("DBIRTH", payload(1, TEMP), node=node, device="E")
    bench.node("NDEATH", payload(None, bd_seq=1), node="N")
    assert ("offline", (2,)) not in bench.sink.calls and ("offline", (0, 1)) in bench.sink.calls
    bench.router.disconnected(79, bench.now_ns)
    assert bench.sink.calls[-1] == ("offline", (2,))


def test_births_are_compared_with_the_ledger() -> None:
    bench = Bench(SPARKPLUG)
    bench.node("NBIRTH", payload(0, ("Uptime", 8, 5), bd_seq=3))
    bench.node("DBIRTH", payload(1, ("Temp", 10, 1.5)), device="D")
    assert bench.done().events == [
        ("mqtt.metrics_missing", "G/N", {"count": "1", "named": "Load"}),
        ("mqtt.metrics_missing", "G/N/D", {"count": "1", "named": "Run"}),
        ("mqtt.metric_types_differ", "G/N/D", {"count": "1", "named": "Temp"})]
    assert bench.sink.values(1) == [1.5]


def test_retained_sparkplug_is_of_another_day() -> None:
    bench = Bench(SPARKPLUG)
    bench.hear("spBv1.0/G/NBIRTH/N", payload(0, ("Uptime", 8, 5), bd_seq=3), retained=True)
    sink = bench.done()
    assert sink.discards == {"not_live": 1} and not sink.calls and sink.codes() == ["mqtt.retained_sparkplug"]


def test_aliases_without_a_birth_ask_for_one() -> None:
    bench = Bench(SPARKPLUG)
    bench.node("NBIRTH", payload(0, ("Uptime", 8, 5), ("Load", 10, 0.1), bd_seq=3))
    bench.node("NDATA", payload(1, ("", 0, 6), aliases=True, names=False))
    assert bench.router.take_asks() == [("G", "N")] and bench.router.take_asks() == []
    assert bench.done().discards == {"undecodable": 1}
    assert bench.sink.codes() == ["mqtt.metrics_undecodable"]


def test_who_connects_asks_every_node_that_is_silent() -> None:
    bench = Bench(SPARKPLUG)
    assert bench.router.wake_ns is None
    bench.router.connected(bench.now_ns)
    bench.node("NBIRTH", payload(0, bd_seq=3))
    assert bench.router.wake_ns == bench.now_ns + CONNECT_GRACE_NS
    bench.wait(CONNECT_GRACE_NS)
    assert bench.router.take_asks() == [("G", "M")]
    assert bench.router.wake_ns is None
    bench = Bench(SPARKPLUG, rebirth="never")
    bench.router.connected(bench.now_ns)
    bench.wait(CONNECT_GRACE_NS)
    assert bench.router.take_asks() == []


def test_a_gap_is_told_and_takes_the_node_offline() -> None:
    bench = Bench(SPARKPLUG)
    bench.node("NBIRTH", payload(0, ("Uptime", 8, 5), ("Load", 10, 1.0), bd_seq=3))
    bench.node("NDATA", payload(2, ("Uptime", 8, 6)))
    assert bench.router.wake_ns == bench.now_ns + HOLD_NS
    bench.wait(HOLD_NS)
    sink = bench.done()
    assert sink.discards == {"undecodable": 1} and sink.calls[-1] == ("offline", (0, 1))
    assert sink.events == [("mqtt.node_gap", "G/N", {})]


def test_what_a_full_queue_lost_is_counted_and_may_have_been_a_death() -> None:
    bench = Bench(SPARKPLUG)
    bench.node("NBIRTH", payload(0, ("Uptime", 8, 5), ("Load", 10, 1.0), bd_seq=3))
    bench.router.dropped({"G/N": Dropped(2, 9), "": Dropped(1, 1)}, 80, bench.now_ns)
    sink = bench.done()
    assert sink.discards == {"queue_full": 10} and sink.calls == [("online", (0, 1)), ("offline", (0, 1))]
    assert bench.router.take_asks() == [("G", "N")]
    assert [e for e in sink.events if e[1] == "G/N"] == [
        ("mqtt.queue_full", "G/N", {"messages": "2", "samples": "9"})]


def test_unreadable_deaths_and_births_end_a_session_unreadable_data_does_not() -> None:
    bench = Bench(SPARKPLUG)
    bench.node("NBIRTH", payload(0, ("Uptime", 8, 5), ("Load", 10, 1.0), bd_seq=3))
    bench.node("NDATA", b"\xff")
    assert bench.sink.calls == [("online", (0, 1))]
    bench.node("NDEATH", b"\xff")
    assert bench.sink.calls[-1] == ("offline", (0, 1))
    bench.hear("spBv1.0/G/NBIRTH/N", None)
    assert bench.done().discards == {"undecodable": 3}
    assert bench.sink.codes() == ["mqtt.not_sparkplug", "mqtt.not_sparkplug", "mqtt.node_unreadable",
                                  "mqtt.payload_too_large"]


def test_strangers_are_counted_and_have_one_name() -> None:
    bench = Bench(SPARKPLUG)
    topics = ["", "x", "spBv1.0/G/NBIRTH", "spBv1.0/G/NBIRTH/N/D", "spBv1.0/G/DBIRTH/N", "spBv1.0/G/NCMD/N",
              "spBv1.0/G/NBIRTH/Z", "spBv1.0/G/name/N", "spAv1.0/G/NBIRTH/N", "spBv1.0/G/DDATA/N/"]
    for topic in topics:
        bench.hear(topic, payload(0, TEMP))
        assert bench.router.source_of(topic) == ""
    assert bench.done().discards == {"unknown_point": len(topics)}
    assert bench.router.source_of("spBv1.0/G/DDATA/N/anything") == "G/N"


BODIES = st.one_of(
    st.binary(max_size=20), st.none(),
    st.builds(lambda seq, n, bd, aliases, names, ms: payload(
        seq, *[TEMP, RUN, ("Uptime", 8, 1)][:n], bd_seq=bd, aliases=aliases, names=names or not aliases, sent_ms=ms),
        st.none() | st.integers(0, 3), st.integers(0, 3), st.none() | st.just(1), st.booleans(), st.booleans(),
        st.integers(0, 2)))


@given(st.lists(st.tuples(st.sampled_from(Kind), st.sampled_from(["", "D", "E", "X"]), BODIES, st.booleans(),
                          st.sampled_from([0, 0, 0, HOLD_NS])), max_size=30))
def test_received_is_delivered_plus_discarded(
        messages: list[tuple[Kind, str, bytes | None, bool, int]]) -> None:
    bench = Bench(SPARKPLUG)
    received = 0
    for kind, device, body, retained, wait_ns in messages:
        topic = f"spBv1.0/G/{kind}/N" + (f"/{device or 'D'}" if kind.startswith("D") else "")
        received += bench.router.samples_in(topic, body)
        bench.hear(topic, body, retained=retained)
        bench.wait(wait_ns)
    bench.router.disconnected(0, bench.now_ns)
    sink = bench.done()
    assert len(sink.rows) + sum(sink.discards.values()) == received
    online: set[int] = set()
    for what, devices in sink.calls:
        assert online.isdisjoint(devices) if what == "online" else online.issuperset(devices)
        online ^= set(devices)
    assert not online


@given(st.lists(st.tuples(st.sampled_from("ab"), st.one_of(
    st.binary(max_size=9).map(lambda noise: b"\xff" + noise), st.none(),
    st.fixed_dictionaries({}, optional={"x": st.integers() | st.text() | st.none(), "y": st.floats() | st.booleans()}),
)), max_size=20))
def test_documents_received_are_delivered_plus_discarded(
        messages: list[tuple[str, bytes | dict[str, object] | None]]) -> None:
    names = {"a": ("x", "y"), "b": ("x",)}
    bench = Bench([json_point(0, "a#/x"), json_point(1, "a#/y"), json_point(2, "b#/x", "string")])
    received = 0
    for topic, body in messages:
        if isinstance(body, dict):
            bench.hear(topic, document(**body))
            received += sum(name in body for name in names[topic])
        else:
            bench.hear(topic, body)
            received += len(names[topic])
    sink = bench.done()
    assert len(sink.rows) + sum(sink.discards.values()) == received


def test_topics_of_a_template_are_one_subscription_and_strangers_are_told() -> None:
    points = [json_point(0, "plant/l1/press/state#/x"), json_point(1, "plant/l2/saw/state#/x"), json_point(2, "other#")]
    bench = Bench(points, topics=("plant/{line}/{device}/+",))
    assert bench.router.filters == ["plant/+/+/+", "other"]
    assert [bench.router.points_of(name) for name in bench.router.filters] == [2, 1]
    assert [bench.router.devices_of(name) for name in bench.router.filters] == [{0, 1}, {2}]
    bench.hear("plant/l2/saw/state", document(x=1))
    bench.hear("plant/l2/saw/other", document(x=1))  # a device of ours, and nothing we want of it
    for _ in range(2):
        bench.hear("plant/l2/drill/state", document(x=1))
    sink = bench.done()
    assert sink.rows == [(1, 1.0, GOOD)] and sink.discards == {"unknown_point": 3} and sink.answers == {1: 1}
    assert sink.events == [("mqtt.stranger", "plant/l2/drill/state",
                            {"device": "drill", "template": "plant/{line}/{device}/+"})]


def test_strangers_are_named_up_to_a_limit() -> None:
    bench = Bench([json_point(0, "plant/press#/x")], topics=("plant/{device}",))
    for number in range(100):
        bench.hear(f"plant/{number}", b"1")
    sink = bench.done()
    assert sink.discards == {"unknown_point": 100} and len(sink.events) == STRANGERS_MAX


def test_a_message_with_its_time() -> None:
    bench = Bench([json_point(0, "a#/x"), json_point(1, "a#/y")], timestamp="/ts")
    bench.hear("a", document(x=1, y=2, ts=1763700000123))
    bench.hear("a", document(x=1, y=2))
    sink = bench.done()
    assert [batch.source_ns.tolist() for batch in sink.batches] == [[1763700000123000000] * 2]
    assert sink.discards == {"undecodable": 2} and sink.codes() == ["mqtt.no_timestamp"]


def test_what_a_chunk_holds_is_taken_in_order() -> None:
    bench = Bench([json_point(0, "a#/x"), json_point(1, "b#/x")])
    messages = [(b"a", document(x=1), 0), (b"b", document(x=2), RETAINED), (b"a", document(x=3), KEPT),
                (b"\xff", b"", 0), (b"b", None, 0)]
    bench.router.receive_chunk(Chunk(77, Messages.of(messages), 99), bench.now_ns)
    sink = bench.done()
    assert sink.rows == [(0, 1.0, GOOD), (1, 2.0, GOOD | NOT_LIVE), (0, 3.0, GOOD | NOT_LIVE)]
    assert sink.discards == {"unknown_point": 1, "undecodable": 1} and sink.answers == {0: 1, 1: 1}
    assert bench.router.count(b"b", b"") == ("b", 1) and bench.router.count(b"\xff", None) == ("", 1)
