"""Commands of a gateway that stands: run it, ask how it is, change its keys, hand out its evidence."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.console import config_argument, load, note, print_json
from protocols.terms.say import Say

if TYPE_CHECKING:
    from config.gateway import GatewayConfig
    from gateway.commissioning.status import Status

LISTED_MAX = 20
LATER: dict[str, tuple[str, ...] | None] = {
    "influxdb_client": None, "influxdb_client.domain": None, "influxdb_client.service": None, "asyncua": ("Server",)}
NEVER = ("pyarrow._azurefs", "pyarrow._gcsfs", "pyarrow._hdfs", "pyarrow._s3fs")
"""What libraries load at their first import and a gateway does not use: 20 MB. Stores of clouds are none of its."""


# status


def status_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick status`."""
    config_argument(parser, say, has_json=True)


def status_command(args: argparse.Namespace, say: Say) -> int:
    """Print what counts and what does not, and why. 0 the gateway runs, 1 it does not."""
    import time

    from gateway.commissioning.state import State
    from gateway.commissioning.status import read_status
    from protocols.errors import EvidenceError, Problem

    config = load(args)
    status = read_status(State(config.state_dir), now_s=int(time.time()))
    if status is None:
        raise EvidenceError(Problem.of(config.file.name, "commissioning.never_ran", config=config.file.name))
    if args.json:
        print_json({**status.body, "running": status.running})
    else:
        print("\n".join(_status_lines(status, say)))
        print("\n".join(_disk_lines(config, status, say)))
    return 0 if status.running else 1


def _disk_lines(config: GatewayConfig, status: Status, say: Say) -> list[str]:
    """Return what the state folder takes now, by kind, and what is kept of raw data."""
    from gateway.commissioning.state import State
    from gateway.keeping.retention import log_in_force, use_of

    state = State(config.state_dir)
    use = use_of(config.state_dir, log_in_force(state.journal_dir))
    used_mb, budget_mb = sum(use.values()) / 2**20, config.limits.disk_budget_mb
    lines = [say("commissioning.disk" if used_mb <= budget_mb else "commissioning.disk_over", budget_mb=budget_mb,
                 used_mb=f"{used_mb:.1f}"),
             "  " + say("keep.use", **{kind: f"{size / 2**20:.1f}" for kind, size in use.items()})]
    keep = status.body.get("keep")
    if keep is not None:
        lines.append(say("keep.status_full" if keep["full"] else "keep.status", files=keep["files"],
                         megabytes=f"{keep['bytes'] / 2**20:.1f}", budget_mb=config.keep.budget_mb,
                         days=config.keep.retain_days, kept=keep["windows_kept"], lost=keep["windows_not_kept"]))
    return lines


def _status_lines(status: Status, say: Say) -> list[str]:
    from datetime import datetime

    from protocols.terms.table import render

    body = status.body
    written = datetime.fromtimestamp(body["written_s"]).astimezone().isoformat(sep=" ")
    lines = [say("commissioning.running" if status.running else "commissioning.not_running", written=written,
                 age_s=status.age_s), ""]
    lines.append(say("commissioning.counted", counted=status.counted, configured=status.configured,
                     others=len(status.not_counted)))
    if status.not_counted:
        header = [say(f"commissioning.column.{name}") for name in ("device", "name", "reason")]
        lines += render(header, [[str(row["id"]), str(row["name"]), say(f"commissioning.reason.{row['reason']}")]
                                 for row in status.not_counted])
    window, log = body["window"], body["log"]
    lines += ["", say("commissioning.window", received=window["received"], counted=window["counted"],
                      len_s=body["len_s"])]
    discarded = {reason: n for reason, n in window["discarded"].items() if n}
    if discarded:
        lines.append(say("commissioning.discarded", listed=", ".join(f"{r} {n}" for r, n in discarded.items())))
    if log["proven"] is None:
        lines.append(say("web.evidence.log_alone", size=log["size"]))
    elif log["submitted"] is None:  # it has not answered yet, or answers no more
        lines.append(say("commissioning.log_alone", size=log["size"], proven=log["proven"]))
    else:
        lines.append(say("commissioning.log", size=log["size"], submitted=log["submitted"], proven=log["proven"]))
    lines += _said_lines(body.get("said"), say)
    lines += _probing_lines(body.get("probing"), say)
    lines += _identity_lines(body.get("identity"), say)
    events = body.get("events", [])[-10:]
    if events:
        lines += ["", say("commissioning.events"), *(f"  {_event_line(event, say)}" for event in events)]
    return lines


def _said_lines(said: dict[str, Any] | None, say: Say) -> list[str]:
    """What others said about this gateway in the register; nothing for a plant without a platform."""
    import time

    if not said:
        return []
    lines = []
    if said["revoked_from"] is not None:
        lines += ["", say("statements.status_revoked", from_size=said["revoked_from"])]
    if said["demands"]:
        lines += ["", say("statements.status_demands")]
    for demand in said["demands"]:
        if not demand["slots"] and not demand["hours"]:
            lines.append(say("statements.status_announced", index=demand["index"],
                             instant=_local(demand["deadline_s"], say)))
            continue
        code = "statements.status_open" if demand["deadline_s"] > time.time() else "statements.status_over"
        lines.append(say(code, index=demand["index"], deadline=_local(demand["deadline_s"], say),
                         slots=_few([str(slot) for slot in demand["slots"]]),
                         hours=_few([_local(hour, say) for hour in demand["hours"]])))
    return lines


def _few(items: list[str]) -> str:
    return ", ".join(items[:LISTED_MAX]) + (f", ... ({len(items)})" if len(items) > LISTED_MAX else "") or "-"


def _probing_lines(probing: dict[str, Any] | None, say: Say) -> list[str]:
    """What the last challenges and reads gave; nothing for the file of an older version."""
    from protocols.terms.table import render

    if not probing:
        return []
    if probing["servers"]:
        header = [say(f"probing.column.{name}") for name in ("server", "connections", "asked", "answered", "result")]
        lines = ["", say("probing.status"), *render(header, [
            [str(server["server"])[:16], ", ".join(server["connections"]), _local(server["asked_s"], say),
             _local(server["answered_s"], say), say(server["code"], **server["args"]) if server["code"] else "-"]
            for server in probing["servers"]])]
    else:
        lines = ["", f"{say('probing.status')} {say('probing.status_none', why=say('probing.why.' + probing['why']))}"]
    if probing["reads"]:
        last = probing["reads"]
        lines.append(say("probing.reads", answered=last["answered"], rows=last["rows"], seq=last["seq"],
                         start=_local(last["start_s"], say)))
    return lines


def _identity_lines(identity: dict[str, Any] | None, say: Say) -> list[str]:
    """What devices show of themselves that does not fit the ledger; nothing for the file of an older version."""
    if not identity or not identity["findings"]:
        return []
    lines = ["", say("identity.status", asked=_local(identity["asked_s"], say))]
    lines += [f"  {say(finding['code'], **finding['args'])}" for finding in identity["findings"][:LISTED_MAX]]
    more = len(identity["findings"]) - LISTED_MAX + identity["more"]
    return [*lines, f"  {say('identity.more', more=more)}"] if more > 0 else lines


def _local(time_s: int | None, say: Say) -> str:
    from datetime import datetime

    if time_s is None:
        return say("probing.never")
    try:
        return datetime.fromtimestamp(time_s).astimezone().isoformat(sep=" ")
    except (ValueError, OverflowError):  # a deadline that no calendar has
        return f"{time_s} s"


def _event_line(event: dict[str, Any], say: Say) -> str:
    from datetime import datetime

    at = datetime.fromtimestamp(event["time_s"]).astimezone().isoformat(sep=" ")
    told = say(event["code"], **{"where": event["where"], **event["args"]}) if "args" in event else event["message"]
    return f"{at}  {event['where']}: {told}"


# rotate, revoke


def rotate_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick rotate`."""
    config_argument(parser, say)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("statements.rotate_example")


def rotate_command(args: argparse.Namespace, say: Say) -> int:
    """Change the key of a gateway that is stopped; print the new public key."""
    import asyncio

    from gateway.commissioning.rotation import rotate
    from gateway.commissioning.state import State

    config = load(args)

    def tell(code: str, where: str, **details: object) -> None:
        note(f"{where}: {say(code, where=where, **details)}")

    done = asyncio.run(rotate(config, State(config.state_dir), tell))
    note(say("statements.rotated", seq=done.seq, old=done.old_key))
    if done.compared is False:
        note(say("statements.rotated_unasked"))
    print(done.new_key)
    return 0


def revoke_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick revoke`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("statements.revoke_example")
    parser.add_argument("config", metavar="CONFIG", type=Path, nargs="?", help=say("commissioning.help.config"))
    parser.add_argument("--gateway", metavar="ID", help=say("statements.help.revoke_gateway"))
    parser.add_argument("--recovery-key", metavar="FILE", type=Path, help=say("statements.help.recovery_key"))
    parser.add_argument("--gateway-key", metavar="HEX", help=say("statements.help.revoke_key"))
    parser.add_argument("--from-size", metavar="N", type=int, help=say("statements.help.revoke_size"))
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True,
                        help=say("statements.help.revoke_output"))
    parser.add_argument("--submit", action="store_true", help=say("statements.help.revoke_submit"))
    parser.add_argument("--platform", metavar="URL", help=say("statements.help.revoke_platform"))
    parser.add_argument("--ca-file", metavar="FILE", type=Path, help=say("statements.help.revoke_ca"))


def revoke_command(args: argparse.Namespace, say: Say) -> int:
    """Sign a revocation with the recovery key, write it, and submit it if asked to."""
    import asyncio

    from gateway.commissioning.revocation import revoke

    return asyncio.run(revoke(args, None if args.config is None else load(args), say, note))


# bundle, run


def bundle_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick bundle`."""
    config_argument(parser, say)
    parser.add_argument("--from", dest="first", metavar="TIME", help=say("commissioning.help.from"))
    parser.add_argument("--to", dest="end", metavar="TIME", help=say("commissioning.help.to"))
    parser.add_argument("--open", dest="shown", metavar="none|all|SLOT,...", default="none",
                        help=say("commissioning.help.open"))
    parser.add_argument("-o", "--out", metavar="X.tally", type=Path, required=True,
                        help=say("commissioning.help.bundle_out"))


def bundle_command(args: argparse.Namespace, say: Say) -> int:
    """Write the evidence of an interval, with the newest proofs that can be had."""
    import asyncio

    from gateway.commissioning import export
    from gateway.commissioning.state import State

    config = load(args)
    first_s = None if args.first is None else export.instant(args.first, "--from")
    end_s = None if args.end is None else export.instant(args.end, "--to")

    def tell(code: str, where: str, **details: object) -> None:
        note(f"{where}: {say(code, where=where, **details)}")

    if not asyncio.run(export.fetch_proofs(config, State(config.state_dir), tell)):
        note(say("commissioning.kept_proofs" if config.platform is not None else "commissioning.no_proofs"))
    written = export.write(config, args.out, first_s, end_s, args.shown)
    note(say("commissioning.bundled", windows=written.windows, size=written.size, heads=written.heads,
              proven=written.proven))
    print(args.out)
    return 0


def run_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick run`."""
    config_argument(parser, say)


def run_command(args: argparse.Namespace, say: Say) -> int:
    """Run the gateway until SIGTERM or SIGINT."""
    from protocols import on_demand, system

    system.frugal_memory()
    on_demand.load_on_demand(LATER)
    on_demand.leave_out(NEVER)
    config = load(args)
    return system.run(_run(config, say))


async def _run(config: GatewayConfig, say: Say) -> int:
    """Run until a signal comes; a second one changes nothing, as the stop is bounded in time."""
    import asyncio

    from gateway.agent import run_gateway
    from protocols import system

    def ready() -> None:
        note(say("commissioning.ready", config=config.file.name, devices=len(config.devices),
                  points=len(config.points)))
        system.tell_service_manager("READY=1")

    work = asyncio.create_task(run_gateway(config, say, ready))
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        system.tell_service_manager("STOPPING=1")
        work.cancel()

    with system.stopping(stop):
        try:
            await work
        except asyncio.CancelledError:
            if not stopping:
                raise
    note(say("commissioning.stopped"))
    return 0


# reload


def reload_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick reload`."""
    config_argument(parser, say)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("reload.help_example")


def reload_command(args: argparse.Namespace, say: Say) -> int:
    """Check the files, have the running gateway take them over, and print what it did. 0 taken over, 1 not."""
    import time

    from gateway import reload
    from gateway.commissioning.state import State

    config = load(args)
    if not reload.is_running(State(config.state_dir).journal_dir):
        note(say("reload.not_running"))
        return 1
    number = reload.ask(config.state_dir)
    until_s = time.monotonic() + reload.ANSWER_S
    while (found := reload.answered(config.state_dir, number)) is None and time.monotonic() < until_s:
        time.sleep(0.1)
    if found is None:
        note(say("reload.no_answer", seconds=reload.ANSWER_S))
        return 1
    for problem in found["problems"]:
        note(f"{problem['where']}: {say(problem['code'], where=problem['where'], **problem['args'])}")
    print(say(found["code"], **found["args"]))
    return 0 if found["ok"] else 1
