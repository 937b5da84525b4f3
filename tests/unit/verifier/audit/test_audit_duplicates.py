"""`tallystick count --explain`: machines reached several times are told, and counted once unless explained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence.bundle import write_bundle
from tallystick.__main__ import main
from tests.support.plant_fixture import claim_text
from tests.support.schemas import validate
from verifier.conformance.world import (
    OTHER_USCC,
    START_S,
    USCC,
    Gateway,
    World,
    device_row,
    point_row,
    private_part,
)

K_OTHER = hashlib.sha256(b"K of the other enterprise").digest()
KEY = hashlib.sha256(b"key of a server").hexdigest()
SPKI: dict[str, Any] = {"dup_tags": [{"scheme": "spki-sha256", "tag": KEY}],
                        "server": {"spki_sha256": KEY, "via": None}}


class Scene:
    """Two enterprises with three gateways.

    press    one: slot 0 owns KEY; slot 1 has an opened serial; slot 2 is a lathe; slot 3 stands alone
    hall     one: slot 0 is the same lathe
    strange  two: slot 0 owns KEY; slot 1 has the same opened serial
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.world = folder, capsys, World()
        self.press, self.hall = self.world.gateway("press"), self.world.gateway("hall")
        self.strange = self.world.gateway("strange", uscc=OTHER_USCC, k=K_OTHER)
        sold = private_part("冲床", maker="M", model="x", serial="7")
        lathe = private_part("lathe", maker="M", model="y", serial="9")
        self.sold = {"press": sold, "strange": sold | {"name": "二手冲床"}}
        self._seal(self.press, [device_row(0, **SPKI), device_row(1, private=sold), device_row(2, private=lathe),
                                device_row(3)])
        self._seal(self.hall, [device_row(0, private=lathe)])
        self._seal(self.strange, [device_row(0, k=K_OTHER, uscc=OTHER_USCC, **SPKI),
                                  device_row(1, private=self.sold["strange"], k=K_OTHER, uscc=OTHER_USCC)])
        self.world.round(time_s=self.press.now_s + 10)
        (folder / "policy.json").write_bytes(self.world.policy_json())

    def _seal(self, gateway: Gateway, rows: list[dict[str, Any]]) -> None:
        if not self.world.rounds:
            self.world.round(time_s=START_S - 10)
        gateway.begin()
        gateway.roster(rows, [point_row(i, i, gateway.id, k=gateway.k) for i in range(len(rows))])
        gateway.window()

    def bundle(self, gateway: Gateway, *, opened: bool = False) -> str:
        path = self.folder / f"{gateway.name}{'-opened' if opened else ''}.tally"
        members = gateway.members()
        if opened:
            members["openings/1.json"] = gateway.opening(1, self.sold[gateway.name])
        write_bundle(path, members)
        return str(path)

    def run(self, *words: str, json_: bool = True, lang: str = "en", command: str = "count") -> tuple[int, Any]:
        at = ["--at", "last"] if command == "count" else []
        code = main([command, *words, *at, "--policy", str(self.folder / "policy.json"), "--lang", lang,
                     *(["--json"] if json_ else [])])
        said = self.capsys.readouterr()
        if code == 2 or not json_:
            return code, said.out + said.err
        result = json.loads(said.out)
        validate(result, f"{command}.schema.json")
        return code, result

    def explain(self, text: str) -> tuple[str, str]:
        path = self.folder / "explain.toml"
        path.write_text(text, encoding="utf-8")
        return "--explain", str(path)


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    return Scene(tmp_path, capsys)


def explanation(*devices: str, text: str = "同批次两台，密钥由厂家预置", by: str = "县工信局 王工",
                date: str = "2026-11-20") -> str:
    return (f"[[explanation]]\ndevices = {json.dumps(devices)}\ntext = \"{text}\"\nby = \"{by}\"\ndate = {date}\n")


HEAD = 'schema = "explanations/1"\n'


def test_within_one_enterprise_any_tag_joins_and_one_counts(scene: Scene) -> None:
    code, result = scene.run(scene.bundle(scene.hall), scene.bundle(scene.press))
    assert (code, result["figures"]["devices"]["counted"]) == (0, 4)
    (group,) = result["duplicates"]
    assert group == {
        "dispute": False, "counted": 1, "enterprises": [USCC], "explanations": [],
        "joints": [{"how": "tag", "scheme": "serial", "members": [0, 1]}],
        "members": [
            {"gateway": scene.press.id, "slot": 2, "name": None, "enterprise": USCC, "reason": None,
             "explanations": []},
            {"gateway": scene.hall.id, "slot": 0, "name": None, "enterprise": USCC, "reason": "duplicate_identity",
             "explanations": []}]}
    assert {f["code"]: f["args"] for f in result["findings"]}["duplicates.within"] == {
        "groups": "1", "devices": "2", "counted": "1", "excluded": "1"}


def test_between_enterprises_an_equal_key_is_a_dispute_that_is_counted_once(scene: Scene) -> None:
    bundles = scene.bundle(scene.strange), scene.bundle(scene.press)
    code, result = scene.run(*bundles)
    assert (code, result["verdict"], result["figures"]["devices"]["counted"]) == (0, "valid", 5)
    (group,) = result["duplicates"]
    assert group["dispute"] and group["enterprises"] == sorted([USCC, OTHER_USCC])
    assert [(m["gateway"], m["slot"], m["reason"]) for m in group["members"]] == [
        (scene.press.id, 0, None), (scene.strange.id, 0, "duplicate_identity")]
    assert [(j["how"], j["scheme"]) for j in group["joints"]] == [("key", "spki-sha256")]
    finding = next(f for f in result["findings"] if f["code"] == "duplicates.two_enterprises")
    assert finding["severity"] == "remark"
    assert finding["args"] == {"groups": "1", "devices": "2", "counted": "1", "excluded": "1",
                               "enterprises": ", ".join(sorted([USCC, OTHER_USCC]))}
    _, text = scene.run(*bundles, json_=False)
    assert (f"  DISPUTE between enterprises {finding['args']['enterprises']}: 2 devices; 1 counted\n"
            f"    gateway {scene.press.id[:8]}, slot 0, enterprise {USCC}: counts, as the first in the order of the "
            f"register and of slots that can count\n"
            f"    gateway {scene.strange.id[:8]}, slot 0, enterprise {OTHER_USCC}: the same machine as another counted "
            f"device\n    joined by the same server key (spki-sha256): {scene.press.id[:8]}:0, "
            f"{scene.strange.id[:8]}:0\n") in text
    assert "之间有争议：2 台设备；计入 1 台" in scene.run(*bundles, json_=False, lang="zh")[1]


def test_serials_join_two_enterprises_only_where_both_are_opened(scene: Scene) -> None:
    press, strange = scene.bundle(scene.press, opened=True), scene.bundle(scene.strange)
    assert len(scene.run(press, strange)[1]["duplicates"]) == 1
    _, result = scene.run(press, scene.bundle(scene.strange, opened=True))
    assert result["figures"]["devices"]["counted"] == 4
    group = result["duplicates"][1]
    assert [(j["how"], j["scheme"], j["members"]) for j in group["joints"]] == [("opened", "serial", [0, 1])]
    assert [(m["name"], m["reason"]) for m in group["members"]] == [("冲床", None), ("二手冲床", "duplicate_identity")]


def test_an_explanation_lets_both_count_and_is_kept(scene: Scene) -> None:
    bundles = [scene.bundle(g) for g in (scene.press, scene.hall, scene.strange)]
    words = scene.explain(HEAD + explanation(f"{scene.press.id}:0", f"{scene.strange.id[:8]}:0")
                          + explanation(f"{scene.press.id[:10]}:3", f"{scene.hall.id[:8]}:0"))
    code, result = scene.run(*bundles, *words)
    assert (code, result["figures"]["devices"]["counted"]) == (0, 6)
    dispute, within = result["duplicates"]
    assert [m["reason"] for m in dispute["members"]] == [None, None]
    assert [m["explanations"] for m in dispute["members"]] == [[0], [0]]
    assert dispute["explanations"] == [
        {"text": "同批次两台，密钥由厂家预置", "by": "县工信局 王工", "date": "2026-11-20"}]
    assert [m["reason"] for m in within["members"]] == [None, "duplicate_identity"]
    assert within["explanations"] == []
    codes = {f["code"]: f["args"] for f in result["findings"]}
    assert codes["duplicates.explained"] == {"devices": "1", "groups": "1"}
    assert codes["duplicates.unused"] == {"explanations": "1"}
    assert result["digests"]["explanations"] == hashlib.sha256(Path(words[1]).read_bytes()).hexdigest()
    _, text = scene.run(*bundles, *words, json_=False, lang="zh")
    assert "依说明一并计入" in text and "2026-11-20 县工信局 王工说明：同批次两台，密钥由厂家预置" in text
    assert "该说明属于声明，未经证明" in text


def test_every_problem_of_an_explanation_file_at_once(scene: Scene) -> None:
    words = scene.explain(HEAD + explanation(f"{scene.press.id[:8]}:0", "press:1")
                          + explanation(f"{scene.press.id[:8]}:99", "ffffffff:0", date='"yesterday"')
                          + explanation(f"{scene.press.id[:8]}:1") + "colour = 1\n")
    code, said = scene.run(scene.bundle(scene.press), *words)
    assert code == 2
    for part in ("explanation[0].devices[1]: `press:1` names no device",
                 f"explanation[1].devices[0]: gateway {scene.press.id[:8]} has no slot 99",
                 "explanation[1].devices[1]: no gateway of these bundles begins with ffffffff",
                 "explanation[1].date", "explanation[2].devices: ", "explanation[2].colour: "):
        assert part in said, (part, said)
    words = scene.explain(HEAD + explanation(f"{scene.press.id[:8]}:1", f"{scene.press.id}:1"))
    code, said = scene.run(scene.bundle(scene.press), *words)
    assert code == 2 and "at least two different devices" in said


def test_audit_takes_explanations_too(scene: Scene) -> None:
    claim = scene.folder / "claim.toml"
    claim.write_text(claim_text(scene.press.now_s, USCC), encoding="utf-8")
    bundles = [scene.bundle(scene.press), scene.bundle(scene.strange)]
    words = scene.explain(HEAD + explanation(f"{scene.press.id}:0", f"{scene.strange.id}:0"))
    _, result = scene.run(str(claim), *bundles, *words, "--programme", "jiangsu_2019", "--type", "enterprise",
                          command="audit")
    assert result["count"]["duplicates"][0]["counted"] == 2
    assert result["count"]["digests"]["explanations"]
