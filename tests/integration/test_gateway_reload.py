"""A running gateway takes over a changed configuration: what did not change keeps its session, a bad file its peace."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import pytest

from tests.support.platform_process import tallystick
from tests.support.processes import (
    DEVICE_COLUMNS,
    POINT_COLUMNS,
    GatewayFiles,
    covered_once,
    device,
    entries_of,
    export,
    modbus_connection,
    modbus_device,
    own_policy,
    point,
    running_gateway,
    until,
    verdict,
    write_gateway,
)


def add(files: GatewayFiles, table: str, row: dict[str, str]) -> None:
    with (files.config.parent / f"{table}.csv").open("a", encoding="utf-8", newline="") as file:
        csv.DictWriter(file, DEVICE_COLUMNS if table == "devices" else POINT_COLUMNS, restval="").writerow(row)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_a_changed_configuration_comes_in_force_without_a_restart(tmp_path: Path) -> None:
    with modbus_device() as first, modbus_device() as second:
        files = write_gateway(
            tmp_path / "gateway", devices=[device("a", "one"), device("b", "two")],
            points=[point("a", "p", "1/holding/0", "uint16"), point("b", "p", "1/holding/0", "uint16")],
            connections="".join(modbus_connection(name, line.port) for name, line in (("one", first), ("two", second))))
        tallystick("enrol", files.config, "--self")
        assert tallystick("reload", files.config, check=False).returncode == 1  # nobody runs
        with running_gateway(files) as gateway:
            gateway.until(lambda s: s["devices"]["counted"] == 2, "two count")

            # One more machine behind the second connection.
            add(files, "devices", device("c", "two"))
            add(files, "points", point("c", "p", "2/holding/0", "uint16"))
            done = tallystick("reload", files.config)
            assert "two" in done.stdout and "3" in done.stdout
            gateway.until(lambda s: s["devices"]["counted"] == 3, "three count")
            assert (first.connections, second.connections) == (1, 2)

            # What a restart needs, and what is wrong: nothing changes, and the reason is told.
            files.edit("len_s = 1", "len_s = 2")
            refused = tallystick("reload", files.config, check=False)
            assert refused.returncode == 1 and "window" in refused.stdout
            files.edit("len_s = 2", "len_s = 1")
            good = (tmp_path / "gateway" / "points.csv").read_bytes()
            add(files, "points", point("c", "q", "2/holdin/0", "uint16"))
            wrong = tallystick("reload", files.config, check=False)
            assert wrong.returncode == 2 and "points.csv, line 5 (c/q), address" in wrong.stderr
            gateway.process.send_signal(signal.SIGHUP)
            gateway.until(lambda s: "reload.refused" in gateway.codes(), "the refusal is told")
            assert "points.csv, line 5 (c/q), address" in gateway.said()
            gateway.windows(1)

            # A machine goes, by signal; the connection that it had to itself ends.
            gone = b"a,p,1/holding/0,uint16,parameter,,,\r\n"
            assert gone in good
            (tmp_path / "gateway" / "points.csv").write_bytes(good.replace(gone, b""))
            ledger = tmp_path / "gateway" / "devices.csv"
            ledger.write_text("".join(line for line in ledger.read_text("utf-8").splitlines(keepends=True)
                                      if not line.startswith("a,")), encoding="utf-8")
            gateway.process.send_signal(signal.SIGHUP)
            gateway.until(lambda s: s["devices"]["configured"] == 2, "one has gone")
            seen = second.requests
            until(lambda: second.requests > seen + 5, "the other connection goes on")
            quiet, seen = first.requests, second.requests
            until(lambda: second.requests > seen + 5, "the other connection still goes on")
            assert first.requests == quiet, "nobody asks the machine that has gone"
            assert (first.connections, second.connections) == (1, 2)
            assert tallystick("reload", files.config).returncode == 0
            gateway.windows(1)
            assert gateway.end() == 0
        bundle = export(files, tmp_path / "x.tally")
        entries = entries_of(bundle)
        assert covered_once(entries) == []
        rosters = [entry for entry in entries if entry["type"] == "roster"]
        assert [(r["devices"], r["points"], r["ledger"]["rows"]) for r in rosters] == [(2, 2, 2), (3, 3, 3), (3, 3, 2)]
        assert len({r["ledger"]["sha256"] for r in rosters}) == 3
        discarded = [e["samples"]["discarded"] for e in entries if e["type"] == "window"]
        assert sum(n for found in discarded for reason, n in found.items() if reason != "late") <= 2, discarded
        assert verdict(bundle, own_policy(files, tmp_path))["verdict"] == "valid"
