"""`rotate` and `revoke`: key files, the lock, the platform's size, what a revocation needs and where it is found."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.commissioning import backup, enrol, initialise, roster
from gateway.commissioning.rotation import rotate
from gateway.commissioning.state import State
from gateway.counting.registry import Ledger, Registry
from gateway.counting.rule import Rule
from gateway.sealing.disk import RealDisk
from gateway.sealing.journal import Journal
from gateway.sealing.sealer import Sealer, Software
from protocols.errors import ConfigError, DeviceError, EvidenceError, Problem
from protocols.evidence import keys, signed, statement
from tallystick.__main__ import main
from tests.unit.gateway.commissioning.plants import device, plant, point

PASSPHRASE = "four words in a safe"
WITH_PLATFORM = '[platform]\nurl = "https://platform.example"'


def quiet(code: str, where: str, **args: object) -> None:
    raise AssertionError(f"{code} {args}")


class Place:
    """A plant that has begun its log; `platform` names one that nobody answers for."""

    def __init__(self, folder: Path, *, platform: bool = False) -> None:
        self.config = plant(folder, [device("a", serial="S1")], [point("a", 0)],
                            **({"tail": f"{WITH_PLATFORM}\n" + plant_tail()} if platform else {}))
        self.state = State(self.config.state_dir)
        self.state.create_keys()
        if platform:
            self._enrolled_by_a_platform()
        else:
            enrol.enrol_alone(self.config, self.state, None)

    def _enrolled_by_a_platform(self) -> None:
        platform, register = keys.generate(), keys.generate()
        certificate = signed.sign("certificate", {
            **enrol._certified(self.config, self.state, None), "token_sha256": "0" * 64}, platform)
        vkey = enrol.note.VerifierKey("register.example", enrol.note.ED25519, keys.public_bytes(register))
        self.state.save_enrolment({
            "certificate": certificate, "register": str(vkey), "platform": keys.public_bytes(platform).hex(),
            "witnesses": f"log {vkey}\nquorum none\n", "independent": []})

    def begin(self, *, stop: bool = True) -> None:
        """Write enrolment, start and roster, as a first run of the gateway does."""
        journal = Journal(RealDisk(self.state.journal_dir))
        sealer = Sealer(journal, self.state.gateway_keys(), quiet)
        enrolment = self.state.enrolment()
        assert enrolment is not None
        sealer.enrol(enrolment["certificate"])
        held = roster.evolve(None, self.config, gateway=self.state.gateway_id(), key=self.state.enterprise_key(),
                             server_keys={})
        sealer.begin(software=Software(version="0", sha256="0" * 64), rule=Rule(len_s=60), opens_s=1_800_000_000,
                     registry=Registry.of(held.device_rows(), held.point_rows(),
                                          Ledger(sha256="0" * 64, date="2026-11-01", rows=1)), platform_size=None)
        if stop:
            sealer.stop()
        journal.close()

    @property
    def journal(self) -> Journal:
        return Journal(RealDisk(self.state.journal_dir), writable=False)


def plant_tail() -> str:
    from tests.unit.gateway.commissioning.plants import LINE
    return LINE


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "plant")
    made.begin()
    return made


def public(key: Any) -> str:
    return keys.public_bytes(key).hex()


def code_of(error: pytest.ExceptionInfo[Any]) -> str:
    return str(error.value.problems[0].code)


# rotate

async def test_every_rotation_leaves_a_key_file_and_an_entry(place: Place) -> None:
    for number in (1, 2, 3):
        before = place.journal.size
        done = await rotate(place.config, place.state, quiet)
        assert (done.seq, done.compared) == (before, None)
        ring = place.state.gateway_keys()
        assert [public(key) for key in ring][-2:] == [done.old_key, done.new_key] and len(ring) == number + 1
        assert place.journal.history.key == done.new_key
    names = sorted(path.name for path in place.state.keys_dir.iterdir())
    assert names == ["enterprise.key", "gateway-2.pem", "gateway-3.pem", "gateway-4.pem", "gateway.pem", "recovery.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.state.keys_dir.iterdir()} == {0o600}
    assert place.state.gateway_id() == place.journal.history.gateway, "the id is that of the first key"
    place.begin()  # a start after it finds its key


async def test_a_rotation_that_was_cut_before_its_entry_goes_on_with_the_key_it_made(place: Place) -> None:
    made = place.state.next_gateway_key({public(place.state.gateway_key())})
    place.begin()  # the gateway may run meanwhile: the key signs nothing
    assert place.journal.history.key == public(place.state.gateway_key())
    done = await rotate(place.config, place.state, quiet)
    assert done.new_key == public(made) and len(place.state.gateway_keys()) == 2


def test_a_key_file_that_was_cut_is_no_key_file(place: Place) -> None:
    (place.state.keys_dir / "gateway-2.pem.part").write_text("-----BEGIN PRIV")
    assert len(place.state.gateway_keys()) == 1
    made = place.state.next_gateway_key({public(place.state.gateway_key())})
    assert [public(key) for key in place.state.gateway_keys()][1:] == [public(made)]
    assert not (place.state.keys_dir / "gateway-2.pem.part").exists()


def test_more_than_ten_keys_stay_in_order(place: Place) -> None:
    used: list[str] = [public(place.state.gateway_key())]
    for _ in range(12):
        used.append(public(place.state.next_gateway_key(used)))
    assert [public(key) for key in place.state.gateway_keys()] == used


async def test_a_gateway_that_runs_is_left_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    running = Journal(RealDisk(place.state.journal_dir))
    try:
        with pytest.raises(EvidenceError) as caught:
            await rotate(place.config, place.state, quiet)
        assert code_of(caught) == "journal.locked" and len(place.state.gateway_keys()) == 1
    finally:
        running.close()


async def test_too_early(tmp_path: Path) -> None:
    place = Place(tmp_path / "plant")
    with pytest.raises(ConfigError) as caught:
        await rotate(place.config, place.state, quiet)
    assert code_of(caught) == "statements.rotate_too_early" and len(place.state.gateway_keys()) == 1
    place.state.enrolment_file.unlink()
    with pytest.raises(ConfigError) as caught:
        await rotate(place.config, place.state, quiet)
    assert code_of(caught) == "agent.not_enrolled"


class Line:
    """A link to a platform that holds the first `held` entries of a journal, or other ones, or more."""

    def __init__(self, answer: Mapping[str, Any] | None) -> None:
        self.answer = answer
        self.shown: list[Mapping[str, Any]] = []

    async def submit(self, gateway: str, body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        self.shown.append(body)
        return False, dict(self.answer or {})

    async def size(self, gateway: str) -> dict[str, Any]:
        if self.answer is None:
            raise DeviceError(Problem.of("platform", "sealing.platform_unreachable", reason="cut"))
        return dict(self.answer)

    async def close(self) -> None:
        pass


async def test_the_platform_is_asked_first(tmp_path: Path) -> None:
    place = Place(tmp_path / "plant", platform=True)
    place.begin()
    journal = place.journal
    assert journal.checkpoint is not None
    root, size = journal.tree.root().hex(), journal.size

    lines: list[Line] = []

    async def against(answer: Mapping[str, Any] | None) -> Any:
        lines.append(Line(answer))
        link: Any = lines[-1]
        return await rotate(place.config, place.state, lambda code, where, **a: None, link=link)

    signer = Sealer(Journal(RealDisk(place.state.journal_dir)), place.state.gateway_keys(), quiet)
    ahead = signer.sign(size + 5, bytes(32)).decode()
    forked = signer.sign(size, bytes(32)).decode()
    signer.journal.close()
    for answer, code in (({"size": size + 5, "root": "0" * 64, "checkpoint": ahead}, "statements.rotate_behind"),
                         ({"size": size, "root": "0" * 64, "checkpoint": forked}, "sealing.fork")):
        with pytest.raises(EvidenceError) as caught:
            await against(answer)
        assert code_of(caught) == code
        assert place.journal.size == size and len(place.state.gateway_keys()) == 1
    assert [body["checkpoint"] for body in lines[-1].shown] == [journal.checkpoint.decode()], "a fork is shown"
    assert (await against({"size": size, "root": root, "checkpoint": journal.checkpoint.decode()})).compared is True
    assert (await against(None)).compared is False


def test_the_command_prints_the_new_key(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rotate", str(place.config.file)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == place.journal.history.key and "start the gateway again" in err
    running = Journal(RealDisk(place.state.journal_dir))
    assert main(["rotate", str(place.config.file)]) == 1
    running.close()
    assert "stop the other gateway" in capsys.readouterr().err


# A backup of a gateway whose key was changed.

def test_a_restored_pc_can_revoke_the_gateway_that_it_replaces(place: Place, tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    """The backup has no gateway key, old or new; the recovery key in it revokes all of them."""
    asyncio.run(rotate(place.config, place.state, quiet))
    content = backup.collect(place.config, place.state)
    for key in place.state.keys_dir.glob("gateway*.pem"):
        assert key.read_text() not in str(content)
    backup.save(content, tmp_path / "backup", PASSPHRASE)
    made = initialise.restore(tmp_path / "new", backup.load(tmp_path / "backup", PASSPHRASE))
    old = place.state.gateway_id()
    out = tmp_path / "r.json"
    assert main(["revoke", str(made.config), "--gateway", old, "-o", str(out)]) == 2  # how far is not known here
    assert "--from-size" in capsys.readouterr().err and not out.exists()
    assert main(["revoke", str(made.config), "--gateway", old, "--from-size", "3", "-o", str(out)]) == 0
    said = statement.parse(out.read_bytes(), where="t")
    signed.verify("revocation", dict(said.value), signers=[public(place.state.recovery_key())], where="t")
    assert (said.gateway, said.value["gateway_key"]) == (old, public(place.state.gateway_key()))


# revoke

def test_the_log_says_where_it_ends_and_which_key_signed_there(place: Place, tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    first = public(place.state.gateway_key())
    done = asyncio.run(rotate(place.config, place.state, quiet))
    for arguments, key, size in (([], done.new_key, done.seq + 1), (["--from-size", str(done.seq)], first, done.seq),
                                 (["--from-size", "0"], first, 0), (["--from-size", "99"], done.new_key, 99),
                                 (["--gateway-key", first], first, done.seq + 1)):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        assert main(["revoke", str(place.config.file), *arguments, "-o", str(out)]) == 0
        said = statement.parse(out.read_bytes(), where="t")
        signed.verify("revocation", dict(said.value), signers=[public(place.state.recovery_key())], where="t")
        assert (said.gateway, said.value["gateway_key"], said.value["from_size"]) == (
            place.state.gateway_id(), key, size), arguments
        assert f"ends at entry {size}" in capsys.readouterr().err


def test_without_a_configuration_everything_can_be_said(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert main(["revoke", "--gateway", "0" * 32, "--gateway-key", "1" * 64, "--from-size", "7", "--recovery-key",
                 str(place.state.recovery_key_file), "-o", str(out)]) == 0
    assert json.loads(out.read_bytes())["statement"]["from_size"] == 7


@pytest.mark.parametrize(("arguments", "said"), [
    ([], ["which gateway"]),
    (["--gateway", "0" * 32], ["--recovery-key"]),
    (["--gateway", "../../x", "--gateway-key", "5", "--from-size", "-1"], ["--gateway", "--gateway-key", "0 or more"]),
    (["--gateway", "0" * 32, "--recovery-key", "{recovery}"], ["--gateway-key", "--from-size"]),
    (["--gateway", "0" * 32, "--recovery-key", "{recovery}", "--submit"], ["--submit needs a platform"]),
    (["--gateway", "0" * 32, "--recovery-key", "{recovery}", "--platform", "x"], ["no address of a platform"]),
    (["--gateway", "0" * 32, "--recovery-key", "none.pem"], ["none.pem"]),
    (["{config}", "--submit"], ["--submit needs a platform"]),
    (["{config}", "--recovery-key", "{gateway}"], ["not the recovery key of gateway"]),
])
def test_what_is_missing_or_wrong_is_told_at_once(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                  arguments: list[str], said: list[str]) -> None:
    out = tmp_path / "r.json"
    filled = [a.format(recovery=place.state.recovery_key_file, config=place.config.file,
                       gateway=place.state.gateway_key_file) for a in arguments]
    assert main(["revoke", *filled, "-o", str(out)]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in said), told
    assert "Traceback" not in told and not out.exists()


def test_nothing_is_overwritten(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert main(["revoke", str(place.config.file), "-o", str(out)]) == 0
    before = out.read_bytes()
    assert main(["revoke", str(place.config.file), "-o", str(out)]) == 2
    assert out.read_bytes() == before


