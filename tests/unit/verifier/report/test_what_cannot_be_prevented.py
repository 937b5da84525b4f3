"""Section 9 of the evidence design: what cannot be prevented is printed, in text, JSON and report. One test a line.

One plant shows it all: an outage, a late co-signature, a second gateway that stayed at home, two demanded openings of
which one is answered, a register of 16 bits, and a device that was rented for the count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protocols.evidence import keys, note, signed
from protocols.evidence.bundle import write_bundle
from tallystick.__main__ import main
from tests.support.plant_fixture import Plant, claim_text
from verifier.conformance.world import USCC, Gateway, World, key_of, public, two_devices

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Printed:
    """What the three commands say of one plant, in both languages."""

    verify: dict[str, Any]
    count: dict[str, Any]
    audit: dict[str, Any]
    texts: dict[str, str]
    """`verify en`, `count en`, `audit en`, `report en`, and the same in zh."""

    def everywhere(self, fragment_en: str, fragment_zh: str, *, but: tuple[str, ...] = ()) -> None:
        for name, text in self.texts.items():
            command, lang = name.split()
            if command not in but:
                fragment = fragment_en if lang == "en" else fragment_zh
                assert fragment in text, f"{name}: {fragment!r}"


def printed(folder: Path, bundle: Path, policy: Path, at_s: int, run: Callable[[list[str]], str]) -> Printed:
    claim = folder / "claim.toml"
    claim.write_text(claim_text(at_s, USCC, device_connected_count=1, point_count=1), encoding="utf-8")
    trusted = ["--policy", str(policy)]
    commands = {"verify": ["verify", str(bundle)], "count": ["count", str(bundle), "--at", str(at_s)],
                "audit": ["audit", str(claim), "--programme", "jiangsu_2019", "--type", "enterprise", str(bundle)]}
    texts = {}
    for lang in ("en", "zh"):
        for name, words in commands.items():
            texts[f"{name} {lang}"] = run([*words, *trusted, "--lang", lang])
        page = folder / f"{lang}.html"
        run([*commands["audit"], *trusted, "--lang", lang, "--report", str(page)])
        texts[f"report {lang}"] = page.read_text(encoding="utf-8").replace("&#39;", "'")
    told = {name: json.loads(run([*words, *trusted, "--json"])) for name, words in commands.items()}
    return Printed(told["verify"], told["count"], told["audit"], texts)


@pytest.fixture(scope="module")
def run_command() -> Callable[[list[str]], str]:
    def run(words: list[str]) -> str:
        import contextlib
        import io

        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            assert main(words) in (0, 1), words
        return out.getvalue()
    return run


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, run_command: Callable[[list[str]], str]) -> Printed:
    """T is the end of day 11; device 1 is connected from day 6 on, and the evidence ends at T."""
    folder = tmp_path_factory.mktemp("printed")
    world = World()
    plant = Plant(folder, world=world)
    plant.device(opened=True)
    plant.device(points=16, base="1/holding/7")
    gateway = plant.gateway
    gateway.len_s = 3600
    gateway.now_s += -gateway.now_s % DAY_S
    hidden = world.gateway("shed")
    assert hidden.id != gateway.id
    plant.begin()
    for day in range(11):
        for hour in range(24):
            if (day, hour) == (10, 5):
                gateway.start()
                gateway.outage(gateway.now_s + 2 * 3600)
            elif (day, hour) == (10, 6):
                continue
            else:
                slots = [0, 1] if day >= 6 else [0]
                points = range(17) if day >= 6 else [0]
                if hour % 2:  # half of the windows: device 0 does not produce
                    gateway.window(connected=slots, sampled=points, producing=[p for p in points if p])
                else:
                    gateway.window(connected=slots, sampled=points)
        if day != 9:
            world.round(time_s=gateway.now_s + 30)
    demand = {"gateway": gateway.id, "slots": [0, 1], "hours": [], "deadline_s": gateway.now_s}
    world.add({"type": "demand", "demand": signed.sign("demand", demand, key_of("auditor"))})
    world.round(time_s=gateway.now_s + 60)
    return printed(folder, plant.write(), plant.policy(), gateway.now_s, run_command)


def test_median_share_of_windows_producing(shown: Printed) -> None:
    figures = shown.count["figures"]
    assert figures["producing_permille"] is not None
    percent = f"{figures['producing_permille'] // 10}.{figures['producing_permille'] % 10}"
    shown.everywhere(f"{percent} % of the windows (median)", "中位", but=("verify",))
    assert shown.audit["count"]["figures"]["producing_permille"] == figures["producing_permille"]


def test_devices_first_seen_or_gone_within_a_week_of_t(shown: Printed) -> None:
    assert shown.count["figures"]["presence"]["new"] == 1
    assert shown.count["figures"]["presence"]["gone"] is None
    assert shown.audit["count"]["figures"]["presence"] == shown.count["figures"]["presence"]
    shown.everywhere("1 of the counted devices were not connected in the week that ends 7 days before T",
                     "计入的设备中有 1 台在 T 前第 7 天为止的一周内未曾在线", but=("verify",))
    shown.everywhere("were gone less than 7 days after T cannot be computed",
                     "无法计算有多少台计入的设备在 T 后不足 7 天", but=("verify",))


def test_coverage_and_outages(shown: Printed) -> None:
    summary = shown.verify["summary"]
    windows, missing = 11 * 24 - 2, 2
    assert summary["outages"] == {"shown": 1, "missing_windows": missing}
    assert summary["coverage_permille"] == 1000 * windows // (windows + missing)
    assert shown.count["bundles"][0]["summary"] == summary
    shown.everywhere("1 outages with 2 missing windows, coverage 99.2 %", "99.2")


def test_gateways_enrolled_and_shown(shown: Printed) -> None:
    assert shown.verify["summary"]["gateways"]["enrolled"] == 2
    (one,) = shown.count["enterprises"]
    assert (one["enrolled"], one["shown"], one["others"][0]["site"]) == (2, 1, "shed")
    hidden = one["others"][0]["gateway"]
    shown.everywhere("2 gateways exist, 1 shown here", "共有网关 2 个，此处出示 1 个", but=("verify",))
    assert "2 enrolled, 1 shown here" in shown.texts["verify en"]
    shown.everywhere(f"{hidden} at shed (enrolled)", f"{hidden}，位于 shed（已登记）")


def test_delay_to_co_signature(shown: Printed) -> None:
    delay = shown.verify["summary"]["delay_s"]
    assert delay["max"] == 47 * 3600 + 30 and 0 < delay["median"] < delay["max"]
    shown.everywhere(f"median {delay['median']} s, largest {delay['max']} s; until then the operator could choose",
                     f"{delay['max']}")


def test_what_the_enterprise_declares(shown: Printed) -> None:
    declared = shown.count["figures"]["declared"]
    assert {"class", "industry", "deployment", "region", "received"} <= set(declared)
    assert set(shown.count["figures"]["splits"]) <= set(declared) | {"class_level_1"}
    shown.everywhere("declared by the enterprise", "申报")
    for name in ("count en", "audit en", "report en"):
        line = next(text for text in shown.texts[name].splitlines() if "declared by the enterprise, not proven" in text)
        for what in ("class", "industry", "deployment", "time of receipt"):
            assert what in line
    # In the report it stands beside the splits themselves.
    assert shown.texts["report en"].count("(declared by the enterprise)") == 4
    assert shown.texts["report zh"].count("(企业申报)") == 4
    assert "limit.declared" in shown.verify["summary"]["limits"]


def test_openings_demanded_and_not_answered(shown: Printed) -> None:
    summary = shown.verify["summary"]
    assert (summary["openings"]["demanded"], summary["openings"]["answered"]) == (2, 1)
    shown.everywhere("2 devices were demanded to be opened, 1 of them are", "2")


def test_points_before_and_after_folding(shown: Printed) -> None:
    points = shown.count["figures"]["points"]
    assert (points["counted"], points["folded"]) == (17, 2)
    assert shown.audit["count"]["figures"]["points"] == points
    shown.everywhere("17 of counted devices, 2 after folding", "17", but=("verify", "report"))
    for lang, heads in (("en", ("counted", "after folding")), ("zh", ("计入", "合并后"))):
        text = shown.texts[f"report {lang}"]
        assert '<td class="n">17</td><td class="n">2</td>' in text
        assert all(head in text for head in heads), lang


def test_levels_are_never_one_number_alone(shown: Printed) -> None:
    assert sum(shown.count["levels"]["devices"].values()) == shown.count["figures"]["devices"]["counted"]


def test_a_revocation_and_a_wrong_clock_are_printed_everywhere(tmp_path: Path,
                                                              run_command: Callable[[list[str]], str]) -> None:
    plant = Plant(tmp_path)
    plant.device()
    gateway = plant.gateway
    plant.begin()
    gateway.window(clock={"source": "system", "offset_ms": 0, "step_ms": -5000})
    gateway.window()
    plant.cosign()
    at_s = gateway.now_s
    size = len(gateway.entries)
    gateway.window()
    revocation = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": public(gateway.name).hex(),
                                            "from_size": size}, key_of(f"recovery {gateway.name}"))
    plant.world.add({"type": "revoke", "revocation": revocation})
    plant.cosign(300)
    shown = printed(tmp_path, plant.write(), plant.policy(), at_s, run_command)
    shown.everywhere(f"Revoked from entry {size} on: 2 windows before that stand with their brackets, 1 entries behind",
                     f"自第 {size} 条起已吊销：此前 2 个窗口")
    shown.everywhere("2 of these windows were co-signed before that", "其中 2 个窗口在此之前已被联署")
    shown.everywhere("The gateway's clock was set in 1 windows, by up to 5000 ms", "最多 5000 毫秒")
    assert shown.audit["count"]["bundles"][0]["summary"]["revocation"]["windows"] == {
        "standing": 2, "cosigned_before": 2}


def test_a_self_made_certificate(tmp_path: Path, run_command: Callable[[list[str]], str]) -> None:
    """A plant without a platform: its own recovery key signed. With a platform nothing of the kind is said."""
    world = World(witnesses=())
    gateway = world.gateway("lone", enrol=False, signer="recovery lone")
    shown = _lone(tmp_path, world, gateway, run_command)
    assert "limit.self_made" in shown.verify["summary"]["limits"]
    assert "limit.self_made" in shown.count["limits"]
    shown.everywhere("self-made", "自签")


def test_a_certificate_of_the_platform_is_not_self_made(shown: Printed, tmp_path: Path,
                                                        run_command: Callable[[list[str]], str]) -> None:
    assert "limit.self_made" not in shown.verify["summary"]["limits"]
    assert not any("self-made" in text for name, text in shown.texts.items() if name.endswith("en"))
    world = World(witnesses=())
    # Listed in the policy, and yet certified by the platform.
    listed = _lone(tmp_path, world, world.gateway("lone", enrol=False), run_command)
    assert "limit.self_made" not in listed.verify["summary"]["limits"]


def _lone(folder: Path, world: World, gateway: Gateway, run: Callable[[list[str]], str]) -> Printed:
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    key = note.VerifierKey(keys.gateway_origin(gateway.id), note.ED25519, public("lone"))
    (folder / "policy.json").write_text(json.dumps({"gateways": [str(key)], "platform": public("platform").hex()}))
    write_bundle(folder / "lone.tally", {n: d for n, d in gateway.members().items() if not n.startswith("register/")})
    return printed(folder, folder / "lone.tally", folder / "policy.json", gateway.now_s, run)
