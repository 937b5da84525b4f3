"""What stands beside the bundle is sorted by what it is; every file that cannot be used is named at once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from protocols.errors import ConfigError
from protocols.evidence.bundle import write_bundle
from protocols.evidence.sample import FINDINGS_TYPE
from tallystick.__main__ import main
from verifier.conformance.world import private_part, small
from verifier.proof import also


def test_sorted_by_what_they_are(tmp_path: Path) -> None:
    world, gateway = small()
    files = {
        "eq.json": json.dumps({"type": also.EQUIVOCATION, "a": "x", "b": "y"}).encode(),
        "open.json": json.dumps({"type": also.OPENING}).encode(),
        "0.json": gateway.opening(0, private_part("device 0", maker="Maker", model="M-1", serial="S-0")),
        "reads.json": json.dumps({"type": also.TRANSCRIPT}).encode(),
        "visit.json": json.dumps({"type": FINDINGS_TYPE}).encode(),
        "chain.json": json.dumps({"type": also.CHAIN}).encode(),
        "head": gateway.checkpoint(),
        "0.proof": world.proof(0),
        "hour.parquet": b"PAR1 and so on",
        "empty": b"",
        "some.zip": b"PK\x03\x04 no zip at all",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    write_bundle(tmp_path / "b.tally", gateway.members())
    found = also.sort([tmp_path / name for name in (*files, "b.tally")])
    assert [name for name, _ in found.equivocations] == ["eq.json"]
    assert [name for name, _ in found.openings] == ["open.json", "0.json"]
    assert [name for name, _ in found.transcripts] == ["reads.json"]
    assert [name for name, _ in found.chains] == ["chain.json"]
    assert [name for name, _ in found.findings] == ["visit.json"]
    assert [name for name, _ in found.heads] == ["head", "0.proof"]
    assert [file.name for file in found.bundles] == ["b.tally"]
    assert [file.name for file in found.files] == ["hour.parquet", "empty", "some.zip"]
    kept = found.files[0]
    assert kept.sha256 == hashlib.sha256(files["hour.parquet"]).hexdigest()
    assert kept.size == len(files["hour.parquet"])
    assert set(found.names) == {*files, "b.tally"}


def test_one_name_means_one_file(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hour").write_bytes(folder.encode())
    found = also.sort([tmp_path / "a" / "hour", tmp_path / "b" / "hour"])
    assert [file.name for file in found.files] == ["hour", "hour (2)"]


@pytest.mark.parametrize("data,code", [
    (b"{", "json.unreadable"),
    (b'{"type":"tallystick/opening/v1","type":"tallystick/opening/v1"}', "json.unreadable"),
    (b'{"type":"tallystick/opening/v1","size":1.5}', "json.unreadable"),
    (b'{"type":"tallystick/opening/v1","size":9007199254740992}', "json.unreadable"),
    (b'{"type":"tallystick/opening/v9"}', "also.unknown_type"),
    (b'{"type":["tallystick/opening/v1"]}', "also.unknown_type"),
    (b'{"gateway":1,"slot":2,"private":3}', "also.unknown_type"),
    (b"{" + b" " * also.JSON_BYTES_MAX + b"}", "json.too_large"),
    (b"c2sp.org/tlog-proof@v1\nindex 1\n\n", "proof.malformed"),
])
def test_refused(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        also.sort([tmp_path / "f"])
    assert [problem.code for problem in caught.value.problems] == [code]


def test_every_bad_file_is_named_and_a_bad_file_ends_the_run(tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    world, gateway = small()
    write_bundle(tmp_path / "x.tally", gateway.members())
    (tmp_path / "policy.json").write_bytes(world.policy_json())
    (tmp_path / "bad.json").write_bytes(b"{}")
    status = main(["verify", str(tmp_path / "x.tally"), "--policy", str(tmp_path / "policy.json"),
                   "--also", str(tmp_path / "bad.json"), "--also", str(tmp_path / "absent")])
    told = capsys.readouterr().err
    assert status == 2
    assert "bad.json" in told and "absent" in told


def test_a_bundle_that_breaks_a_rule_is_no_kept_file(tmp_path: Path) -> None:
    _, gateway = small()
    write_bundle(tmp_path / "b.tally", {**gateway.members(), "extra/member": b""})
    with pytest.raises(ConfigError) as caught:
        also.sort([tmp_path / "b.tally"])
    assert [problem.code for problem in caught.value.problems] == ["container.unknown_member"]
