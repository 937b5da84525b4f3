"""An auditor demands a device and asks for raw data; the gateway opens them; every window comes out once more.

A platform takes demands of hours that are over only, and no test waits for one: how hours answer a demand is told in
tests/unit/verifier/raw.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.commissioning.export import shown_time
from tests.integration.test_gateway_faults import counts, is_sent, small_gateway
from tests.support.platform_process import platform_file, set_up, start_platform, tallystick, token
from tests.support.processes import USCC, entries_of, export, modbus_device, running_gateway

HOUR_S = 3600


def judged(bundle: Path, policy: Path, *also: str) -> tuple[int, dict[str, Any]]:
    done = tallystick("verify", bundle, "--policy", policy, "--json",
                      *(part for file in also for part in ("--also", file)), check=False)
    return done.returncode, json.loads(done.stdout)


def test_an_hour_is_demanded_opened_and_counted_again(tmp_path: Path) -> None:
    auditor = tallystick("sign", "key", "-o", tmp_path / "auditor.pem").stdout.strip()
    services = set_up(tmp_path, witnesses=1)
    try:
        file = platform_file(tmp_path)
        text = file.read_text()
        assert "# [statements]" in text
        file.write_text(text.replace("# [statements]", f'[statements]\nauditors = ["{auditor}"]'))
        services.append(start_platform(tmp_path))
        url = services[-1].url
        policy = tmp_path / "policy.json"
        tallystick("platform", "policy", file, "-o", policy)
        with modbus_device() as line:
            files = small_gateway(tmp_path / "gateway", line.port, more=(
                f'[platform]\nurl = "{url}"\nregister_poll_s = 1.0\n[keep]\nraw = true\nretain_days = 2\n'))
            tallystick("enrol", files.config, "--token", token(tmp_path, USCC))
            with running_gateway(files) as gateway:
                counts(gateway, 2)
                gateway.until(is_sent, "its windows are at the platform")
                assert gateway.end() == 0
            demand = ("sign", "demand", "--gateway", files.id, "--slots", "0", "--deadline", "2099-01-01", "--key",
                      tmp_path / "auditor.pem", "-o", tmp_path / "demand.json")
            tallystick(*demand)
            tallystick("sign", "submit", tmp_path / "demand.json", "--platform", url)
            with running_gateway(files) as gateway:
                gateway.until(lambda status: status["said"]["demands"], "the gateway learns of it")
                assert gateway.end() == 0
            shown = tallystick("status", files.config, check=False).stdout
            assert "Raw data: " in shown and "transcripts" in shown

        bundle = export(files, tmp_path / "x.tally")
        status, verdict = judged(bundle, policy)
        assert status == 0 and [d["state"] for d in verdict["summary"]["demands"]] == ["open"]
        assert verdict["summary"]["demands"][0]["slots"]["missing"] == [0]

        windows = [e for e in entries_of(bundle) if e["type"] == "window"]
        hours = sorted({e["start_s"] // HOUR_S * HOUR_S for e in windows})
        asked = ["open", files.config, "--demand", *(part for hour in hours for part in ("--hour", shown_time(hour)))]
        refused = tallystick(*asked, "-o", tmp_path / "opened", check=False)
        assert refused.returncode == 2 and "every process value" in refused.stderr
        written = tallystick(*asked, "--yes", "-o", tmp_path / "opened").stdout.split()
        status, verdict = judged(bundle, policy, *written)
        assert status == 0, verdict["findings"]
        kept = verdict["summary"]["kept"]
        assert [d["state"] for d in verdict["summary"]["demands"]] == ["answered"]
        assert kept["recounted"] == len(windows) and kept["opened"] == kept["entries"] >= 2

        # One byte of a file changed: it is not what was promised, and its windows are not counted again.
        raw = next(Path(name) for name in written if name.endswith(".parquet"))
        data = bytearray(raw.read_bytes())
        data[len(data) // 2] ^= 1
        raw.write_bytes(data)
        status, verdict = judged(bundle, policy, *written)
        assert status == 0 and verdict["summary"]["kept"]["recounted"] < len(windows)
        assert "kept.unknown" in {f["code"] for f in verdict["findings"]}
    finally:
        for service in reversed(services):
            service.kill()
