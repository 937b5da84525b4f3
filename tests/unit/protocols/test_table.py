"""Tables for a terminal."""

from __future__ import annotations

from protocols.terms.table import render, width


def test_columns_stand_below_each_other_also_in_chinese() -> None:
    lines = render(["设备", "name", "x"], [["a", "冲压机", "1"], ["abcdef", "n", "2"], ["y" * 100, "\x1b[31m", "3"]])
    assert len({width(line[:-1]) for line in lines}) == 1
    assert all(line.isprintable() for line in lines)


def test_numbers_stand_at_the_right_also_below_a_chinese_heading() -> None:
    assert render(["点位", "n"], [["7", "12345"], ["12345", "8"]], indent="", numbers=True) == [
        " 点位      n", "    7  12345", "12345      8"]
