"""What a report of an audit says, from the published JSON and nothing else: it can say nothing that the JSON does not.

Verdict first, then what was claimed, the rules, the findings and a place for the auditor's opinion: what a person
decides with stands on the first pages. The rest is for who asks further (`content_count.py`).
"""

from __future__ import annotations

from typing import Any

from protocols.terms.say import Say
from verifier.commands import local_time
from verifier.report import content_count
from verifier.report.content_machines import list_section, machines_section
from verifier.report.content_rules import Rules
from verifier.report.document import (
    Bullets,
    Column,
    Command,
    Document,
    Form,
    Paragraph,
    Row,
    Section,
    Table,
    Text,
    Verdict,
)
from verifier.report.document import beside as put_beside
from verifier.report.document import shown as printable
from verifier.report.identity import result_sha256, verification_code
from verifier.report.wording import Json, bundle_lines, enterprise_lines, finding, interval

FAULTS_MAX = 5
"""Faults told in the verdict itself; all of them stand among the findings."""

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


def report_document(result: Json, say: Say, *, rows_max: int, bilingual: bool = False) -> Document:
    """Return the report on an audit result (docs/schemas/audit.schema.json), with `rows_max` devices in each list."""
    sha256 = result_sha256(result)
    document = _Report(result, say, rows_max).document(sha256)
    if bilingual and say.lang != "en":
        return put_beside(document, _Report(result, English(say), rows_max).document(sha256))
    return document


class _Report:
    def __init__(self, result: Json, say: Say, rows_max: int) -> None:
        self.result, self.count, self.say, self.rows_max = result, result["count"], say, rows_max

    def t(self, code: str, /, **args: object) -> Text:
        return Text(self.say(code, **args))

    def document(self, sha256: str) -> Document:
        programme, claim, say = self.result["programme"], self.result["claim"], self.say
        code = verification_code(sha256)
        rules = Rules(self.result, say)
        return Document(
            lang=say.lang, title=self.t("printed.title"),
            source=Text(f"{programme['authority_zh']}《{programme['title_zh']}》{programme['doc_no']}"),
            subject=printable(f"{claim['enterprise']} {claim['uscc']}"), code=code, sha256=sha256,
            dated_s=claim["at_s"],
            sections=(self._verdict(code), rules.claim(), rules.rules(), self._findings(), self._opinion(),
                      *list_section(self.result, say, self.rows_max), self._evidence(), *content_count.figure_sections(
                          self.count, say, self.rows_max), *machines_section(self.count, say),
                      *content_count.device_sections(self.count, say, self.rows_max),
                      content_count.basis_section(self.count, say), *rules.left_open(), *self._limits(),
                      self._check(code, sha256)))

    def _verdict(self, code: str) -> Section:
        result, holds = self.result, self.result["verdict"] == "holds"
        resting = sum(rule["status"] == "declared" for rule in result["rules"])
        lines = [self.t("audit.holds_means" if holds else "audit.does_not_hold_means")]
        if resting:
            lines.append(self.t("audit.resting", count=resting, rules=len(result["rules"])))
        unjudged = sum(rule["status"] == "not_judged" for rule in result["rules"])
        if unjudged:
            lines.append(self.t("told.unjudged", count=unjudged, rules=len(result["rules"])))
        faults = [Text(finding(f, self.say)) for f in result["findings"] if f["severity"] == "fault"]
        more = [self.t("report.more_faults", count=len(faults) - FAULTS_MAX)] if len(faults) > FAULTS_MAX else []
        verdict = Verdict(title=self.t("audit.holds" if holds else "audit.does_not_hold"), lines=tuple(lines),
                          items=(*faults[:FAULTS_MAX], *more), holds=holds)
        return Section(key="verdict", title=self.t("report.section.verdict"), blocks=(
            verdict, Table(headed=False, columns=_facts_columns(), rows=(
                Row(cells=((self.t("report.covers"),), (self.t("report.covers.text"),))),
                Row(cells=((self.t("report.covers_not"),), (self.t("report.covers_not.text"),))),
                *self._facts(),
                Row(cells=((self.t("report.code"),), (Text(code, style="strong"), self.t("report.code.text"))))))))

    def _facts(self) -> list[Row]:
        """Return who claims what for when, and on whose word the evidence rests, the weakest bundle included."""
        claim, count, say, programme = self.result["claim"], self.count, self.say, self.result["programme"]
        at = [Text(local_time(claim["at_s"]))]
        if count["at"] is not None:
            at.append(Text(say("printed.counted_at", at=local_time(count["at"]["counted_s"]),
                               since=local_time(count["at"]["from_s"])), style="small"))
        valid = [bundle["summary"] for bundle in count["bundles"] if bundle["verdict"] == "valid"]
        invalid = len(count["bundles"]) - len(valid)
        sound = self.t("told.unsound", invalid=invalid) if invalid else self.t("told.sound", bundles=len(valid))
        resting = dict.fromkeys(f"verify.{kind}.{summary[kind]}" for summary in valid for kind in ("trust", "time"))
        return [self._fact("printed.type", Text(programme["type_zh"] if say.lang == "zh" else programme["type_en"])),
                self._fact("printed.enterprise", Text(printable(claim["enterprise"])),
                           Text(claim["uscc"], style="mono")),
                self._fact("printed.at", *at), self._fact("printed.trust", sound, *map(self.t, resting))]

    def _evidence(self) -> Section:
        """Return what each bundle is, covers and rests on, and which gateways are not shown."""
        rows = []
        for bundle in self.count["bundles"]:
            summary = bundle["summary"]
            rows += [self._fact("printed.site", Text(printable(summary["site"] or "—")),
                                Text(summary["gateway"] or bundle["sha256"][:12], style="mono")),
                     self._fact("printed.covered", Text(interval(bundle, self.say)))]
            if bundle["verdict"] == "valid":
                rows += [self._fact("printed.trust", self.t(f"verify.trust.{summary['trust']}"),
                                    self.t(f"verify.time.{summary['time']}")),
                         self._fact("printed.coverage", *map(Text, bundle_lines(bundle, self.say)))]
            else:
                rows.append(self._fact("printed.trust", self.t("audit.bundle_invalid")))
        rows += [self._fact("printed.gateways", *map(Text, enterprise_lines(enterprise, self.say)))
                 for enterprise in self.count["enterprises"]]
        return Section(key="evidence", title=self.t("report.section.evidence"), blocks=(
            Table(headed=False, columns=_facts_columns(), rows=tuple(rows)),))

    def _fact(self, code: str, *lines: Text) -> Row:
        return Row(cells=((self.t(code),), lines))

    def _findings(self) -> Section:
        columns = (Column(title=self.t("report.severity"), share=2), Column(title=self.t("report.finding"), share=16))
        items = sorted([*self.result["findings"], *self.count["findings"]], key=lambda f: str(f["severity"]))
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

    def _limits(self) -> list[Section]:
        items = tuple(self.t(code) for code in self.count["limits"])
        return [Section(key="limits", title=self.t("printed.section.limits"), blocks=(Bullets(items),))]

    def _opinion(self) -> Section:
        return Section(key="opinion", title=self.t("report.section.opinion"), blocks=(Form(rows=(
            (self.t("report.opinion"), self.t("report.opinion.choices"), 9.0),
            (self.t("report.opinion.note"), Text(""), 26.0),
            (self.t("report.opinion.auditor"), Text(""), 11.0),
            (self.t("report.opinion.unit"), Text(""), 22.0),
            (self.t("report.opinion.date"), self.t("report.opinion.date.blank"), 9.0))),
            Paragraph((Text(self.say("report.opinion.text"), style="small"),))))

    def _check(self, code: str, sha256: str) -> Section:
        programme, digests, bundles = self.result["programme"], self.count["digests"], self.count["bundles"]
        files = "X.tally Y.tally" if len(bundles) > 1 else "X.tally"
        told: list[tuple[str, Any]] = [
            ("report.code", code), ("report.sha256", sha256),
            *(("printed.digest.bundle", bundle["sha256"]) for bundle in bundles),
            *((f"printed.digest.{name}", digests[name]) for name in ("policy", "basis", "claim")),
            *((f"report.digest.{name}", digests[name]) for name in ("explanations",) if digests[name])]
        return Section(key="check", title=self.t("printed.section.check"), blocks=(
            Paragraph((self.t("printed.check.text"),)),
            Command(f"tallystick audit CLAIM.toml --programme {programme['key']} --type {programme['type']} {files} "
                    "--policy POLICY.json --json | sha256sum"),
            Paragraph((self.t("report.check.code"), self.t("printed.check.verify"))),
            Table(headed=False, columns=_facts_columns(), rows=(
                *(Row(cells=((self.t(name),), (Text(value or "—", style="mono"),))) for name, value in told),
                Row(cells=((self.t("report.digest.data"),), tuple(
                    Text(f"{value} {name}", style="mono") for name, value in sorted(programme["digests"].items()))))))))


def _facts_columns() -> tuple[Column, ...]:
    return (Column(title=Text(""), share=23, head=True), Column(title=Text(""), share=77))

