"""Policies of a checker, and the tlog-policy of witnesses inside."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import policy


def check(data: bytes) -> None:
    """JSON, or the lines of a tlog-policy by themselves."""
    with only(VerificationError):
        if data.startswith(b"{"):
            quorum = policy.parse(data, where="policy").quorum
        else:
            quorum = policy.parse_quorum(data.decode("utf-8", "replace"), where="policy")
        everybody = {witness.public for witness in quorum.witnesses.values()}
        assert quorum.holds(everybody), "all witnesses together are not enough"
        assert quorum.needed is None or not quorum.holds(()), "nobody is enough"


if __name__ == "__main__":
    start(check)
