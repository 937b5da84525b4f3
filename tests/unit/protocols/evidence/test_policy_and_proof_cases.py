"""Cases of the two C2SP formats that are untagged: tlog-policy as its text says, tlog-proof as its tests do.

Sources: C2SP tlog-policy.md (characters, comments, names, groups); transparency-dev/formats proof/tlog_proof_test.go,
whose error cases are told again here. Their form without `extra` is refused: our proofs carry the entry there.
"""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import VerificationError
from protocols.evidence import keys, note, policy, proof
from protocols.evidence.encoding import to_base64
from protocols.evidence.note import COSIGNATURE_V1, ED25519, VerifierKey
from protocols.evidence.policy import GROUPS_MAX, parse_quorum

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 8)]
RAW = [keys.public_bytes(key) for key in KEYS]


def vkey(name: str, n: int, kind: int = COSIGNATURE_V1) -> str:
    return str(VerifierKey(name, kind, RAW[n]))


LOG = f"log {vkey('example.org/r', 0, ED25519)}"
X = [f"witness X{n} {vkey(f'x{n}.example', n)}" for n in (1, 2, 3)]
Y = [f"witness Y{n} {vkey(f'y{n}.example', n + 3)}" for n in (1, 2, 3)]


def parsed(*lines: str) -> policy.Quorum:
    return parse_quorum("\n".join(lines) + "\n", where="p")


def code_of(*lines: str) -> str:
    with pytest.raises(VerificationError) as caught:
        parsed(*lines)
    return caught.value.problems[0].code


def test_the_example_of_the_specification() -> None:
    quorum = parsed(LOG, "", *X, "group X-witnesses 2 X1 X2 X3", "", *Y, "group Y-witnesses any Y1 Y2 Y3", "",
                    "group X-and-Y all X-witnesses Y-witnesses", "quorum X-and-Y")
    for signers, held in (((1, 2, 4), True), ((1, 3, 6), True), ((1, 2, 3, 4, 5, 6), True), ((1, 4), False),
                          ((1, 2, 3), False), ((4, 5, 6), False), ((), False), ((0, 1, 4), False)):
        assert quorum.holds({RAW[n] for n in signers}) is held, signers


def test_space_and_tab_separate_and_only_whole_lines_are_comments() -> None:
    quorum = parsed("# a comment", "  \t# another", "\t", f"\t{LOG}  https://log.example/#part ", *X,
                    "group  g\tany X1   X2", " quorum\tg")
    assert quorum.holds({RAW[2]})
    assert code_of(LOG, *X, "quorum X1 # why") == "policy.line"
    assert parsed(LOG, f"witness #1 {vkey('x.example', 1)}", "quorum #1").needed == "#1"


@pytest.mark.parametrize("character", ["\r", "\x0b", "\x0c", "\x1c", "\x00", "\x7f"])
def test_other_control_characters_are_refused(character: str) -> None:
    assert code_of(LOG, *X, f"quorum{character}X1") == "policy.characters"
    assert code_of(LOG + character, *X, "quorum X1") == "policy.characters"


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000", "\u0085", "\u2028"])
def test_no_other_white_space_separates(space: str) -> None:
    """One program must not read two words where another reads one."""
    assert code_of(LOG, *X, f"quorum{space}X1") == "policy.line"
    assert parsed(LOG, f"witness a{space}b {vkey('x.example', 1)}", f"quorum a{space}b").holds({RAW[1]})


def test_names_are_compared_as_bytes() -> None:
    kelvin = f"witness \u212a {vkey('k.example', 1)}"
    assert code_of(LOG, kelvin, "quorum K") == "policy.unknown_name"
    assert parsed(LOG, kelvin, f"witness K {vkey('k2.example', 2)}", "quorum K").holds({RAW[2]})


@pytest.mark.parametrize("lines,code", [
    ([*X, "quorum g", "group g any X1"], "policy.unknown_name"),  # defined after its use
    (["group g any X1", *X, "quorum g"], "policy.unknown_name"),
    (["quorum X1", *X], "policy.unknown_name"),
    ([*X, "group g any g", "quorum g"], "policy.unknown_name"),  # no circles
    ([*X, "group g any none", "quorum g"], "policy.unknown_name"),
    ([*X, "group none any X1", "quorum X1"], "policy.name_used_twice"),
    ([f"witness none {vkey('n.example', 1)}", "quorum none"], "policy.name_used_twice"),
    ([*X, "group X1 any X2", "quorum X1"], "policy.name_used_twice"),
    ([*X, "group g any X1", "group g any X2", "quorum g"], "policy.name_used_twice"),
    ([*X, "group g any X1 X1", "quorum g"], "policy.name_used_twice"),
    ([*X, "group g any X1", "group h any g", "group i any g", "quorum i"], "policy.name_used_twice"),
    ([*X, "group g any", "quorum X1"], "policy.line"), ([*X, "group g", "quorum X1"], "policy.line"),
    ([*X, "group g 3 X1 X2", "quorum g"], "policy.line"), ([*X, "group g 0 X1", "quorum g"], "policy.line"),
    ([*X, "group g -1 X1", "quorum g"], "policy.line"), ([*X, "group g 01 X1", "quorum g"], "policy.line"),
    ([*X, "group g 1.0 X1", "quorum g"], "policy.line"), ([*X, "group g \u0661 X1", "quorum g"], "policy.line"),
    ([*X, "group g most X1", "quorum g"], "policy.line"), ([*X, "Quorum X1"], "policy.line"),
    ([*X], "policy.quorum_lines"), ([*X, "quorum none", "quorum none"], "policy.quorum_lines"),
    ([f"witness X1 {vkey('a', 1)} https://a https://b", "quorum X1"], "policy.line"),
    ([f"witness X1 {vkey('a', 1, ED25519)}", "quorum X1"], "policy.line"),
    ([f"witness X1 {vkey('a', 1)}", f"witness X2 {vkey('b', 1)}", "quorum X1"], "policy.duplicate_key"),
    ([f"witness X1 {vkey('a', 0)}", "quorum X1"], "policy.duplicate_key"),
    ([LOG, *X, "quorum X1"], "policy.line"),
    (["witness X1 example.org+00000000+BAAA", "quorum X1"], "vkey.malformed"),
])
def test_refused(lines: list[str], code: str) -> None:
    assert code_of(LOG, *lines) == code


def test_one_key_under_two_names_never_makes_two_of_a_quorum() -> None:
    """Refused in the policy; and where a note has the line of one witness twice, its key still counts once."""
    quorum = parsed(LOG, *X, "group two 2 X1 X2", "quorum two")
    text = "example.org/r\n1\n" + to_base64(bytes(32)) + "\n"
    twice = note.parse(note.format_note(text, [note.cosign(text, KEYS[1], name="x1.example", time_s=t)
                                               for t in (1, 2)]), where="n")
    lines = note.cosignatures(twice, quorum.witnesses.values(), where="n")
    assert len(lines) == 2 and not quorum.holds({line.public for line in lines})
    # The key of X1 under the name of X2: another key id, so it is nobody's line.
    borrowed = note.parse(note.format_note(text, [note.cosign(text, KEYS[1], name=f"x{n}.example", time_s=1)
                                                  for n in (1, 2)]), where="n")
    lines = note.cosignatures(borrowed, quorum.witnesses.values(), where="n")
    assert [line.name for line in lines] == ["x1.example"]


def test_key_ids_are_no_security() -> None:
    """A line with the key id of X2 but another key behind it rejects the note: only the signature decides."""
    quorum = parsed(LOG, *X, "quorum X2")
    text = "example.org/r\n1\n" + to_base64(bytes(32)) + "\n"
    made = note.cosign(text, KEYS[1], name="x2.example", time_s=1)
    claimed = note.Signature("x2.example", quorum.witnesses["X2"].key_id, made.blob)
    with pytest.raises(VerificationError, match="bad_signature"):
        note.cosignatures(note.parse(note.format_note(text, [claimed]), where="n"), quorum.witnesses.values(),
                          where="n")


def test_groups_nest_within_a_limit() -> None:
    def nested(depth: int) -> list[str]:
        chain = (f"group g{n} any g{n - 1}" for n in range(1, depth))
        return [LOG, *X, "group g0 any X1", *chain, f"quorum g{depth - 1}"]
    assert parsed(*nested(GROUPS_MAX)).holds({RAW[1]})
    assert code_of(*nested(GROUPS_MAX + 1)) == "policy.line"


def test_the_specification_asks_for_32_witnesses_and_groups() -> None:
    made = [Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % n).digest()) for n in range(32)]
    lines = [f"witness w{n} {VerifierKey(f'w{n}', COSIGNATURE_V1, keys.public_bytes(key))}"
             for n, key in enumerate(made)]
    groups = [f"group g{n} any w{n}" for n in range(31)] + ["group all 17 " + " ".join(f"g{n}" for n in range(31))]
    quorum = parsed(LOG, *lines, *groups, "quorum all")
    assert quorum.holds({keys.public_bytes(key) for key in made[:17]})
    assert not quorum.holds({keys.public_bytes(key) for key in made[:16]})


# tlog-proof

HASH = to_base64(hashlib.sha256(b"hash1").digest())
EXTRA = to_base64(b"extra information")
TAIL = "\n\ncheckpoint\n"


def test_what_the_reference_writes_reads_back() -> None:
    data = f"c2sp.org/tlog-proof@v1\nextra {EXTRA}\nindex 10\n{HASH}\n\ncheckpoint data\n".encode()
    found = proof.parse(data, where="p")
    assert (found.index, found.extra, found.checkpoint) == (10, b"extra information", b"checkpoint data\n")
    assert found.hashes == (hashlib.sha256(b"hash1").digest(),) and found.encode() == data
    empty = f"c2sp.org/tlog-proof@v1\nextra {EXTRA}\nindex 0\n\ncheckpoint\n".encode()
    assert proof.parse(empty, where="p").hashes == () and proof.parse(empty, where="p").encode() == empty


START = f"c2sp.org/tlog-proof@v1\nextra {EXTRA}\n"


@pytest.mark.parametrize("text", [
    f"wrong-header\nextra {EXTRA}\nindex 0{TAIL}",
    f"c2sp.org/tlog-proof@v2\nextra {EXTRA}\nindex 0{TAIL}",
    f" {START}index 0{TAIL}", f"\n{START}index 0{TAIL}", f"{START}index 0{TAIL}".replace("\n", "\r\n"),
    f"c2sp.org/tlog-proof@v1\nextra !!notbase64!!\nindex 0{TAIL}",
    f"c2sp.org/tlog-proof@v1\nextra {EXTRA[:-1]}\nindex 0{TAIL}",
    f"c2sp.org/tlog-proof@v1\nextra  {EXTRA}\nindex 0{TAIL}",
    f"c2sp.org/tlog-proof@v1\nindex 0\nextra {EXTRA}{TAIL}",
    f"{START}extra {EXTRA}\nindex 0{TAIL}",
    f"c2sp.org/tlog-proof@v1\nindex 0{TAIL}",
    f"c2sp.org/tlog-proof@v1{TAIL}", f"{START}{TAIL}", f"{START}index{TAIL}", f"{START}index {TAIL}",
    f"{START}index notanumber{TAIL}", f"{START}index -5{TAIL}", f"{START}index +5{TAIL}", f"{START}index 05{TAIL}",
    f"{START}index 5 {TAIL}", f"{START}index 5.0{TAIL}", f"{START}index 0x5{TAIL}", f"{START}index {2**53}{TAIL}",
    f"{START}index {2**64}{TAIL}", f"{START}index {'9' * 400}{TAIL}", f"{START}index \u0665{TAIL}",
    f"{START}index 0\nindex 0{TAIL}",
    f"{START}index 0\n!!notbase64!!{TAIL}", f"{START}index 0\n{HASH} {TAIL}", f"{START}index 0\n{HASH[:-1]}{TAIL}",
    f"{START}index 0\n{to_base64(bytes(64))}{TAIL}", f"{START}index 0\n{to_base64(bytes(31))}{TAIL}",
    f"{START}index 0\n{HASH[:-2]}{chr(ord(HASH[-2]) + 1)}={TAIL}",
    START + "index 0\n" + f"{HASH}\n" * 63 + HASH + TAIL,
    f"{START}index 0\n{'a' * 65 * 1024}\n", f"{START}index 0\n{HASH}\ncheckpoint\n", f"{START}index 0\n",
    "", "\n\n", "c2sp.org/tlog-proof@v1",
])
def test_refused_as_the_reference_refuses(text: str) -> None:
    with pytest.raises(VerificationError) as caught:
        proof.parse(text.encode(), where="p")
    assert {problem.code for problem in caught.value.problems} <= {"proof.malformed", "base64.malformed"}


def test_63_hashes_are_read() -> None:
    data = (START + "index 0\n" + f"{HASH}\n" * 63 + "\ncheckpoint\n").encode()
    assert len(proof.parse(data, where="p").hashes) == 63


def test_a_policy_file_is_json_without_surprises() -> None:
    for data in (b'{"platform":"%s","platform":"%s"}' % (b"00" * 32, b"11" * 32), b'{"platform":1.0}', b"[]", b"null",
                 b'{"quorum":"none"}', b'{"platform":"AB"}', b'{"witnesses":1}'):
        with pytest.raises(VerificationError):
            policy.parse(data, where="p")
    assert policy.parse(json.dumps({}).encode(), where="p").quorum.holds(set())
