"""What a printed count says: the devices of some bundles at T under a basis, without a claim. Nothing is judged by it.

Of an audit's report it is what rests on evidence alone; figures first, then what they rest on.
"""

from __future__ import annotations

from config.programme import PROGRAMMES
from verifier.report import content_count
from verifier.report.content_machines import machines_section
from verifier.report.content_told import Told, facts_columns
from verifier.report.document import Document, Paragraph, Row, Section, Table, Text, Verdict
from verifier.report.document import shown as printable
from verifier.report.identity import verification_code
from verifier.report.wording import named, number


class Statement(Told):
    """The report of a count (docs/schemas/count.schema.json)."""

    def document(self, sha256: str) -> Document:
        """Return the report. sha256: of the result."""
        count, say, code = self.count, self.say, verification_code(sha256)
        basis = count["basis"]
        return Document(
            lang=say.lang, title=self.t("report.count.title"),
            source=self.t("count.basis", key=basis["key"], version=basis["version"]),
            subject=printable(" ".join(dict.fromkeys(
                b["summary"]["uscc"] or b["sha256"][:12] for b in count["bundles"]))), code=code, sha256=sha256,
            dated_s=self._dated_s(), sections=(
                self._verdict(code), *content_count.figure_sections(count, say, self.rows_max), self.evidence(),
                *([self.findings(())] if count["findings"] or count["verdict"] == "invalid" else []),
                *machines_section(count, say), *content_count.device_sections(count, say, self.rows_max),
                content_count.basis_section(count, say), *self._left_open(), self.limits(), self._check(code, sha256)))

    def _dated_s(self) -> int:
        """Return T; where nothing was counted the end of what the bundles cover."""
        ends = [b["summary"]["covered"][1] for b in self.count["bundles"] if b["summary"]["covered"]]
        return int(self.count["at"]["asked_s"]) if self.count["at"] is not None else max(ends, default=0)

    def _verdict(self, code: str) -> Section:
        count, figures = self.count, self.count["figures"]
        valid = count["verdict"] == "valid"
        verdict = Verdict(title=self.t("count.valid" if valid else "count.invalid"), lines=(), items=(), holds=valid)
        if figures is not None:
            told = {name: number(value, self.say) for name, value in figures["devices"].items()}
            verdict = Verdict(title=self.t("count.devices", **told), lines=(self.t("report.count.means"),), items=(),
                              holds=valid)
        return Section(key="verdict", title=self.t("report.count.result"), blocks=(
            verdict, Table(headed=False, columns=facts_columns(), rows=(
                *self.covers(), *self.instant_and_trust(count["at"] and count["at"]["asked_s"]),
                Row(cells=((self.t("report.code"),), (Text(code, style="strong"), self.t("report.count.code"))))))))

    def _left_open(self) -> list[Section]:
        lines = tuple(Text(named(one, self.say) + (f" [{one['cite']}]" if one["cite"] else ""))
                      for one in self.count["ambiguities"])
        return [Section(key="open", title=self.t("printed.section.open"), blocks=(Paragraph(lines),))] if lines else []

    def _check(self, code: str, sha256: str) -> Section:
        count = self.count
        key, own = count["basis"]["key"], count["digests"]["basis"]
        basis = f"--programme {key} " if key in PROGRAMMES else "--basis BASIS.toml " if own is not None else ""
        files = "X.tally Y.tally" if len(count["bundles"]) > 1 else "X.tally"
        at = "T" if count["at"] is None else count["at"]["asked_s"]
        return self.check(code, sha256, f"tallystick count {files} --at {at} {basis}--policy POLICY.json --json | "
                          "sha256sum", self.t("report.count.check"), ("policy", "basis") if own is not None else (
                              "policy",))
