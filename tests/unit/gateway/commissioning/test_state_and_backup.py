"""The state folder, `init`, and the way back after a PC is lost."""

from __future__ import annotations

import base64
import json
import os
import stat
from datetime import date
from pathlib import Path

import pytest

from config.gateway import load_gateway
from gateway.commissioning import backup, enrol, initialise, roster
from gateway.commissioning.backup import FILES, Backup
from gateway.commissioning.state import State, write_json
from protocols.errors import ConfigError, EvidenceError, TallystickError
from protocols.evidence import keys, signed
from protocols.evidence import roster as format_
from tallystick.__main__ import main
from tests.unit.gateway.commissioning.plants import DEVICES, USCC, device, plant, point, write

PASSPHRASE = "four words in a safe 保险柜"
TODAY = date(2026, 11, 20)


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a guess is tested once, in its own test."""
    monkeypatch.setattr(backup, "SCRYPT_N", 2**10)


def code_of(error: TallystickError) -> str:
    return error.problems[0].code


def test_keys_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    assert not state.has_keys()
    state.create_keys()
    assert state.has_keys()
    files = (state.gateway_key_file, state.recovery_key_file, state.enterprise_key_file)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    assert stat.S_IMODE(state.keys_dir.stat().st_mode) == 0o700
    before = [file.read_bytes() for file in files]
    assert len(set(before)) == 3 and len(state.enterprise_key()) == 32
    assert keys.public_bytes(state.gateway_key()) != keys.public_bytes(state.recovery_key())
    with pytest.raises(ConfigError) as caught:
        state.create_keys()
    assert {p.code for p in caught.value.problems} == {"commissioning.keys_exist"} and len(caught.value.problems) == 3
    assert [file.read_bytes() for file in files] == before


def test_one_key_that_is_there_keeps_all_from_being_made(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.keys_dir.mkdir()
    state.recovery_key_file.write_text("old")
    with pytest.raises(ConfigError):
        state.create_keys()
    assert [path.name for path in state.keys_dir.iterdir()] == ["recovery.pem"]


@pytest.mark.parametrize("name", ["gateway_key", "recovery_key", "enterprise_key", "gateway_id"])
def test_without_keys_the_way_out_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(State(tmp_path), name)()
    assert code_of(caught.value) == "commissioning.no_keys"


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33, "钥" * 3])
def test_a_broken_k_is_refused(tmp_path: Path, text: str) -> None:
    state = State(tmp_path)
    state.create_keys()
    state.enterprise_key_file.write_text(text)
    with pytest.raises(EvidenceError) as caught:
        state.enterprise_key()
    assert code_of(caught.value) == "key.unreadable"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"certificate": {}}', "[" * 100_000,
                                  '{"certificate": null, "x": 1}'])
def test_a_broken_enrolment_is_told(tmp_path: Path, text: str) -> None:
    state = State(tmp_path)
    state.enrolment_file.write_text(text)
    with pytest.raises(EvidenceError) as caught:
        state.enrolment()
    assert code_of(caught.value) == "commissioning.state_broken"


def test_the_id_is_that_of_the_certified_key_also_after_a_rotation(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    config = plant(tmp_path, [device("a")])
    state.create_keys()
    first = state.gateway_id()
    enrol.enrol_alone(config, state, None)
    state.gateway_key_file.unlink()
    keys.save(keys.generate(), state.gateway_key_file)
    assert state.gateway_id() == first == keys.gateway_id(bytes.fromhex(
        state.enrolment()["certificate"]["gateway_key"]))  # type: ignore[index]  # enrolled three lines above


def test_server_keys_come_back_and_are_checked(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert state.server_keys() == {}
    state.save_server_keys({"b": "cd" * 32, "a": "ab" * 32})
    assert state.server_keys() == {"a": "ab" * 32, "b": "cd" * 32}
    state.servers_file.write_text('{"a": "short"}')
    with pytest.raises(EvidenceError):
        state.server_keys()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_json(file, {"a": 2})
    monkeypatch.undo()
    assert json.loads(file.read_text()) == {"a": 1}
    write_json(file, {"a": 3})  # the remains of the failed write are in nobody's way
    assert json.loads(file.read_text()) == {"a": 3}


# init

def test_init_writes_files_that_load_when_site_and_code_are_given(tmp_path: Path) -> None:
    made = initialise.initialise(tmp_path / "new", site='一号 "A"', uscc=USCC, k=None, today=TODAY)
    config = load_gateway(made.config)
    assert (config.site, config.uscc, config.ledger_date) == ('一号 "A"', USCC, "2026-11-20")
    assert config.state_dir == made.state.dir and made.state.has_keys()
    assert (tmp_path / "new" / "devices.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_init_asks_for_the_code_and_names_no_false_owner(tmp_path: Path) -> None:
    made = initialise.initialise(tmp_path, site=None, uscc=None, k=None, today=TODAY)
    with pytest.raises(ConfigError) as caught:
        load_gateway(made.config)
    assert [p.code for p in caught.value.problems] == ["config.uscc_empty"]
    assert all(initialise.EXAMPLE_USCC not in (tmp_path / name).read_text() for name in FILES)


def test_the_second_gateway_of_an_enterprise_gets_the_same_k(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "one")]) == 0
    k_file = tmp_path / "one" / "state" / "keys" / "enterprise.key"
    assert main(["init", str(tmp_path / "two"), "--k-file", str(k_file)]) == 0
    one, two = State(tmp_path / "one" / "state"), State(tmp_path / "two" / "state")
    assert one.enterprise_key() == two.enterprise_key() and one.gateway_id() != two.gateway_id()
    shown = capsys.readouterr()
    assert one.gateway_id() in shown.err and "tallystick backup" in shown.err
    assert one.enterprise_key().hex() not in shown.out + shown.err


@pytest.mark.parametrize("blocking", ["gateway.toml", "devices.csv", "points.csv", "state/keys", "state/roster.json"])
def test_init_overwrites_nothing_and_writes_nothing_then(tmp_path: Path, blocking: str) -> None:
    path = tmp_path / blocking
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ConfigError) as caught:
        initialise.initialise(tmp_path, site=None, uscc=None, k=None, today=TODAY)
    assert [(p.where, p.code) for p in caught.value.problems] == [(str(path), "commissioning.exists")]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path] and path.read_text() == "mine"


@pytest.mark.parametrize("arguments", [["--uscc", "91320594MAEXAMPLEA"], ["--uscc", ""], ["--site", ""],
                                       ["--site", "a\nb"], ["--restore", "no-such-file"]])
def test_init_refuses_what_could_not_be_used(tmp_path: Path, arguments: list[str],
                                             capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pass").write_text("x" * 20)
    assert main(["init", str(tmp_path / "new"), "--passphrase-file", str(tmp_path / "pass"), *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# backup and restore

def made_backup(tmp_path: Path) -> tuple[Path, State, Backup]:
    """A plant that was enrolled and has slots, one of them a tombstone; and its backup."""
    config = plant(tmp_path / "old", [device("a", serial="S1", name="冲压机"), device("b", serial="S2")],
                   [point("a", 0), point("b", 1)])
    state = State(config.state_dir)
    state.create_keys()
    enrol.enrol_alone(config, state, None)
    held = roster.evolve(None, config, gateway=state.gateway_id(), key=state.enterprise_key(), server_keys={})
    config = plant(tmp_path / "old", [device("a", serial="S1", name="冲压机")], [point("a", 0)])
    held = roster.evolve(held, config, gateway=state.gateway_id(), key=state.enterprise_key(), server_keys={})
    roster.save(held, state.roster_file)
    content = backup.collect(config, state)
    backup.save(content, tmp_path / "backup", PASSPHRASE)
    return tmp_path / "backup", state, content


def test_a_backup_comes_back_as_it_was_and_shows_nothing(tmp_path: Path) -> None:
    file, state, content = made_backup(tmp_path)
    assert backup.load(file, PASSPHRASE) == content
    sealed = base64.b64decode(json.loads(file.read_text())["ciphertext"])
    for secret in (state.enterprise_key().hex(), "PRIVATE KEY", "冲压机", USCC, state.gateway_id()):
        assert secret.encode() not in sealed + file.read_bytes()
    assert state.enterprise_key().hex() not in repr(content) and "PRIVATE KEY" not in repr(content)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "gateway.pem" not in str(content) and content.recovery_key != state.gateway_key_file.read_text()


@pytest.mark.parametrize("passphrase", ["four words in a safe", PASSPHRASE + " ", "", PASSPHRASE.upper()])
def test_another_passphrase_opens_nothing(tmp_path: Path, passphrase: str) -> None:
    file, _, _ = made_backup(tmp_path)
    with pytest.raises(ConfigError) as caught:
        backup.load(file, passphrase)
    assert code_of(caught.value) == "commissioning.wrong_passphrase"


@pytest.mark.parametrize("field", ["salt", "nonce", "ciphertext", "format"])
def test_any_change_of_a_backup_is_refused(tmp_path: Path, field: str) -> None:
    file, _, _ = made_backup(tmp_path)
    body = json.loads(file.read_text())
    for at in range(0, len(body[field]), max(1, len(body[field]) // 12)):
        other = "B" if body[field][at] != "B" else "C"
        changed = {**body, field: body[field][:at] + other + body[field][at + 1:]}
        if backup_bytes(changed) == backup_bytes(body):
            continue  # spare bits at the end of base64
        file.write_text(json.dumps(changed))
        with pytest.raises(ConfigError) as caught:
            backup.load(file, PASSPHRASE)
        assert code_of(caught.value) in ("commissioning.wrong_passphrase", "commissioning.no_backup")


def backup_bytes(body: dict[str, str]) -> tuple[object, ...]:
    return (body["format"], *(base64.b64decode(body[name] + "==") for name in ("salt", "nonce", "ciphertext")))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000, '{"format": "tallystick/backup/v1"}',
                                  '{"format": "tallystick/backup/v1", "salt": "", "nonce": "", "ciphertext": ""}',
                                  '{"format": "tallystick/backup/v1", "salt": 1, "nonce": 2, "ciphertext": 3}'])
def test_what_is_no_backup_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(ConfigError) as caught:
        backup.load(tmp_path / "x", PASSPHRASE)
    assert code_of(caught.value) == "commissioning.no_backup"


def test_a_guess_costs_what_the_format_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked = {}

    class Seen:
        def __init__(self, **parameters: int) -> None:
            asked.update(parameters)

        def derive(self, passphrase: bytes) -> bytes:
            return bytes(32)

    monkeypatch.setattr(backup, "Scrypt", Seen)
    backup._key("x", b"salt")
    assert {name: asked[name] for name in "nrp"} == {"n": 2**17, "r": 8, "p": 1}


def test_characters_typed_in_another_composition_are_the_same_passphrase() -> None:
    assert backup._key("Mu\u0308ller", bytes(16)) == backup._key("M\u00fcller", bytes(16))


def test_a_new_pc_is_a_new_gateway_with_the_old_slots(tmp_path: Path) -> None:
    file, old, _ = made_backup(tmp_path)
    made = initialise.restore(tmp_path / "new", backup.load(file, PASSPHRASE))
    assert made.superseded == old.gateway_id() != made.state.gateway_id()
    assert made.state.enterprise_key() == old.enterprise_key()
    assert keys.public_bytes(made.state.recovery_key()) == keys.public_bytes(old.recovery_key())
    assert keys.public_bytes(made.state.gateway_key()) != keys.public_bytes(old.gateway_key())
    assert made.state.enrolment() is None
    for name in FILES:
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "old" / name).read_bytes()

    before, after = roster.load(old.roster_file), roster.load(made.state.roster_file)
    assert before is not None and after is not None
    assert after.device_rows() == before.device_rows() and [d.private for d in after.devices] == [
        d.private for d in before.devices]
    for number, slot in enumerate(after.points):
        assert (slot.row["addr"], slot.row["base"]) == format_.point_tags(
            old.enterprise_key(), made.state.gateway_id(), slot.row["device"], slot.address, slot.base)
        assert slot.row["addr"] != before.points[number].row["addr"]
    kept = made.state.dir / "superseded" / old.gateway_id()
    assert roster.load(kept / "roster.json") == before
    assert json.loads((kept / "enrolment.json").read_text()) == old.enrolment()

    config = load_gateway(made.config)
    answer = enrol.enrol_alone(config, made.state, made.superseded)
    assert answer["certificate"]["supersedes"] == old.gateway_id()
    signed.verify("certificate", answer["certificate"], where="test",
                  signers={keys.public_bytes(old.recovery_key()).hex()})
    again = roster.evolve(after, config, gateway=made.state.gateway_id(), key=made.state.enterprise_key(),
                          server_keys={})
    assert (again.device_rows(), again.point_rows()) == (after.device_rows(), after.point_rows())


def test_templates_without_points_and_a_workbook_come_back(tmp_path: Path) -> None:
    head = DEVICES + ",unit,template"
    (tmp_path / "old").mkdir()
    write(tmp_path / "old", [], [], head='templates = "lists/templates.csv"\n')
    (tmp_path / "old" / "devices.csv").write_text(f"{head}\n{device('a')},7,press\n", encoding="utf-8")
    (tmp_path / "old" / "points.csv").unlink()
    (tmp_path / "old" / "lists").mkdir()
    (tmp_path / "old" / "lists" / "templates.csv").write_text(
        "template,id,address,type,role\npress,p,{unit}/holding/1,uint16,parameter\n", encoding="utf-8")
    config = load_gateway(tmp_path / "old" / "gateway.toml")
    state = State(config.state_dir)
    state.create_keys()
    backup.save(backup.collect(config, state), tmp_path / "backup", PASSPHRASE)
    content = backup.load(tmp_path / "backup", PASSPHRASE)
    assert sorted(content.files) == ["devices.csv", "gateway.toml", "templates.csv"]
    restored = load_gateway(initialise.restore(tmp_path / "new", content).config)
    assert restored.templates_file == tmp_path / "new" / "lists" / "templates.csv"
    assert [p.address.canonical for p in restored.points] == ["7/holding/1/uint16"]
    assert restored.ledger_sha256 == config.ledger_sha256


@pytest.mark.parametrize(("named", "lands"), [
    ("lists/d.csv", "lists/d.csv"), ("../../evil.csv", "devices.csv"), ("/etc/passwd", "devices.csv")])
def test_a_restore_writes_nothing_outside_its_folder(tmp_path: Path, named: str, lands: str) -> None:
    _, _, content = made_backup(tmp_path)
    toml = content.files["gateway.toml"].decode().replace('site = "S"', f'site = "S"\ndevices = "{named}"')
    changed = {**content.files, "gateway.toml": toml.encode()}
    initialise.restore(tmp_path / "deep" / "new", Backup(
        gateway=content.gateway, recovery_key=content.recovery_key, k=content.k, enrolment=None, roster=None,
        files=changed))
    assert (tmp_path / "deep" / "new" / lands).read_bytes() == content.files["devices.csv"]
    assert {p.name for p in tmp_path.iterdir()} == {"old", "backup", "deep"}


def test_the_commands_back_up_and_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, old, _ = made_backup(tmp_path)
    config, file, secret = tmp_path / "old" / "gateway.toml", tmp_path / "b2", tmp_path / "pass"
    secret.write_text("short\n")
    backed = ["backup", str(config), "-o", str(file), "--passphrase-file", str(secret)]
    assert main(backed) == 2 and not file.exists()
    secret.write_text(PASSPHRASE + "\nsecond line is ignored\n", encoding="utf-8")
    assert main(backed) == 0
    assert main(backed) == 2  # never overwritten
    assert "is there already" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "new"), "--restore", str(file), "--passphrase-file", str(secret)]) == 0
    assert f"--supersedes {old.gateway_id()}" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "x"), "--restore", str(file), "--uscc", USCC]) == 2
    assert main(["init", str(tmp_path / "x"), "--restore", str(file)]) == 2  # no terminal to ask on
    assert "--passphrase-file" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
