"""A platform in memory, with a register and an independent witness, behind a network that fails as the seed has it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from protocols import exchange
from protocols.errors import DeviceError, Problem
from protocols.evidence import jcs, keys, note, proof, register, signed
from protocols.evidence.checkpoint import Checkpoint, parse_text
from protocols.evidence.merkle import Tree, leaf_hash
from protocols.evidence.shape import require
from tests.sim.world import Time, certificate, private_key

PLATFORM_KEY, REGISTER_KEY, WITNESS_KEY = private_key(77), private_key(78), private_key(79)
REGISTER = note.VerifierKey("register.test", note.ED25519, keys.public_bytes(REGISTER_KEY))
WITNESS = note.VerifierKey("witness.test", note.COSIGNATURE_V1, keys.public_bytes(WITNESS_KEY))
WITNESSES = f"log {REGISTER}\nwitness bureau {WITNESS}\nquorum bureau\n"
POLICY = jcs.encode({"register": str(REGISTER), "platform": keys.public_bytes(PLATFORM_KEY).hex(),
                     "witnesses": WITNESSES, "independent": ["bureau"]})


def enrolment(key: Any) -> dict[str, Any]:
    """The ENROL_ANSWER of a gateway with this key."""
    return {"certificate": certificate(key, PLATFORM_KEY), "register": str(REGISTER),
            "platform": keys.public_bytes(PLATFORM_KEY).hex(), "witnesses": WITNESSES, "independent": ["bureau"]}


class Platform:
    """Implements gateway.sealing.link.Link. `fault` is the share of requests that go wrong, in one of five ways."""

    def __init__(self, time: Time, rng: random.Random, key: Any) -> None:
        self.time, self.rng, self.fault = time, rng, 0.0
        self.certificate = certificate(key, PLATFORM_KEY)
        self.public = keys.public_bytes(key)
        self.gateway = keys.gateway_id(self.public)
        self.entries: list[bytes] = []
        self.rosters: dict[int, bytes] = {}
        self.checkpoint = ""
        self.tree = Tree()
        self.requests = 0
        self._register = Tree()
        self._values: list[bytes] = []
        self._heads: dict[int, int] = {}  # size -> register index
        self._chain = [0]  # what is no head
        self._note = b""
        self._chain = [0]  # indexes of what is no head
        self._append({"type": "enrol", "last": -1, "certificate": self.certificate})

    # The register

    def round(self) -> None:
        """Put the newest head into the register and have it co-signed."""
        if self.entries and self.tree.size not in self._heads:
            self._heads[self.tree.size] = len(self._values)
            self._append({"type": "head", "last": self._chain[-1], "gateway": self.gateway, "size": self.tree.size,
                          "root": self.tree.root().hex()})

    def revoke(self, from_size: int) -> None:
        """Put a revocation of the gateway's key into the register."""
        revocation = signed.sign("revocation", {"gateway": self.gateway, "gateway_key": self.public.hex(),
                                                "from_size": from_size}, PLATFORM_KEY)
        self._append({"type": "revoke", "last": self._chain[-1], "revocation": revocation})
        self._chain.append(len(self._values) - 1)

    def say(self, value: Mapping[str, Any]) -> int:
        """Put what somebody says about the enterprise into the register, and a new head behind it."""
        index = len(self._values)
        self._append({"last": self._chain[-1], **value})
        self._chain.append(index)
        self._heads.pop(self.tree.size, None)
        self.round()
        return index

    def _append(self, value: Mapping[str, Any]) -> None:
        self._values.append(register.encode(value))
        self._register.append(leaf_hash(self._values[-1]))
        text = Checkpoint(REGISTER.name, self._register.size, self._register.root()).text
        self._note = note.format_note(text, [
            note.sign(text, REGISTER_KEY, name=REGISTER.name),
            note.cosign(text, WITNESS_KEY, name=WITNESS.name, time_s=self.time.wall_ns // 10**9)])

    def proof(self, index: int) -> str:
        hashes = self._register.inclusion(index, self._register.size)
        return proof.LogProof(index, tuple(hashes), self._note, self._values[index]).encode().decode()

    # The network

    async def size(self, gateway: str) -> dict[str, Any]:
        return await self._send(self._size)

    async def submit(self, gateway: str, body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        sent = jcs.parse(jcs.encode(dict(body)), where="body", bytes_max=exchange.BODY_BYTES_MAX)
        return await self._send(lambda: self._submit(sent))

    async def tail(self, gateway: str, first: int) -> dict[str, Any]:
        return await self._send(lambda: {
            "first": first, "entries": [e.decode() for e in self.entries[first : first + 7]],
            "checkpoint": self.checkpoint,
            "rosters": [{"seq": s, "rows": r.decode()} for s, r in self.rosters.items() if first <= s < first + 7]})

    async def register(self, gateway: str) -> dict[str, Any]:
        newest = max(self._heads.values(), default=None)
        indexes = [*self._chain] if newest is None else sorted({*self._chain, newest})
        return await self._send(lambda: {"proofs": [self.proof(i) for i in indexes],
                                         "register_checkpoint": self._note.decode()})

    async def close(self) -> None:
        pass

    async def _send(self, work: Any) -> Any:
        """Lose the request, lose the answer, deliver the request twice, refuse it, or answer too late."""
        self.requests += 1
        if self.rng.random() >= self.fault:
            return work()
        match self.rng.randrange(5):
            case 0:
                pass
            case 1 | 4:
                work()
            case 2:
                work()
                return work()
            case 3:
                raise DeviceError(Problem.of("sim", "sealing.platform_status", status=500))
        raise DeviceError(Problem.of("sim", "sealing.platform_unreachable", reason="cut"))

    # The intake

    def _size(self) -> dict[str, Any]:
        return {"size": self.tree.size, "root": self.tree.root().hex(), "checkpoint": self.checkpoint or None}

    def _submit(self, body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        require(exchange.SUBMIT_REQUEST, body, where="body")
        first, new = body["first"], [text.encode() for text in body["entries"]]
        held = self.entries[first : first + len(new)]
        if first <= self.tree.size and held == new:
            return True, self._stored()
        head = parse_text(note.parse(body["checkpoint"].encode(), where="body").text, where="body")
        tree = Tree(leaf_hash(e) for e in self.entries[:first] + new)
        if first != self.tree.size or (head.size, head.root) != (tree.size, tree.root()):
            return False, self._size()
        note.require_signed(note.parse(body["checkpoint"].encode(), where="body"),
                            note.VerifierKey(keys.gateway_origin(self.gateway), note.ED25519, self.public), where="b")
        self.entries += new
        self.tree = tree
        self.checkpoint = body["checkpoint"]
        self.rosters |= {item["seq"]: item["rows"].encode() for item in body["rosters"]}
        return True, self._stored()

    def _stored(self) -> dict[str, Any]:
        newest = max(self._heads.values(), default=None)
        return {"size": self.tree.size, "proof": None if newest is None else self.proof(newest),
                "register_checkpoint": self._note.decode()}
