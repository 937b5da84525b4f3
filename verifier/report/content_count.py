"""The sections of a report that tell the count: figures at T, splits, charts, devices one by one, basis, limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from config.classification import load_classification
from protocols.terms.basis import NOT_COUNTED_REASONS
from protocols.terms.say import Say
from verifier.report import charts
from verifier.report.document import Block, Bullets, Cell, Chart, Column, Fold, Paragraph, Row, Section, Table, Text
from verifier.report.document import shown as printable
from verifier.report.wording import (
    Json,
    basis_rows,
    device_level,
    number,
    percent,
    presence_lines,
    protocols,
    running_days,
    sealed_lines,
)

DEVICE_STAGES = ("configured", "connected", "", "producing", "changing", "counted", "")
POINT_STAGES = ("configured", "", "sampled", "producing", "changing", "counted", "folded")
STAGES = tuple(a or b for a, b in zip(DEVICE_STAGES, POINT_STAGES, strict=True))
DAY_COLUMNS = 2
SPLITS = (("class", "printed.class"), ("city", "printed.city"), ("industry", "report.industry"),
          ("enterprise", "report.enterprises"), ("kind", "report.kinds"))
"""Divisions that are printed, each with its sum, which is the total. Kinds stand here by model, beside the classes."""

DIGEST_HEX = 64
DIGEST_CHARS = 12
"""A model is known by a digest, and has a name where a device of it is opened; so many characters are printed."""

CHARTED = ("class", "city")
PARTS_MAX = 60
"""Parts printed of one division; what is left out stands in one line, so that the sum is that of all."""


def figure_sections(count: Json, say: Say, rows_max: int) -> list[Section]:
    """Return the figures at T, split and drawn, and what does not count; without figures, that there are none."""
    told = _Count(count, say, rows_max)
    if not count["figures"]:
        nothing = Paragraph((told.t("printed.no_figures"),))
        return [Section(key="figures", title=told.t("printed.section.figures"), blocks=(nothing,))]
    return [told.figures(), told.splits(), told.not_counted()]


def device_sections(count: Json, say: Say, rows_max: int) -> list[Section]:
    """Return the devices that count, one by one."""
    return [_Count(count, say, rows_max).counted()] if count["figures"] else []


def basis_section(count: Json, say: Say) -> Section:
    """Return every parameter of the counting basis, with where it comes from."""
    return _Count(count, say, 0).basis()


class _Count:
    def __init__(self, count: Json, say: Say, rows_max: int) -> None:
        self.count, self.say, self.rows_max = count, say, rows_max
        self.classes = _class_names(say)

    def t(self, code: str, /, **args: object) -> Text:
        return Text(self.say(code, **args))

    def n(self, value: object) -> Cell:
        return (Text(number(value, self.say)),)

    def figures(self) -> Section:
        figures, say = self.count["figures"], self.say
        columns = (Column(title=Text(""), share=3, head=True), *(
            Column(title=self.t(f"stage.{stage}"), share=2, align="right") for stage in STAGES))
        rows = [Row(cells=((self.t(f"printed.{name}"),), *(self.n(figures[name][s]) if s else (Text("—"),)
                                                            for s in stages)))
                for name, stages in (("devices", DEVICE_STAGES), ("points", POINT_STAGES))]
        lines = [say("count.kinds", **figures["kinds"]),
                 say("count.protocols", at=protocols(figures["protocols"]["at"], say),
                     observed=protocols(figures["protocols"]["observed"], say)),
                 say("count.enterprises", enterprises=figures["enterprises"]),
                 say("count.windows", **figures["windows"]), *sealed_lines(figures["sealed"], say),
                 say("count.late_devices", devices=figures["late_devices"])]
        if figures["producing_permille"] is not None:
            lines.append(say("count.share", percent=percent(figures["producing_permille"])))
        lines += [*presence_lines(figures["presence"], say), say("count.declared")]
        left_out = sum(figures["not_counted"].values())
        told = say("printed.conservation", configured=number(figures["devices"]["configured"], say),
                   counted=number(figures["devices"]["counted"], say), not_counted=number(left_out, say))
        return Section(key="figures", title=self.t("printed.section.figures"), blocks=(
            Table(columns=columns, rows=tuple(rows)), Paragraph((Text(told),)),
            Bullets(tuple(Text(line) for line in lines)), *self._daily()))

    def _daily(self) -> list[Block]:
        days, say = self.count["figures"]["daily_running"], self.say
        if days is None:
            return []
        values = [charts.Value(day["date"][5:], day["devices"], self._day_figure(day),
                               "open" if day["devices"] is None else "solid" if day["whole"] else "hatched")
                  for day in days]
        columns = (Column(title=self.t("report.day"), share=5),
                   Column(title=self.t("printed.devices"), share=6, align="right")) * DAY_COLUMNS
        told = running_days(days, say)
        deep = -(-len(told) // DAY_COLUMNS)
        told += [("", "")] * (deep * DAY_COLUMNS - len(told))
        rows = [Row(cells=tuple((Text(text),) for part in range(DAY_COLUMNS) for text in told[line + part * deep]))
                for line in range(deep)]
        note = Text(say("report.chart.days.text"), style="small")
        return [charts.columns(self.t("report.chart.days"), values, (note,)),
                Fold(title=self.t("printed.days"), blocks=(Table(columns=columns, rows=tuple(rows)),))]

    def _day_figure(self, day: Json) -> str:
        if day["devices"] is None:
            return "?"
        return number(day["devices"], self.say) if day["whole"] else f"≥{number(day['devices'], self.say)}"

    def splits(self) -> Section:
        figures = self.count["figures"]
        blocks: list[Block] = []
        for by, title in SPLITS:
            parts = figures["groups"].get(by, ())
            if not parts or (by == "enterprise" and len(parts) == 1):
                continue
            if by in CHARTED:
                blocks.append(self._bars(parts, title))
            blocks.append(self._split(parts, title, declared=by in (*figures["declared"], "enterprise", "kind")))
        return Section(key="splits", title=self.t("report.section.splits"), blocks=tuple(blocks))

    def _bars(self, parts: Sequence[Json], title: str) -> Chart:
        values = [charts.Value(self._part(part), part["devices"], number(part["devices"], self.say),
                               "hatched" if part["key"] is None else "solid")
                  for part in sorted(parts, key=lambda part: (part["key"] is None, -part["devices"]))]
        return charts.bars(self.t(title), values)

    def _split(self, parts: Sequence[Json], title: str, *, declared: bool) -> Table:
        say = self.say
        head = say(title) + (f" ({say('printed.declared')})" if declared else "")
        columns = (Column(title=Text(head), share=5), *(
            Column(title=self.t(f"printed.{name}"), share=1, align="right") for name in ("devices", "points")))
        rows = [Row(cells=((Text(self._part(part)),), self.n(part["devices"]), self.n(part["points"])))
                for part in parts[:PARTS_MAX]]
        rest = parts[PARTS_MAX:]
        if rest:
            rows.append(Row(cells=((self.t("report.more_parts", count=len(rest)),), *(
                self.n(sum(part[name] for part in rest)) for name in ("devices", "points")))))
        total = sum(part["devices"] for part in parts)
        counted = self.count["figures"]["devices"]["counted"]
        held = say("report.sum_equals" if total == counted else "report.sum_differs", counted=number(counted, say))
        rows.append(Row(cells=((Text(f"{say('printed.sum')}（{held}）"),), self.n(total),
                               self.n(sum(part["points"] for part in parts))), mark="total"))
        return Table(columns=columns, rows=tuple(rows))

    def _part(self, part: Json) -> str:
        name, key = part["name_zh"], part["key"]
        if key is None:
            return str(name) if name and self.say.lang == "zh" else self.say("printed.no_class")
        if len(key) == DIGEST_HEX:
            return printable(str(name or f"{key[:DIGEST_CHARS]}…"))
        if not name or self.say.lang == "zh" or name == key:
            return printable(str(name or key))
        return printable(f"{name} ({key})")

    def not_counted(self) -> Section:
        left_out = [device for device in self.count["devices"] if device["reason"] is not None]
        title = self.t("printed.section.not_counted")
        if not left_out:
            return Section(key="not_counted", title=title, blocks=(Paragraph((self.t("printed.all_counted"),)),))
        by_reason = Counter(device["reason"] for device in left_out)
        reasons = sorted(by_reason, key=lambda reason: NOT_COUNTED_REASONS.index(reason))
        columns = (Column(title=self.t("printed.reason"), share=4),
                   Column(title=self.t("printed.devices"), share=1, align="right"))
        rows = [Row(cells=((self.t(f"reason.{reason}"),), self.n(by_reason[reason]))) for reason in reasons]
        rows.append(Row(cells=((self.t("printed.sum"),), self.n(len(left_out))), mark="total"))
        blocks: list[Block] = [Table(columns=columns, rows=tuple(rows))]
        room = self.rows_max
        for reason in reasons:
            devices = [device for device in left_out if device["reason"] == reason][:room]
            room -= len(devices)
            if devices:
                blocks.append(Fold(
                    title=Text(self.say("count.pair", name=self.say(f"reason.{reason}"),
                                        value=number(by_reason[reason], self.say))),
                    blocks=(self._devices(devices),), opened=by_reason[reason] <= self.rows_max // 4))
        return Section(key="not_counted", title=title, blocks=(*blocks, *self._notes(len(left_out))))

    def counted(self) -> Section:
        devices = [device for device in self.count["devices"] if device["reason"] is None]
        blocks: list[Block] = []
        listed = devices[: self.rows_max]
        for gateway in dict.fromkeys(device["gateway"] for device in listed):
            here = [device for device in listed if device["gateway"] == gateway]
            blocks.append(Fold(title=Text(f"{self.say('printed.gateway')} {gateway}"), blocks=(self._devices(here),)))
        return Section(key="counted", title=self.t("printed.section.counted"),
                       blocks=(*blocks, *self._notes(len(devices))))

    def _notes(self, count: int) -> list[Block]:
        lines = [Text(self.say("printed.names"), style="small")]
        if count > self.rows_max:
            lines.insert(0, self.t("report.truncated", shown=self.rows_max, count=count))
        return [Paragraph(tuple(lines))]

    def _devices(self, devices: Iterable[Json]) -> Table:
        columns = (Column(title=self.t("printed.gateway"), share=5),
                   Column(title=self.t("printed.slot"), share=3, align="right"),
                   Column(title=self.t("printed.device"), share=19), Column(title=self.t("report.class"), share=10),
                   Column(title=self.t("levels.heading"), share=9))
        return Table(columns=columns, rows=tuple(self._device(device) for device in devices), searched=True)

    def _device(self, device: Json) -> Row:
        unnamed = Text(self.say("printed.unnamed"), style="small")
        made = printable(f"{device['maker'] or ''} {device['model'] or ''}".strip())
        name: Cell = (Text("　".join(filter(None, (printable(device["name"]), made)))) if device["name"] else unnamed,)
        return Row(cells=((Text(device["gateway"][:8], style="mono"),), (Text(str(device["slot"])),), name,
                          (Text(self.classes.get(device["equipment_class"] or "", device["equipment_class"] or "—")),),
                          (Text(device_level(device, self.say), style="small"),)))

    def basis(self) -> Section:
        basis = self.count["basis"]
        columns = (Column(title=self.t("printed.parameter"), share=4), Column(title=self.t("printed.value"), share=5),
                   Column(title=self.t("printed.source"), share=4))
        rows = tuple(Row(cells=((Text(name),), (Text(value),), (Text(source, style="small"),)))
                     for name, value, source in basis_rows(basis, self.say))
        return Section(key="basis", title=self.t("printed.section.basis"), blocks=(
            Paragraph((self.t("count.basis", key=basis["key"], version=basis["version"]),)),
            Table(columns=columns, rows=rows)))


def _class_names(say: Say) -> dict[str, str]:
    if say.lang != "zh":
        return {}
    return {key: item.name_zh for key, item in load_classification("equipment_jx_b").classes.items()}
