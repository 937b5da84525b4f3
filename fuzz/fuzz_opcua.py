"""What an OPC UA server answers, and its certificate. The first byte chooses."""

import numpy as np

from fuzz.harness import only, start, watched

with watched("protocols.opcua"):
    from protocols.opcua import codec, pki

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
        elif kind == b"p":
            items = codec.decode_publish(body).items
        else:
            items = codec.decode_republish(body, 1).items
        codec.batch_of(items, SLOTS, 7)


if __name__ == "__main__":
    start(check)
