"""JSON documents of plain MQTT, under pointers of every type."""

from fuzz.harness import only, start, watched

with watched("protocols.mqtt"):
    from protocols.errors import DeviceError
    from protocols.mqtt.columns import Columns
    from protocols.mqtt.documents import Topic
    from protocols.mqtt.target import JSON_TYPES, MqttPoint, parse_json_address

POINTERS = ("", "/a", "/a/b", "/a/0", "/a/b/1/c", "/~0/~1")
POINTS = [MqttPoint(point_index=i, device_index=i % 3, address=parse_json_address(f"t#{pointer}"), type=kind)
          for i, (pointer, kind) in enumerate((p, k) for p in POINTERS for k in sorted(JSON_TYPES))]
TOPIC = Topic("t", POINTS)
NUMBERS = [MqttPoint(point_index=0, device_index=0, address=parse_json_address("t#/a"), type="float64"),
           MqttPoint(point_index=1, device_index=0, address=parse_json_address("t#/b"), type="int16")]


def check(data: bytes) -> None:
    """One document."""
    columns = Columns()
    with only(DeviceError):
        tally = TOPIC.add(data, 7, is_retained=False, columns=columns)
        assert tally.delivered + tally.undecodable <= len(POINTS) and tally.delivered == len(columns)
    columns.take()
    both_ways(data)


def both_ways(data: bytes) -> None:
    """A document that is read by a shape is what it is when read the slow way. Each shape is learnt from itself."""
    found = []
    for is_fast in (True, False):
        topic = Topic("t", NUMBERS)
        topic.is_fast = is_fast  # type: ignore[misc]  # of this one only
        for document in (data.replace(b"7", b"8"), data.replace(b"7", b"8"), data):
            columns = Columns()
            outcome: object = None
            with only(DeviceError):
                outcome = topic.add(document, 7, is_retained=False, columns=columns)
            batch = columns.take()
        found.append((outcome, None if batch is None else (batch.value.tolist(), batch.quality.tolist())))
    ours, theirs = (repr(one).replace("-0.0", "0.0") for one in found)
    assert ours == theirs


if __name__ == "__main__":
    start(check)
