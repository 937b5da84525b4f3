"""Nameplates are read gently: in portions, and the server has as long for others after each."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.opcua.nameplate import PAUSE_MAX_S, gently


class Server:
    """Answers slower and slower; the clock is its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked: list[int] = []
        self.pauses: list[float] = []

    async def ask(self, nodes: Sequence[int]) -> list[str]:
        self.asked.append(len(nodes))
        self.now_s += float(len(self.asked))
        return [f"node {node}" for node in nodes]

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


async def test_portions_with_pauses_as_long_as_the_answers_took() -> None:
    server = Server()
    ask = gently(server.ask, 40, clock=lambda: server.now_s, sleep=server.sleep)
    assert await ask(range(100)) == [f"node {n}" for n in range(100)]
    assert (server.asked, server.pauses) == ([40, 40, 20], [1.0, 2.0, PAUSE_MAX_S])
    assert await ask([]) == [] and len(server.asked) == 3
