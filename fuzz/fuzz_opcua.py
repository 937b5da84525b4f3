"""What an OPC UA server answers, and its certificate. The first byte chooses.

The fast decoder must say what the plain one says of the same bytes.
"""

import numpy as np

from fuzz.harness import only, start, watched

with watched("protocols.opcua"):
    from protocols.opcua import bulk, codec, columns, pki

SLOTS = np.arange(8, dtype=np.int64)


def check(data: bytes) -> None:
    """One body, or one certificate."""
    kind, body = data[:1], data[1:]
    if kind == b"c":
        with only(ValueError):
            pki.server_spki_sha256(pki.leaf_of(body))
        return
    with only(codec.UndecodableError):
        if kind == b"r":
            items = codec.decode_read(body)
            found = bulk.Decoder().read(body)
        elif kind == b"p":
            items = codec.decode_publish(body).items
            found = bulk.Decoder().publish(body)[1]
        else:
            items = codec.decode_republish(body, 1).items
            found = columns.of(items)
        assert columns.same(found, columns.of(items)), "two answers to the same bytes"
        columns.batch_of(found, SLOTS, 7)


if __name__ == "__main__":
    start(check)
