"""The life of a gateway across processes: keys rotated, copied, revoked; demands; several witnesses; two histories."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.evidence import note, proof, register
from tests.integration.test_gateway_faults import counts, fetch, held_by, is_sent, small_gateway
from tests.support.platform_process import (
    END_S,
    START_S,
    Running,
    platform_file,
    set_up,
    start_platform,
    tallystick,
    token,
)
from tests.support.processes import (
    USCC,
    GatewayFiles,
    ModbusDevice,
    entries_of,
    export,
    modbus_device,
    running_gateway,
    until,
    verdict,
)


@dataclass
class Site:
    """A platform with its witnesses, and a device to read."""

    folder: Path
    services: list[Running]
    line: ModbusDevice

    @property
    def platform(self) -> Running:
        return self.services[-1]

    @property
    def policy(self) -> Path:
        path = self.folder / "policy.json"
        tallystick("platform", "policy", platform_file(self.folder), "-o", path)
        return path

    def gateway(self, name: str) -> GatewayFiles:
        """Write the files of a gateway that names the platform, and enrol it."""
        files = small_gateway(self.folder / name, self.line.port,
                              more=f'[platform]\nurl = "{self.platform.url}"\nregister_poll_s = 1.0\n')
        tallystick("enrol", files.config, "--token", token(self.folder, USCC))
        return files

    def size(self, files: GatewayFiles) -> int:
        return int(fetch(self.platform.url, f"/v1/gateways/{files.id}/size")["size"])

    def holds_only(self, files: GatewayFiles) -> None:
        """Check that what the platform has of a gateway is the beginning of the log that stands in these files.

        Its last submission may be taken in after the gateway has ended: the size says less.
        """
        theirs = held_by(self.platform.url, files.id)
        assert theirs and theirs == entries_of(export(files, self.folder / "own.tally"))[: len(theirs)]

    def said(self, files: GatewayFiles) -> list[dict[str, Any]]:
        """Return the entries of the register that the platform shows about the enterprise."""
        answer = fetch(self.platform.url, f"/v1/gateways/{files.id}/register")
        return [register.decode(proof.parse(text.encode(), where="t").extra, where="t") for text in answer["proofs"]]

    def cosigned(self, files: GatewayFiles) -> int:
        """Return the size of the newest head that is co-signed."""
        return int(max(value["size"] for value in self.said(files) if value["type"] == "head"))


@contextmanager
def site(folder: Path, *, witnesses: int = 1, edit: dict[str, str] | None = None) -> Iterator[Site]:
    """Run a platform; `edit`: what is replaced in its configuration before it starts."""
    services = set_up(folder, witnesses=witnesses)
    try:
        file = platform_file(folder)
        text = file.read_text()
        for old, new in (edit or {}).items():
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
        services.append(start_platform(folder))
        with modbus_device() as line:
            yield Site(folder, services, line)
    finally:
        for service in services:
            service.kill()


def copy_of(files: GatewayFiles, folder: Path) -> GatewayFiles:
    """Copy a stopped gateway with everything that it has, as a thief or a restored image would."""
    shutil.copytree(files.config.parent, folder)
    (folder / "state" / "status.json").unlink(missing_ok=True)
    (folder / "gateway.log").unlink(missing_ok=True)
    return GatewayFiles(folder / "gateway.toml")


def run_until_proven(files: GatewayFiles) -> None:
    """Let a gateway run until windows of this run are co-signed, then stop it."""
    (files.state / "status.json").unlink(missing_ok=True)
    with running_gateway(files) as gateway:
        counts(gateway, 2)
        size = (gateway.status() or {})["log"]["size"]
        gateway.until(lambda status: (status["log"]["proven"] or 0) >= size, "what was sealed is co-signed")
        assert gateway.end() == 0
    assert "Traceback" not in gateway.said(), gateway.said()


def test_key_rotated_then_stolen_then_revoked_which_statements_stand(tmp_path: Path) -> None:
    """Question 17, with real processes: what a thief seals before the revocation is void, what stood before stands."""
    with site(tmp_path) as place:
        mine = place.gateway("mine")
        run_until_proven(mine)

        # A copy of the key of before the rotation is worth nothing behind it.
        early = copy_of(mine, tmp_path / "early")
        old_key = fetch(place.platform.url, f"/v1/gateways/{mine.id}/size")["checkpoint"]
        rotated = tallystick("rotate", mine.config).stdout.strip()
        run_until_proven(mine)
        with running_gateway(early) as thief:
            thief.until(lambda status: "sealing.unsigned_head" in {e["code"] for e in status["events"]},
                        "a history that its key did not sign is told")
            thief.windows(2)
            assert (thief.status() or {})["log"]["submitted"] is None
            thief.kill()
        place.holds_only(mine)
        assert fetch(place.platform.url, f"/v1/gateways/{mine.id}/size")["checkpoint"] != old_key

        # A copy of the key in force is worth as much as the key, until it is revoked.
        late = copy_of(mine, tmp_path / "late")
        stands = len(entries_of(export(mine, tmp_path / "before.tally")))
        with running_gateway(late) as thief:
            thief.until(lambda status: (status["log"]["proven"] or 0) > stands + 2, "the thief's windows are co-signed")
            done = tallystick("revoke", mine.config, "-o", tmp_path / "revocation.json", "--submit")
            assert f"ends at entry {stands}" in done.stderr and "in the register" in done.stderr
            taken = place.size(mine)
            thief.until(lambda status: "sealing.platform_refused" in {e["code"] for e in status["events"]},
                        "the platform takes nothing more")
            thief.windows(2)
            assert place.size(mine) == taken, "nothing beyond the revocation is taken in"
            thief.kill()
        until(lambda: [value["type"] for value in place.said(mine)][:2] == ["enrol", "revoke"], "it is co-signed")
        policy = place.policy
        told = verdict(export(late, tmp_path / "late.tally"), policy)
        entries = entries_of(tmp_path / "late.tally")
        windows = [e["seq"] for e in entries if e["type"] == "window"]
        assert told["verdict"] == "valid" and "register.revoked" in {f["code"] for f in told["findings"]}
        left = told["summary"]["revocation"]
        assert left["from_size"] == stands and left["void_entries"] == len(entries) - stands > 0
        assert left["windows"]["standing"] == len([seq for seq in windows if seq < stands]) > 0
        assert left["windows"]["cosigned_before"] == left["windows"]["standing"] and left["proven_until_s"] is not None
        changes = [e for e in entries if e["type"] == "key"]
        assert [e["rotation"]["new_key"] for e in changes] == [rotated] and changes[0]["seq"] < stands

        # The enterprise goes on with another key; the old history cannot be shed.
        (tmp_path / "words").write_text("correct horse battery\n")
        secret = ("--passphrase-file", tmp_path / "words")
        tallystick("backup", mine.config, "-o", tmp_path / "safe.backup", *secret)
        tallystick("init", tmp_path / "new", "--restore", tmp_path / "safe.backup", *secret)
        new = GatewayFiles(tmp_path / "new" / "gateway.toml")
        tallystick("enrol", new.config, "--token", token(tmp_path, USCC), "--supersedes", mine.id)
        run_until_proven(new)
        told = verdict(export(new, tmp_path / "new.tally"), policy)
        assert told["verdict"] == "valid"
        assert told["summary"]["gateways"]["enrolled"] == 2 and told["summary"]["gateways"]["supersedes"] == mine.id
        assert [g["gateway"] for g in told["summary"]["gateways"]["others"]] == [mine.id]
        # And the first gateway cannot go on: its next entries are beyond the end of its log.
        (mine.state / "status.json").unlink()
        with running_gateway(mine) as gateway:
            gateway.until(lambda status: status["said"]["revoked_from"] == stands, "it learns that it was revoked")
            gateway.kill()
        shown = tallystick("status", mine.config, check=False).stdout
        assert f"REVOKED: its log ends at entry {stands}" in shown


def test_a_demand_and_an_announced_draw_reach_the_gateway_and_every_bundle(tmp_path: Path) -> None:
    auditor = tallystick("sign", "key", "-o", tmp_path / "auditor.pem").stdout.strip()
    with site(tmp_path, edit={"# [statements]": f'[statements]\nauditors = ["{auditor}"]'}) as place:
        files = place.gateway("gateway")
        with running_gateway(files) as gateway:
            counts(gateway, 2)
            gateway.until(is_sent, "its windows are at the platform")
            signed = ("--gateway", files.id, "--deadline", "2099-01-01", "--slots", "1", "--key")
            tallystick("sign", "demand", *signed, tmp_path / "auditor.pem", "-o", tmp_path / "demand.json")
            submit = ("sign", "submit", tmp_path / "demand.json", "--platform", place.platform.url)
            index = int(tallystick(*submit).stdout)
            assert int(tallystick(*submit).stdout) == index, "the same demand stands once"
            tallystick("sign", "demand", "--gateway", files.id, "--announce", "2099-01-01", "--key",
                       tmp_path / "auditor.pem", "-o", tmp_path / "announcement.json")
            submit = ("sign", "submit", tmp_path / "announcement.json", "--platform", place.platform.url)
            announced = int(tallystick(*submit).stdout)
            gateway.until(lambda status: len(status["said"]["demands"]) == 2, "the gateway learns of both")
            gateway.windows(2)
            assert gateway.codes().count("statements.announced") == 1
            assert gateway.codes().count("statements.demanded") == 1
            assert f"register {index}: devices 1; hours -; until 20" in tallystick("status", files.config).stdout
            assert gateway.end() == 0
        tallystick("sign", "key", "-o", tmp_path / "stranger.pem")
        tallystick("sign", "demand", *signed, tmp_path / "stranger.pem", "-o", tmp_path / "no.json")
        done = tallystick("sign", "submit", tmp_path / "no.json", "--platform", place.platform.url, check=False)
        assert done.returncode == 1 and "statements.not_listed" in done.stderr, done.stderr
        told = verdict(export(files, tmp_path / "x.tally"), place.policy)
        assert told["verdict"] == "valid" and told["summary"]["openings"]["demanded"] == 1
        assert [(a["index"], a["in_time"]) for a in told["summary"]["announcements"]] == [(announced, True)]
        assert [d["index"] for d in told["summary"]["demands"]] == [index]
        tallystick("bundle", files.config, "--open", "1", "-o", tmp_path / "open.tally")
        told = verdict(tmp_path / "open.tally", tmp_path / "policy.json")
        assert told["summary"]["openings"]["answered"] == 1


def test_two_of_three_witnesses_are_enough_and_seen_is_of_an_independent_one(tmp_path: Path) -> None:
    """w0 is down, w1 is the applicant's own, w2 is independent: the quorum is 2, `seen` comes from w2 alone."""
    began_s = int(time.time())
    with site(tmp_path, witnesses=3, edit={'quorum = "all"': 'quorum = "2"'}) as place:
        file = platform_file(tmp_path)
        head, first, second, third = file.read_text().split("[[witnesses]]\n" + "vkey")
        assert place.platform.end() == 0
        file.write_text("[[witnesses]]\nvkey".join([head, first, second.replace("= true", "= false"), third]))
        place.services[0].kill()
        place.services[-1] = start_platform(tmp_path)
        files = place.gateway("gateway")
        run_until_proven(files)
        bundle = export(files, tmp_path / "x.tally")
        told = verdict(bundle, place.policy)
        assert (told["verdict"], told["summary"]["trust"], told["summary"]["time"]) == (
            "valid", "independent", "anchored")
        seen = [e["seen"] for e in entries_of(bundle) if e["type"] == "window"]
        assert {s["witness"] for s in seen if s is not None} == {"w2.example"}
        assert all(began_s <= s["time_s"] <= time.time() for s in seen if s is not None)
        assert cosigners(bundle) == {"w1.example", "w2.example"}

        # Two down of three: intake goes on, nothing is co-signed, and the gateway's windows stay unproven.
        place.services[1].kill()
        (files.state / "status.json").unlink()
        with running_gateway(files) as gateway:
            counts(gateway, 2)
            gateway.until(lambda status: status["log"]["proven"] == place.cosigned(files)
                          < (status["log"]["submitted"] or 0), "it knows what was co-signed, and has sent more")
            cosigned = place.cosigned(files)
            gateway.windows(3)
            assert (gateway.status() or {})["log"]["proven"] == cosigned == place.cosigned(files)
            assert gateway.end() == 0


def cosigners(bundle: Path) -> set[str]:
    """Return who co-signed the register proofs of a bundle."""
    names = set()
    with zipfile.ZipFile(bundle) as archive:
        for name in archive.namelist():
            if name.startswith("register/"):
                found = note.parse(proof.parse(archive.read(name), where=name).checkpoint, where=name)
                names |= {line.name for line in found.signatures}
    return names - {"register.example/test"}


def test_two_histories_under_one_key_enter_the_register_and_the_first_stands(tmp_path: Path) -> None:
    """A copy that ran on without its platform comes back: it stops, and shows what it has before it does."""
    with site(tmp_path) as place:
        mine = place.gateway("mine")
        run_until_proven(mine)
        clone = copy_of(mine, tmp_path / "clone")
        run_until_proven(mine)
        clone.edit(f'[platform]\nurl = "{place.platform.url}"\nregister_poll_s = 1.0\n', "")
        with running_gateway(clone) as gateway:
            longer = len(entries_of(export(mine, tmp_path / "own.tally"))) + 2
            gateway.until(lambda status: status["log"]["size"] >= longer, "the copy is longer")
            assert gateway.end() == 0
        clone.edit("[window]", f'[platform]\nurl = "{place.platform.url}"\n[window]')
        with running_gateway(clone) as again:
            assert again.process.wait(END_S) == 1
        assert "Traceback" not in again.said() and "history" in again.said(), again.said()
        fork = wait_for_fork(place, mine)
        assert len(set(fork["checkpoints"])) == 2
        place.holds_only(mine)
        run_until_proven(mine)
        told = verdict(export(mine, tmp_path / "mine.tally"), place.policy)
        assert told["verdict"] == "valid" and "register.fork" in {f["code"] for f in told["findings"]}
        # Whoever kept a proof of the first history refuses the second.
        with zipfile.ZipFile(tmp_path / "mine.tally") as archive:
            heads = [n for n in archive.namelist() if n.startswith("register/")]
            newest = max(heads, key=lambda name: int(name.split("/")[1].split(".")[0]))
            (tmp_path / "kept.proof").write_bytes(archive.read(newest))
        export(clone, tmp_path / "clone.tally")
        done = tallystick("verify", tmp_path / "clone.tally", "--policy", tmp_path / "policy.json", "--anchor",
                          tmp_path / "kept.proof", "--json", check=False)
        assert done.returncode == 1
        assert {f["code"] for f in json.loads(done.stdout)["findings"] if f["severity"] == "fault"} & {
            "head.differs", "head.truncated"}


def wait_for_fork(place: Site, files: GatewayFiles) -> dict[str, Any]:
    """Wait until a fork is co-signed and shown; return the entry."""
    deadline = time.monotonic() + START_S
    while not (found := [value for value in place.said(files) if value["type"] == "fork"]):
        assert time.monotonic() < deadline, "no fork entered the register"
        time.sleep(0.1)
    return found[0]
