"""The container of a bundle: opened, sorted, and every member read."""

from fuzz.harness import only, start, watched

with watched("protocols.evidence"):
    from protocols.errors import VerificationError
    from protocols.evidence import bundle

MEMBERS_READ = 50


def check(data: bytes) -> None:
    """One file."""
    with only(VerificationError):
        opened = bundle.open_bundle(data)
        try:
            names = ["README.txt", "checkpoint", *(tile.path for tile in (*opened.hash_tiles, *opened.entry_tiles))]
            names += [f"entry/{number}" for number in opened.numbered["entry"]]
            for name in names[:MEMBERS_READ]:
                with only(VerificationError):
                    opened.read(name)
        finally:
            opened.close()


if __name__ == "__main__":
    start(check)
