"""Chunks of an open secure channel: cut from the stream, opened and sealed in one step each. No device library.

    "MSG"   kind  size    channel  token   | sequence  request  body ...   padding  signature
    3 B     1 B   UInt32  UInt32   UInt32  | UInt32    UInt32
            C more follow, F the last, A given up    from here on encrypted, where the channel is

Source: OPC 10000-6 (1.05) 6.7.2. asyncua makes and reads the same by way of six objects a chunk, which takes longer
than to decode a thousand values. What is opened here is the common case alone: a message in one chunk, under the token
in force, the next in sequence. Of all else None is said, and nothing is changed: asyncua judges it, and says what is
wrong.

A connection is asyncua's SecureConnection: keys, tokens and sequence numbers are its own, on both ways.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from typing import Any

CHUNK_BYTES_MAX = 4 * 2**20
MESSAGE_BYTES_MAX = 32 * 2**20
"""A message of a subscription with 100 000 changes has some 3 MiB; what is larger is no telemetry."""

_SIZE = struct.Struct("<I")
_HEAD = struct.Struct("<4sIII")
_SEQUENCE = struct.Struct("<II")
_CHUNK_HEADER_BYTES = 8
_SEQUENCE_WRAPS = 2**32


class Chunks:
    """Cuts the raw stream of one connection; refuses a chunk or message that would fill the memory.

    What is not whole yet is copied: asyncio's bytes of a read may have a page of memory each, however few they are.
    """

    __slots__ = ("_held", "_in_message", "_wanted")

    def __init__(self) -> None:
        self._held = bytearray()
        self._wanted = self._in_message = 0

    def cut(self, data: bytes) -> list[bytes] | None:
        """Take the next bytes; return the chunks that are whole now, None once a header announces more than the limits.

        What came before that header is lost with it: the connection is to be closed.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return []
            data = bytes(self._held)
            self._held = bytearray()
        found: list[bytes] = []
        at, end, size = 0, len(data), _CHUNK_HEADER_BYTES
        while at + _CHUNK_HEADER_BYTES <= end:
            size, = _SIZE.unpack_from(data, at + 4)
            if not _CHUNK_HEADER_BYTES <= size <= CHUNK_BYTES_MAX or self._in_message + size > MESSAGE_BYTES_MAX:
                return None
            if at + size > end:
                break
            self._in_message = self._in_message + size if data[at + 3] == 0x43 else 0  # C: the message goes on
            found.append(data[at:at + size])
            at += size
            size = _CHUNK_HEADER_BYTES
        if at < end:
            self._held, self._wanted = bytearray(data[at:]), size
        return found


def opened(connection: Any, chunk: bytes, waiting: Container[int]) -> tuple[int, bytes] | None:
    """Return the request's number and the body of its answer, where it is whole in this chunk; None else.

    waiting: the numbers of the requests that have no answer yet.
    """
    if len(chunk) < _HEAD.size:
        return None
    kind, _, channel, token_id = _HEAD.unpack_from(chunk)
    token, limits = connection.security_token, connection._limits
    if (kind != b"MSGF" or channel != token.ChannelId or token_id != token.TokenId or connection._incoming_parts
            or len(chunk) > limits.max_recv_buffer or 0 < limits.max_message_size < len(chunk)):
        return None
    crypto = connection.security_policy.symmetric_cryptography
    crypto.use_prev_key = False
    try:
        plain = crypto.decrypt(chunk[_HEAD.size:])
        signature_bytes = crypto.vsignature_size()
        if signature_bytes:
            plain, signature = plain[:-signature_bytes], plain[-signature_bytes:]
            crypto.verify(chunk[:_HEAD.size] + plain, signature)
        plain = crypto.remove_padding(plain)
        number, request_id = _SEQUENCE.unpack_from(plain)
    except Exception:  # whatever a library says of hostile bytes: asyncua meets it again, and ends the connection
        return None
    before = connection._peer_sequence_number
    if before is None or number != before + 1 or request_id not in waiting:
        return None
    connection._peer_sequence_number = number
    return request_id, plain[_SEQUENCE.size:]


def sealed(connection: Any, header: bytes | bytearray, parameters: bytes, request_id: int) -> bytes:
    """Return the message of a request: the bytes that asyncua makes of it, and made by asyncua beyond one chunk."""
    crypto, token = connection.security_policy.symmetric_cryptography, connection.security_token
    plain_bytes = _SEQUENCE.size + len(header) + len(parameters)
    padding, signature_bytes = crypto.padding(plain_bytes), crypto.signature_size()
    blocks = (plain_bytes + len(padding) + signature_bytes) // crypto.plain_block_size()
    size = _HEAD.size + blocks * crypto.encrypted_block_size()
    if size > connection._limits.max_send_buffer:
        message: bytes = connection.message_to_binary(bytes(header) + parameters, request_id=request_id)
        return message
    number = connection._sequence_number + 1
    connection._sequence_number = number = number if number < _SEQUENCE_WRAPS else 1
    head = _HEAD.pack(b"MSGF", size, token.ChannelId, token.TokenId)
    sequence = _SEQUENCE.pack(number, request_id)
    if not signature_bytes:
        return b"".join((head, sequence, header, parameters))
    plain = b"".join((sequence, header, parameters, padding))
    return b"".join((head, crypto.encrypt(b"".join((plain, crypto.signature(head + plain))))))
