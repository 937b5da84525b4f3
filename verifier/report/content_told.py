"""What the reports of an audit and of a count have in common: evidence, findings, limits, and how to check them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protocols.terms.say import Say
from verifier.commands import local_time
from verifier.report.document import Bullets, Column, Command, Paragraph, Row, Section, Table, Text
from verifier.report.document import shown as printable
from verifier.report.wording import Json, bundle_lines, enterprise_lines, finding, interval

FINDINGS_MAX = 50
"""Findings printed of one bundle that does not verify."""


class English:
    """The same run in English: for the English beside the Chinese."""

    lang = "en"

    def __init__(self, say: Say) -> None:
        self._say = say

    def __call__(self, code: str, /, **args: object) -> str:
        """Return the English sentence."""
        return self._say.english(code, **args)

    def english(self, code: str, /, **args: object) -> str:
        """Return the English sentence."""
        return self._say.english(code, **args)

    def explain(self, code: str, /) -> dict[str, str] | None:
        """Return what the run itself says."""
        return self._say.explain(code)

    def speaking(self, lang: str) -> Say:
        """Return the run in that language."""
        return self._say.speaking(lang)


class Told:
    """A report on its way: the JSON of a count, the language, and how many devices a list may have."""

    def __init__(self, count: Json, say: Say, rows_max: int) -> None:
        self.count, self.say, self.rows_max = count, say, rows_max

    def t(self, code: str, /, **args: object) -> Text:
        """Return a sentence."""
        return Text(self.say(code, **args))

    def covers(self) -> tuple[Row, ...]:
        """Return what a verdict covers and what not."""
        return self.fact("report.covers", self.t("report.covers.text")), self.fact(
            "report.covers_not", self.t("report.covers_not.text"))

    def instant_and_trust(self, at_s: int | None) -> list[Row]:
        """Return T, and on whose word the evidence rests, the weakest bundle included."""
        count, say = self.count, self.say
        at = [] if at_s is None else [Text(local_time(at_s))]
        if count["at"] is not None:
            at.append(Text(say("printed.counted_at", at=local_time(count["at"]["counted_s"]),
                               since=local_time(count["at"]["from_s"])), style="small"))
        valid = [bundle["summary"] for bundle in count["bundles"] if bundle["verdict"] == "valid"]
        invalid = len(count["bundles"]) - len(valid)
        sound = self.t("told.unsound", invalid=invalid) if invalid else self.t("told.sound", bundles=len(valid))
        resting = dict.fromkeys(f"verify.{kind}.{summary[kind]}" for summary in valid for kind in ("trust", "time"))
        return [*([self.fact("printed.at", *at)] if at else []),
                self.fact("printed.trust", sound, *map(self.t, resting))]

    def evidence(self) -> Section:
        """Return what each bundle is, covers and rests on, and which gateways are not shown."""
        rows = []
        for bundle in self.count["bundles"]:
            summary = bundle["summary"]
            rows += [self.fact("printed.site", Text(printable(summary["site"] or "—")),
                                Text(summary["gateway"] or bundle["sha256"][:12], style="mono")),
                     self.fact("printed.covered", Text(interval(bundle, self.say)))]
            if bundle["verdict"] == "valid":
                rows += [self.fact("printed.trust", self.t(f"verify.trust.{summary['trust']}"),
                                    self.t(f"verify.time.{summary['time']}")),
                         self.fact("printed.coverage", *map(Text, bundle_lines(bundle, self.say)))]
            else:
                rows.append(self.fact("printed.trust", self.t("audit.bundle_invalid")))
        rows += [self.fact("printed.gateways", *map(Text, enterprise_lines(enterprise, self.say)))
                 for enterprise in self.count["enterprises"]]
        return Section(key="evidence", title=self.t("report.section.evidence"), blocks=(
            Table(headed=False, columns=facts_columns(), rows=tuple(rows)),))

    def fact(self, code: str, *lines: Text) -> Row:
        """Return a row of facts: what it is, and what it says."""
        return Row(cells=((self.t(code),), lines))

    def findings(self, findings: Iterable[Json]) -> Section:
        """Return these findings and those of the count, and of a bundle that does not verify its faults."""
        columns = (Column(title=self.t("report.severity"), share=2), Column(title=self.t("report.finding"), share=16))
        items = sorted([*findings, *self.count["findings"]], key=lambda f: str(f["severity"]))
        rows = [self._finding(item, self.say(f"severity.{item['severity']}")) for item in items]
        for bundle in self.count["bundles"]:
            if bundle["verdict"] == "invalid":
                faults = [f for f in bundle["findings"] if f["severity"] == "fault"]
                rows += [self._finding(item, item["where"]) for item in faults[:FINDINGS_MAX]]
        return Section(key="findings", title=self.t("printed.section.findings"), blocks=(
            Table(columns=columns, rows=tuple(rows)) if rows else Paragraph((self.t("printed.no_findings"),)),))

    def _finding(self, item: Json, first: str) -> Row:
        return Row(mark="fault" if item["severity"] == "fault" else "", cells=(
            (Text(first),), (Text(finding(item, self.say)), Text(item["code"], style="mono"))))

    def limits(self) -> Section:
        """Return what this evidence cannot prove."""
        items = tuple(self.t(code) for code in self.count["limits"])
        return Section(key="limits", title=self.t("printed.section.limits"), blocks=(Bullets(items),))

    def check(self, code: str, sha256: str, command: str, meant: Text, files: Sequence[str],
              more: Sequence[Row] = ()) -> Section:
        """Return how to check the report offline. meant: what the command prints; files: of the digests, by name."""
        digests, bundles = self.count["digests"], self.count["bundles"]
        told = [("report.code", code), ("report.sha256", sha256),
                *(("printed.digest.bundle", bundle["sha256"]) for bundle in bundles),
                *((f"printed.digest.{name}", digests[name]) for name in files),
                *((f"report.digest.{name}", digests[name]) for name in ("explanations",) if digests[name])]
        return Section(key="check", title=self.t("printed.section.check"), blocks=(
            Paragraph((self.t("printed.check.text"),)), Command(command),
            Paragraph((meant, self.t("printed.check.verify"))),
            Table(headed=False, columns=facts_columns(), rows=(
                *(Row(cells=((self.t(name),), (Text(value or "—", style="mono"),))) for name, value in told), *more))))


def facts_columns() -> tuple[Column, ...]:
    """Return the columns of a table of facts: what it is, and what it says."""
    return (Column(title=Text(""), share=23, head=True), Column(title=Text(""), share=77))
