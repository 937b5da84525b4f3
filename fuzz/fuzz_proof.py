"""tlog-proof files, with the register entry and the checkpoint inside."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import checkpoint, merkle, note, proof, register


def check(data: bytes) -> None:
    """One proof."""
    with only(VerificationError):
        one = proof.parse(data, where="proof")
        assert one.encode() == data
        signed = note.parse(one.checkpoint, where="proof")
        head = checkpoint.parse_text(signed.text, where="proof")
        register.decode(one.extra, where="proof")
        merkle.verify_inclusion(leaf=merkle.leaf_hash(one.extra), index=one.index, size=head.size, proof=one.hashes,
                                root=head.root, where="proof")


if __name__ == "__main__":
    start(check)
