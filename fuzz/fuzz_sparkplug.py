"""What an edge node publishes: messages in a row, each with a byte for its kind and two for its length.

Whatever comes: every sample is delivered or discarded with a reason, and nobody is online who was not born.
"""

from collections import Counter
from collections.abc import Sequence

from fuzz.harness import start, watched

with watched("protocols.mqtt"):
    from protocols.mqtt.frames import RETAINED, Messages
    from protocols.mqtt.inbox import Chunk
    from protocols.mqtt.router import Router
    from protocols.mqtt.target import MqttEndpoint, SparkplugPoint, parse_sparkplug_address

POINTS = [SparkplugPoint(point_index=i, device_index=min(i, 1), address=parse_sparkplug_address(f"G/N/{name}"), type="")
          for i, name in enumerate(("#N", "D#A", "D#B", "D#door/open"))]
ENDPOINT = MqttEndpoint(name="hall", protocol="sparkplug_b", endpoint="mqtt://127.0.0.1:1883", timeout_s=5.0)
KINDS = ("NBIRTH/N", "NDATA/N", "NDEATH/N", "DBIRTH/N/D", "DDATA/N/D", "DDEATH/N/D")
MESSAGES_MAX = 12
TICK_NS = 300_000_000


class _Sink:
    def __init__(self) -> None:
        self.delivered = 0
        self.discards: Counter[str] = Counter()
        self.alive: set[int] = set()

    def samples(self, batch: object) -> None:
        self.delivered += len(batch.point_index)  # type: ignore[attr-defined]  # a SampleBatch

    def answered(self, device_index: Sequence[int], received_ns: int) -> None:
        raise AssertionError("no Sparkplug device answers")

    def online(self, device_index: Sequence[int], received_ns: int) -> None:
        self.alive |= set(device_index)

    def offline(self, device_index: Sequence[int], received_ns: int) -> None:
        assert self.alive >= set(device_index)
        self.alive -= set(device_index)

    def discarded(self, reason: str, count: int) -> None:
        assert count > 0
        self.discards[reason] += count

    def event(self, code: str, where: str, **args: object) -> None:
        pass


def check(data: bytes) -> None:
    """One life of a node."""
    sink = _Sink()
    router = Router(ENDPOINT, POINTS, sink)  # type: ignore[arg-type]  # a Sink in all that is called
    now_ns, samples = 0, 0
    router.connected(now_ns)
    for _ in range(MESSAGES_MAX):
        if not data:
            break
        end = 3 + int.from_bytes(data[1:3], "big")
        kind, body, data = data[0], data[3:end], data[end:]
        topic = f"spBv1.0/G/{KINDS[kind % len(KINDS)]}"
        samples += router.samples_in(topic, body)
        now_ns += TICK_NS
        message = (topic.encode(), body, RETAINED if kind & 0x80 else 0)
        router.receive_chunk(Chunk(now_ns, Messages.of([message]), len(body)), now_ns)
        router.tick(now_ns, now_ns)
        router.take_asks()
    router.disconnected(now_ns, now_ns)
    router.flush()
    assert sink.delivered + sum(sink.discards.values()) == samples, "a sample is lost, or stands twice"
    assert not sink.alive


if __name__ == "__main__":
    start(check)
