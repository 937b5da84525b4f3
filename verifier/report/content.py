"""What a report of an audit says, from the published JSON and nothing else: it can say nothing that the JSON does not.

Verdict first, then what was claimed, the rules, the findings and a place for the auditor's opinion: what a person
decides with stands on the first pages. The rest is for who asks further (`content_count.py`).
"""

from __future__ import annotations

from protocols.terms.say import Say
from verifier.report import content_count
from verifier.report.content_machines import list_section, machines_section
from verifier.report.content_rules import Rules
from verifier.report.content_statement import Statement
from verifier.report.content_told import English, Told, facts_columns
from verifier.report.document import Document, Form, Paragraph, Row, Section, Table, Text, Verdict
from verifier.report.document import beside as put_beside
from verifier.report.document import shown as printable
from verifier.report.identity import result_sha256, verification_code
from verifier.report.wording import Json, finding

FAULTS_MAX = 5
"""Faults told in the verdict itself; all of them stand among the findings."""


def report_document(result: Json, say: Say, *, rows_max: int, bilingual: bool = False) -> Document:
    """Return the report on the result of an audit, or of a count without a claim; `rows_max` devices in each list.

    result: as docs/schemas/audit.schema.json or count.schema.json describe it.
    """
    sha256 = result_sha256(result)
    kind = _Report if "claim" in result else Statement
    document = kind(result, say, rows_max).document(sha256)
    if bilingual and say.lang != "en":
        return put_beside(document, kind(result, English(say), rows_max).document(sha256))
    return document


class _Report(Told):
    def __init__(self, result: Json, say: Say, rows_max: int) -> None:
        super().__init__(result["count"], say, rows_max)
        self.result = result

    def document(self, sha256: str) -> Document:
        programme, claim, say = self.result["programme"], self.result["claim"], self.say
        code = verification_code(sha256)
        rules = Rules(self.result, say)
        return Document(
            lang=say.lang, title=self.t("printed.title"),
            source=Text(f"{programme['authority_zh']}《{programme['title_zh']}》{programme['doc_no']}"),
            subject=printable(f"{claim['enterprise']} {claim['uscc']}"), code=code, sha256=sha256,
            dated_s=claim["at_s"],
            sections=(self._verdict(code), rules.claim(), rules.rules(), self.findings(self.result["findings"]),
                      self._opinion(), *list_section(self.result, say, self.rows_max), self.evidence(),
                      *content_count.figure_sections(self.count, say, self.rows_max),
                      *machines_section(self.count, say),
                      *content_count.device_sections(self.count, say, self.rows_max),
                      content_count.basis_section(self.count, say), *rules.left_open(), self.limits(),
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
            verdict, Table(headed=False, columns=facts_columns(), rows=(
                *self.covers(),
                *self._facts(),
                Row(cells=((self.t("report.code"),), (Text(code, style="strong"), self.t("report.code.text"))))))))

    def _facts(self) -> list[Row]:
        """Return who claims what for when, and on whose word the evidence rests."""
        claim, programme = self.result["claim"], self.result["programme"]
        named = programme["type_zh"] if self.say.lang == "zh" else programme["type_en"]
        return [self.fact("printed.type", Text(named)),
                self.fact("printed.enterprise", Text(printable(claim["enterprise"])),
                          Text(claim["uscc"], style="mono")),
                *self.instant_and_trust(claim["at_s"])]

    def _opinion(self) -> Section:
        return Section(key="opinion", title=self.t("report.section.opinion"), blocks=(Form(rows=(
            (self.t("report.opinion"), self.t("report.opinion.choices"), 9.0),
            (self.t("report.opinion.note"), Text(""), 26.0),
            (self.t("report.opinion.auditor"), Text(""), 11.0),
            (self.t("report.opinion.unit"), Text(""), 22.0),
            (self.t("report.opinion.date"), self.t("report.opinion.date.blank"), 9.0))),
            Paragraph((Text(self.say("report.opinion.text"), style="small"),))))

    def _check(self, code: str, sha256: str) -> Section:
        programme, bundles = self.result["programme"], self.count["bundles"]
        files = "X.tally Y.tally" if len(bundles) > 1 else "X.tally"
        data = Row(cells=((self.t("report.digest.data"),), tuple(
            Text(f"{value} {name}", style="mono") for name, value in sorted(programme["digests"].items()))))
        command = (f"tallystick audit CLAIM.toml --programme {programme['key']} --type {programme['type']} {files} "
                   "--policy POLICY.json --json | sha256sum")
        return self.check(code, sha256, command, self.t("report.check.code"), ("policy", "basis", "claim"), (data,))
