"""Samples to the nanosecond, from files, beside a slow count in plain Python."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import VerificationError
from tallystick.__main__ import main
from verifier.conformance import raw
from verifier.raw.gaps import Tally, count_gaps

NS, START_S, LEN_S = 10**9, 1_800_000_000, 60
SCHEMA = json.loads((Path(__file__).parents[4] / "docs/schemas/gaps.schema.json").read_text(encoding="utf-8"))
Sample = tuple[int, int]


def slowly(samples: list[Sample], begin_ns: int, end_ns: int, over_ns: int) -> list[tuple[int, ...]]:
    """Return point, samples, repeated, longest gap, where it begins, gaps, silence, of each point."""
    result = []
    for point in sorted({p for p, _ in samples}):
        times = sorted(at for p, at in samples if p == point)
        told = sorted(set(times))
        gaps = [(b - a, a) for a, b in pairwise([begin_ns, *told, end_ns])]
        longest = max(gap for gap, _ in gaps)
        over = [gap for gap, _ in gaps if gap > over_ns]
        result.append((point, len(times), len(times) - len(told), longest,
                       next(a for gap, a in gaps if gap == longest) if longest else 0, len(over), sum(over)))
    return result


def as_tuples(found: Any) -> list[tuple[int, ...]]:
    return [(p.point, p.samples, p.repeated, p.longest_ns, p.longest_from_ns, p.gaps, p.silent_ns) for p in found]


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.tuples(st.sampled_from([0, 1, 2, 9_000, 359_999]), st.integers(0, 30)), max_size=30),
                      max_size=4), over=st.integers(0, 40))
def test_a_tally_equals_a_slow_count(parts: list[list[Sample]], over: int) -> None:
    begin = START_S * NS
    tally = Tally(begin_ns=begin, over_ns=over)
    samples = []
    for number, part in enumerate(parts):
        rows = [(point, begin + 40 * number + at) for point, at in part]
        samples += rows
        tally.add(*(np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1)))
    end = begin + 40 * len(parts)
    assert as_tuples(tally.end(end)) == slowly(samples, begin, end, over)


def sample(window: int, point: int, at_ns: int, **changes: Any) -> dict[str, Any]:
    start_s = START_S + LEN_S * window
    return {"window_s": start_s, "kind": "sample", "slot": point, "received_ns": start_s * NS + at_ns, "source_ns": 0,
            "value": 1.0, "quality": 0} | changes


def segment(path: Path, windows: range, samples: list[dict[str, Any]], groups: int = 1) -> Path:
    rows = []
    for number in windows:
        start_s = START_S + LEN_S * number
        mine = [row for row in samples if row["window_s"] == start_s]
        rows += [{"window_s": start_s, "kind": "window", "count": len(mine)}, *mine]
    path.write_bytes(raw.write(path, rows, groups=groups))
    return path


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, LEN_S * NS - 1)), max_size=40),
       groups=st.integers(1, 6))
def test_files_equal_a_slow_count_however_they_are_cut(rows: list[tuple[int, int, int]], groups: int,
                                                       tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gaps")
    samples = [sample(*row) for row in rows]
    files = [segment(folder / "b.parquet", range(2, 4), samples, groups),
             segment(folder / "a.parquet", range(2), samples, groups)]
    found = count_gaps(files, 10 * NS)
    begin, end = START_S, START_S + 4 * LEN_S
    assert (found.begin_s, found.end_s, found.windows) == (begin, end, 4)
    assert as_tuples(found.points) == slowly([(s["slot"], s["received_ns"]) for s in samples], begin * NS, end * NS,
                                             10 * NS)


@pytest.mark.parametrize("groups", [1, 2, 7, 300])
def test_windows_that_go_on_in_the_next_row_group_and_files_of_many_hours(groups: int, tmp_path: Path) -> None:
    samples = [sample(window, at % 2, at * NS) for window in range(200) for at in range(5)]
    found = count_gaps([segment(tmp_path / "a.parquet", range(200), samples, groups)], 55 * NS)
    assert as_tuples(found.points) == slowly([(s["slot"], s["received_ns"]) for s in samples], START_S * NS,
                                             (START_S + 200 * LEN_S) * NS, 55 * NS)


def test_a_single_window_ends_with_its_newest_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample(0, 0, 1 * NS), sample(0, 1, 2 * NS), sample(0, 1, 50 * NS + 1)]
    path = segment(tmp_path / "a.parquet", range(1), samples)
    found = count_gaps([path], 40 * NS)
    assert (found.begin_s, found.end_s, found.windows) == (START_S, START_S + 51, 1)
    assert as_tuples(found.points) == slowly([(s["slot"], s["received_ns"]) for s in samples], START_S * NS,
                                             (START_S + 50) * NS + 1, 40 * NS)
    assert main(["gaps", str(path)]) == 0
    assert capsys.readouterr().out.startswith("1 window, from 2027-01-15T08:00:00Z; ")
    empty = count_gaps([segment(tmp_path / "b.parquet", range(1), [])], NS)
    assert (empty.begin_s, empty.end_s, empty.points) == (START_S, START_S, ())


def test_two_windows_far_apart_are_not_taken_for_hours(tmp_path: Path) -> None:
    """Each is all that is left of its file; the second one's hour is over after 20 minutes."""
    paths = [segment(tmp_path / f"{at}.parquet", range(at, at + 1), [sample(at, 0, 1 * NS)]) for at in (0, 340)]
    found = count_gaps(paths, 400 * NS)
    assert (found.begin_s, found.end_s, found.windows) == (START_S, START_S + 6 * 3600, 2)
    assert [(one.gaps, one.silent_ns) for one in found.points] == [(2, 21_599 * NS)]


def test_what_does_not_count_is_left_out_and_told(tmp_path: Path) -> None:
    odd = [sample(0, 0, 0, quality=0x80), sample(0, 0, 1, quality=2), sample(1, 0, -1), sample(1, 0, 3601 * NS),
           sample(0, -1, 5), sample(0, 360_000, 5), sample(0, -1, 5, quality=0x82), sample(1, 0, 7, quality=1)]
    found = count_gaps([segment(tmp_path / "a.parquet", range(2), odd)], NS)
    assert found.left_out == {"not_live": 1, "bad_quality": 1, "outside_window": 2, "unknown_point": 3}
    assert [(p.point, p.samples) for p in found.points] == [(0, 1)]


@pytest.mark.parametrize(("windows", "code"), [
    (range(1, 3), "raw.overlap"), (range(0), "raw.no_windows"), (range(2, 4_010), "raw.too_many_windows")])
def test_files_that_cannot_stand_together(tmp_path: Path, windows: range, code: str) -> None:
    files = [segment(tmp_path / "a.parquet", range(2), []), segment(tmp_path / "b.parquet", windows, [])]
    with pytest.raises(VerificationError) as caught:
        count_gaps(files, NS)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_windows_that_go_back_are_refused(tmp_path: Path) -> None:
    rows = [sample(1, 0, 0), sample(0, 0, 0), {"window_s": START_S, "kind": "window", "count": 1}]
    path = tmp_path / "a.parquet"
    raw.write(path, [rows[2], rows[0], rows[1]], groups=3)
    with pytest.raises(VerificationError) as caught:
        count_gaps([path], NS)
    assert [problem.code for problem in caught.value.problems] == ["raw.order"]


def test_samples_behind_their_window_are_counted_well_or_refused(tmp_path: Path) -> None:
    """Nothing may depend on how a file is cut into row groups."""
    odd = [sample(0, 0, 1 * NS), sample(0, 0, 90 * NS), sample(1, 0, 10 * NS), sample(2, 0, 1 * NS)]
    whole = count_gaps([segment(tmp_path / "a.parquet", range(3), odd)], NS)
    assert as_tuples(whole.points) == slowly([(s["slot"], s["received_ns"]) for s in odd], START_S * NS,
                                             (START_S + 3 * LEN_S) * NS, NS)
    with pytest.raises(VerificationError) as caught:
        count_gaps([segment(tmp_path / "b.parquet", range(3), odd, groups=6)], NS)
    assert [problem.code for problem in caught.value.problems] == ["raw.order"]


def test_the_command_names_the_longest_silences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample(window, point, at * NS) for window in range(3) for point in range(3)
               for at in range(0, 60, 10) if not (point == 1 and window == 1)]
    path = segment(tmp_path / "raw-x.parquet", range(3), [*samples, sample(0, 2, 0)])
    assert main(["gaps", str(path), "--over", "30", "--most", "2"]) == 1
    out = capsys.readouterr().out
    assert re.match(r"[0-9]+ windows, 2027-01-15T08:00:00Z to 2027-01-15T", out)
    first = next(line for line in out.splitlines() if line.split()[:1] == ["1"])
    assert first.split() == ["1", "12", "0", "70.000", "2027-01-15T08:00:50Z", "1", "70.000"]
    assert not any(line.split()[:1] == ["0"] for line in out.splitlines())
    assert main(["gaps", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, SCHEMA)
    assert told["samples"] == 49 and told["repeated"] == 1
    assert [point["point"] for point in told["points"]] == [1, 0, 2]
    assert main(["gaps", str(path), "--lang", "zh"]) == 0
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    assert main(["gaps", str(tmp_path / "no.parquet")]) == 2
    assert main(["gaps", str(tmp_path / "not-there.parquet")]) == 2
    assert "Traceback" not in capsys.readouterr().err
