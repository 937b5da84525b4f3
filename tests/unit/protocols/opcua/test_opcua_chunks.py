"""Chunks as we cut, open and seal them, beside asyncua's own way with the same bytes."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from asyncua import ua as _ua
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.connection import MessageChunk, SecureConnection, TransportLimits
from asyncua.common.utils import Buffer
from asyncua.crypto import security_policies as _security_policies
from asyncua.ua.ua_binary import header_from_binary
from hypothesis import given
from hypothesis import strategies as st

from protocols.opcua.chunks import CHUNK_BYTES_MAX, Chunks, opened, sealed
from protocols.opcua.guarded.driver import guard

ua: Any = _ua
security_policies: Any = _security_policies
POLICIES = ("None", "Sign", "SignAndEncrypt")
BODIES = [b"", b"x", bytes(range(256)) * 70, os.urandom(1000)]


def chunk(size: int, kind: bytes = b"F") -> bytes:
    return b"MSG" + kind + size.to_bytes(4, "little") + bytes(size - 8)


@given(cuts=st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_is_cut_into_its_chunks_however_it_arrives(cuts: list[int]) -> None:
    whole = [chunk(30, b"C"), chunk(9), chunk(8), chunk(100)]
    stream, chunks, at = b"".join(whole), Chunks(), 0
    found: list[bytes] = []
    for cut in cuts:
        found += chunks.cut(stream[at:at + cut]) or []
        at += cut
    found += chunks.cut(stream[at:]) or []
    assert found == whole
    assert chunks.cut(b"MSGF" + (7).to_bytes(4, "little")) is None, "a size below the header's own"


def test_a_huge_chunk_is_refused_before_it_arrives() -> None:
    assert Chunks().cut(b"MSGF" + (CHUNK_BYTES_MAX + 1).to_bytes(4, "little")) is None


def test_pieces_of_a_chunk_are_not_kept() -> None:
    chunks, piece = Chunks(), os.urandom(1000)
    before = sys.getrefcount(piece)
    assert chunks.cut(chunk(10_000)[:16]) == []
    for _ in range(5):
        assert chunks.cut(piece) == []
    assert sys.getrefcount(piece) == before


def test_endless_messages_are_refused_but_not_many() -> None:
    piece = CHUNK_BYTES_MAX
    chunks = Chunks()
    assert all(chunks.cut(chunk(piece)) for _ in range(20))
    assert all(chunks.cut(chunk(piece, kind)) for _ in range(2) for kind in (*[b"C"] * 5, b"F"))
    chunks = Chunks()
    allowed = [chunks.cut(chunk(piece, b"C")) is not None for _ in range(9)]
    assert allowed == [True] * 8 + [False]


def connection(mode: str) -> SecureConnection:
    """An end of a channel whose keys are those of the other end."""
    policy: Any = security_policies.SecurityPolicyNone()
    if mode != "None":
        kind = security_policies.SecurityPolicyBasic256Sha256
        policy = kind.__new__(kind)  # without certificates, which a channel that is open needs no more
        policy.symmetric_cryptography = security_policies.Cryptography(ua.MessageSecurityMode[mode])
        policy.secure_channel_nonce_length = 32
        policy.make_local_symmetric_key(bytes(32), bytes(32))
        policy.make_remote_symmetric_key(bytes(32), bytes(32), 3_600_000)
    made = SecureConnection(policy, TransportLimits(65535, 65535, 0, 0))
    made.security_token = ua.ChannelSecurityToken(ChannelId=7, TokenId=13)
    made._sequence_number = made._peer_sequence_number = 41
    return made


def read_by_asyncua(end: SecureConnection, message: bytes) -> Any:
    data = Buffer(message)
    return end.receive_from_header_and_body(header_from_binary(data), data)


@pytest.mark.parametrize("mode", POLICIES)
@pytest.mark.parametrize("body", BODIES, ids=len)
def test_a_message_is_sealed_byte_for_byte_as_asyncua_does(mode: str, body: bytes) -> None:
    ours, theirs = connection(mode), connection(mode)
    for number in (5, 6):
        assert sealed(ours, bytearray(b"head"), body, number) == theirs.message_to_binary(b"head" + body,
                                                                                          request_id=number)
    assert ours._sequence_number == theirs._sequence_number == 43


@pytest.mark.parametrize("mode", POLICIES)
def test_what_exceeds_a_chunk_is_asyncuas_and_goes_on_with_its_numbers(mode: str) -> None:
    ours, theirs, body = connection(mode), connection(mode), os.urandom(100_000)
    assert sealed(ours, b"head", body, 5) == theirs.message_to_binary(b"head" + body, request_id=5)
    assert ours._sequence_number == 43
    ours._sequence_number = theirs._sequence_number = 2**32 - 1
    assert sealed(ours, b"", b"body", 5) == theirs.message_to_binary(b"body", request_id=5)
    assert ours._sequence_number == 1, "the number begins again"


@pytest.mark.parametrize("mode", POLICIES)
@pytest.mark.parametrize("body", BODIES[1:], ids=len)
def test_a_message_is_opened_as_asyncua_does(mode: str, body: bytes) -> None:
    message = connection(mode).message_to_binary(body, request_id=5)
    ours, theirs = connection(mode), connection(mode)
    said = read_by_asyncua(theirs, message)
    assert opened(ours, message, {5}) == (said.request_id(), bytes(said.body())) == (5, body)
    assert ours._peer_sequence_number == theirs._peer_sequence_number == 42
    crypto: Any = ours.security_policy.symmetric_cryptography
    crypto.use_prev_key = True  # as asyncua leaves it behind a message under the token before
    ours._peer_sequence_number = 41
    assert opened(ours, message, {5}) == (5, body)


@pytest.mark.parametrize("mode", POLICIES)
def test_what_is_not_the_common_case_is_left_as_it_was(mode: str) -> None:
    """All of these are asyncua's: it must find its own state untouched."""
    end = connection(mode)
    message = end.message_to_binary(b"body of a response", request_id=5)
    cases = {
        "nobody asked": (message, {6}, {}),
        "another channel": (message, {5}, {"security_token": ua.ChannelSecurityToken(ChannelId=8, TokenId=13)}),
        "another token": (message, {5}, {"security_token": ua.ChannelSecurityToken(ChannelId=7, TokenId=14)}),
        "out of sequence": (message, {5}, {"_peer_sequence_number": 42}),
        "repeated": (message, {5}, {"_peer_sequence_number": 40}),
        "before the first": (message, {5}, {"_peer_sequence_number": None}),
        "within a message": (message, {5}, {"_incoming_parts": [object()]}),
        "too large": (message, {5}, {"_limits": TransportLimits(30, 65535, 0, 0)}),
        "too large a message": (message, {5}, {"_limits": TransportLimits(65535, 65535, 0, 30)}),
        "more follows": (b"MSGC" + message[4:], {5}, {}),
        "given up": (b"MSGA" + message[4:], {5}, {}),
        "another kind": (b"OPNF" + message[4:], {5}, {}),
        "cut in its head": (message[:15], {5}, {}),
        "cut behind it": (message[:18], {5}, {}),
    }
    if mode != "None":
        cases["one bit is another"] = (message[:-1] + bytes([message[-1] ^ 1]), {5}, {})
        cases["nothing but its head"] = (message[:16], {5}, {})
    for why, (data, waiting, changes) in cases.items():
        end = connection(mode)
        for name, value in changes.items():
            setattr(end, name, value)
        before = end._peer_sequence_number
        assert opened(end, data, waiting) is None, why
        assert end._peer_sequence_number == before, why


class Transport:
    """What a protocol asks of its transport when it ends."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def guarded(*waiting: int) -> tuple[UASocketProtocol, Transport, dict[int, Any]]:
    """A connection of a client, with requests that wait."""
    protocol, transport = UASocketProtocol(), Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]  # as much of one as is needed
    protocol._connection = connection("None")
    guard(protocol)
    futures: Any = {number: Future() for number in waiting}
    protocol._callbackmap.update(futures)
    return protocol, transport, futures


async def test_answers_reach_who_asked_by_either_way_and_a_wrong_one_ends_the_connection() -> None:
    """One in a chunk, one in three, both in pieces; then a sequence number that leaves one out."""
    protocol, transport, futures = guarded(1, 2, 3, 4)
    server, long = connection("None"), os.urandom(150_000)
    stream = b"".join(server.message_to_binary(body, request_id=number)
                      for number, body in ((1, b"short"), (2, long), (3, b"last")))
    for at in range(0, len(stream), 1000):
        protocol.data_received(stream[at:at + 1000])
    assert [bytes(futures[number].found) for number in (1, 2, 3)] == [b"short", long, b"last"]
    server._sequence_number += 1
    after = server.message_to_binary(b"never", request_id=4)
    protocol.data_received(after + after)
    assert transport.is_closed
    assert futures[4].found is None


async def test_behind_a_crippled_chunk_nothing_is_opened() -> None:
    protocol, transport, futures = guarded(1)
    protocol.data_received(chunk(8) + connection("None").message_to_binary(b"body", request_id=1))
    assert transport.is_closed
    assert futures[1].found is None


class Future:
    """Stands where asyncua keeps who waits."""

    found: Any = None

    def done(self) -> bool:
        return self.found is not None

    def set_result(self, found: Any) -> None:
        self.found = found

    def set_exception(self, error: BaseException) -> None:
        assert isinstance(error, Exception)


def test_asyncua_keeps_what_we_open_and_seal_with_where_it_was() -> None:
    """A version of asyncua with other insides must be read again first: see docs/decisions/opcua-own-publishing.md."""
    def names(function: Any) -> set[str]:
        return {*function.__code__.co_names}

    assert {"security_policy", "_limits", "max_send_buffer", "security_token", "ChannelId", "TokenId",
            "_sequence_number"} <= names(SecureConnection.message_to_binary)
    assert {"_incoming_parts", "_peer_sequence_number", "security_token"} <= names(
        SecureConnection._check_incoming_chunk)
    assert {"_limits", "max_recv_buffer", "is_msg_size_within_limit"} <= names(SecureConnection._receive)
    assert {"symmetric_cryptography", "use_prev_key", "decrypt", "vsignature_size", "verify",
            "remove_padding"} <= names(MessageChunk.from_header_and_body)
    assert {"padding", "signature", "encrypt"} <= names(MessageChunk.to_binary)
    assert {"_callbackmap", "set_result"} <= names(UASocketProtocol._call_callback)
