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


def check(data: bytes) -> None:
    """One document."""
    columns = Columns()
    with only(DeviceError):
        tally = TOPIC.add(data, 7, is_retained=False, columns=columns)
        assert tally.delivered + tally.undecodable <= len(POINTS) and tally.delivered == len(columns)
    columns.take()


if __name__ == "__main__":
    start(check)
