"""Every code has its sentence in both languages, and no sentence asks for what its caller does not give."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.terms.say import Say
from tallystick.words import lookup
from tallystick.words.lookup import LANGUAGES, PARTS, Words, language, printable
from tests.support.source import CODE, ROOMS, ROOT, source_files, strings, uses

FOLDER = ROOT / "tallystick" / "words"
FILES = sorted(file.name for file in (FOLDER / "en").glob("*.toml"))
FILE_ENDINGS = (".toml", ".json", ".tally", ".example", ".html", ".pdf", ".xlsx")
SOURCES = source_files()  # not searched here: every process of a run would do it, for the tests of one
assert "tallystick.toml" in FILES and SOURCES, "the words or the source were not found: nothing would be tested"


def read(lang: str, name: str) -> dict[str, dict[str, str]]:
    return tomllib.loads((FOLDER / lang / name).read_text(encoding="utf-8"))


def places(sentence: str) -> set[str]:
    """The names between braces; anything but a plain name, such as {a.b}, {a!r} or {a:>9}, is refused."""
    found = set()
    for _, name, form, conversion in string.Formatter().parse(sentence):
        if name is not None:
            assert name.isidentifier() and not form and not conversion, f"not a plain name in {sentence!r}"
            found.add(name)
    return found


def sentence_places(code: str) -> set[str]:
    words = Words("en")
    return {name for part in (words.explain(code) or {}).values() for name in places(part)}


def test_both_languages_have_the_same_files() -> None:
    assert sorted(file.name for file in (FOLDER / "zh").glob("*.toml")) == FILES


@pytest.mark.parametrize("name", FILES)
def test_both_languages_say_the_same(name: str) -> None:
    english, chinese = read("en", name), read("zh", name)
    assert english.keys() == chinese.keys()
    for code, parts in english.items():
        assert CODE.fullmatch(code), code
        assert "text" in parts and parts.keys() <= set(PARTS), code
        assert parts.keys() == chinese[code].keys(), code
        for part, sentence in parts.items():
            assert sentence.strip() and chinese[code][part].strip(), f"{code}.{part} is empty"
            assert places(sentence) == places(chinese[code][part]), f"{code}.{part}"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_code_is_defined_twice(lang: str) -> None:
    codes = [code for name in FILES for code in read(lang, name)]
    assert sorted(codes) == sorted(set(codes))


def test_the_source_hands_out_codes() -> None:
    assert sum(1 for file in SOURCES for _ in uses(file)) > 500


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_code_in_the_source_has_a_sentence(file: Path) -> None:
    known = set(Words("en").codes())
    handed = list(uses(file))
    missing = {f"{use.file}:{use.line} {use.code}" for use in handed if use.code not in known}
    # A code that reaches its call through a variable is a literal somewhere; `gateway.agent` may be a module instead.
    prefixes = {code.split(".")[0] for code in known} - set(ROOMS)
    missing |= {f"{file.relative_to(ROOT).as_posix()}:{line} {value}" for line, value in strings(file)
                if handed and value.split(".")[0] in prefixes and value not in known
                and not value.endswith(FILE_ENDINGS)}
    assert not missing, "\n".join(sorted(missing))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_place_of_a_sentence_is_filled_by_its_caller(file: Path) -> None:
    unfilled = {f"{use.file}:{use.line} {use.code} {{{name}}}"
                for use in uses(file) if use.args is not None for name in sentence_places(use.code) - use.args}
    assert not unfilled, "\n".join(sorted(unfilled))


WORDS = {
    "en": {"a.hot": {"text": "{thing} is hot", "cause": "the sun", "fix": "cool {thing}"}, "a.only": {"text": "only"}},
    "zh": {"a.hot": {"text": "{thing}过热", "fix": "请冷却{thing}"}},
}


def test_words_is_what_rooms_expect() -> None:
    say: Say = Words("zh", WORDS)
    assert say.lang == "zh"
    assert say("a.hot", thing="锅炉") == "锅炉过热"
    assert say.english("a.hot", thing="x") == "x is hot"
    assert say.explain("a.hot") == {"text": "{thing}过热", "fix": "请冷却{thing}"}
    assert say.speaking("en")("a.hot", thing="x") == "x is hot"


def test_what_a_language_lacks_is_said_in_english() -> None:
    assert Words("zh", WORDS)("a.only") == "only"


def test_unknown_code_gives_the_code_and_its_arguments() -> None:
    words = Words("en", WORDS)
    assert words("no.such", b=2, a="x") == "no.such (a=x, b=2)"
    assert words("no.such") == "no.such"
    assert words.explain("no.such") is None


def test_a_place_that_nothing_fills_stays_visible() -> None:
    assert Words("en", WORDS)("a.hot") == "{thing} is hot"


def test_an_argument_is_never_a_template() -> None:
    assert Words("en", WORDS)("a.hot", thing="{thing.__class__} {0}") == "{thing.__class__} {0} is hot"


def test_a_long_argument_does_not_bury_its_sentence() -> None:
    assert len(Words("en", WORDS)("a.hot", thing="x" * 10**6)) < lookup.ARGUMENT_CHARS_MAX + 20


@given(st.text())
def test_nothing_steers_the_terminal(text: str) -> None:
    shown = printable(text)
    assert not any(c in shown for c in "\x1b\n\r\x00\x9b\u202e\u2066\u2028")
    shown.encode()  # lone surrogates would raise
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(("chosen", "environ", "lang"), [
    (None, {}, "en"),
    (None, {"LANG": "C"}, "en"),
    (None, {"LANG": "zh_CN.UTF-8"}, "zh"),
    (None, {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
    (None, {"LANG": "de_DE.UTF-8", "LC_ALL": ""}, "en"),
    (None, {"LANG": "C", "LC_MESSAGES": "zh_TW"}, "zh"),
    ("en", {"LANG": "zh_CN.UTF-8"}, "en"),
    ("zh", {"LANG": "C"}, "zh"),
])
def test_language(chosen: str | None, environ: dict[str, str], lang: str) -> None:
    assert language(chosen, environ) == lang


def test_a_broken_file_of_sentences_silences_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "bad.toml").write_text("not toml")
    (tmp_path / "en" / "good.toml").write_text('["a.b"]\ntext = "said"\n')
    monkeypatch.setattr(lookup, "files", lambda package: tmp_path)
    lookup.read_language.cache_clear()
    try:
        assert Words("en")("a.b") == "said"
    finally:
        lookup.read_language.cache_clear()
    assert "bad.toml" in caplog.text
