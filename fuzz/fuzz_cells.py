"""Spreadsheets that are handed in. First byte: `z` a whole file, `s` the XML of its one sheet, `t` its shared texts."""

import io
import zipfile

from fuzz.harness import only, scratch, start, watched

with watched("config.spreadsheet", "verifier.audit.claim_sheet", "verifier.audit.claim"):
    from config.programme import load_programme
    from config.spreadsheet import COLUMNS_MAX, read_sheets
    from protocols.errors import ConfigError
    from verifier.audit.claim_sheet import load_claim_sheet

RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
MEMBERS = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{TYPE}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{TYPE}.worksheet+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{TYPE}.sharedStrings+xml"/></Types>'),
    "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets><sheet name="a" sheetId="1" r:id="r1"/>'
                       "</sheets></workbook>",
    "xl/_rels/workbook.xml.rels": (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{RELATIONS}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{RELATIONS}/sharedStrings" Target="sharedStrings.xml"/></Relationships>'),
}
ROWS = (("claim.programme", "", "", "", "jiangxi_2024"), ("claim.type", "", "", "", "enterprise 企业级"),
        ("claim.at", "", "", "", "2026-09-21T22:16:00+08:00"), ("claim.enterprise.name", "", "", "", "x"),
        ("metrics.device_connected_count", "(1)", "", "", "1,012"), ("metrics.protocol_count", "", "", "", "7"),
        ("splits.device_connected_count.class", "machine_tools", "", "", "3"), ("groups", "", "", "point_count"),
        ("group", "industry", "mining", "5"),
        ("documents", "industrial_app_count", "", "", "", "", "", "", "a.pdf", "0"),
        ("explanations.x", "", "", "", "y"), ("ledger.date", "", "", "", "2024-01-31"))
SHEET = f'<worksheet xmlns="{MAIN}"><sheetData>' + "".join(
    f'<row r="{at}">' + "".join(f'<c r="{chr(65 + column)}{at}" t="inlineStr"><is><t>{text}</t></is></c>'
                                for column, text in enumerate(row) if text) + "</row>"
    for at, row in enumerate(ROWS, 1)) + (
    '<row r="20"><c r="A20" t="s"><v>0</v></c><c r="E20"><f>1+1</f><v>2</v></c><c r="F20"><v>2.5</v></c></row>'
    "</sheetData></worksheet>")
TEXTS = f'<sst xmlns="{MAIN}" count="1" uniqueCount="1"><si><t>metrics.point_count</t></si></sst>'
PROGRAMME = load_programme("jiangxi_2024")
FILE = scratch() / "sheet.xlsx"
ROWS_MAX = 2_000


def zipped(sheet: bytes = SHEET.encode(), texts: bytes = TEXTS.encode()) -> bytes:
    """Return a small spreadsheet with this sheet and these shared texts."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, text in MEMBERS.items():
            file.writestr(zipfile.ZipInfo(name), text)
        file.writestr(zipfile.ZipInfo("xl/worksheets/sheet1.xml"), sheet)
        file.writestr(zipfile.ZipInfo("xl/sharedStrings.xml"), texts)
    return data.getvalue()


def check(data: bytes) -> None:
    """One file. Rows ascend and are as wide as they may be; what is read as a claim says only what it was given."""
    kind, data = data[:1], data[1:]
    made = {b"z": lambda: data, b"s": lambda: zipped(sheet=data), b"t": lambda: zipped(texts=data)}.get(kind)
    if made is None:
        return
    FILE.write_bytes(made())
    with only(ConfigError):
        sheets, _ = read_sheets(FILE, rows_max=ROWS_MAX)
        for rows in sheets.values():
            assert [row.number for row in rows] == sorted({row.number for row in rows})
            assert all(len(row.cells) <= COLUMNS_MAX and row.number <= ROWS_MAX for row in rows)
        claim = load_claim_sheet(FILE, PROGRAMME)
        assert set(claim.metrics) <= set(PROGRAMME.metrics)


if __name__ == "__main__":
    start(check)
