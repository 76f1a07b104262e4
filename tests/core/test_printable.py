"""Text that others wrote controls no terminal, reorders no line, and starts no new one."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.core.printable import JOINERS, one_line, printable, printable_json

HOSTILE = {
    "a colour": ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    "a link (OSC 8)": (
        "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x07",
        r"\x1b]8;;http://evil\x1b\here\x1b]8;;\x07",
    ),
    "the clipboard (OSC 52)": ("\x1b]52;c;cm0gLXJm\x07", r"\x1b]52;c;cm0gLXJm\x07"),
    "an 8-bit CSI": ("\x9b2J", r"\x9b2J"),
    "an 8-bit OSC": ("\x9d0;title\x9c", r"\x9d0;title\x9c"),
    "a carriage return": ("ok\rFAILED", r"ok\rFAILED"),
    "a line end": ("ok\nERROR forged", r"ok\nERROR forged"),
    "a line separator": ("ok\u2028ERROR", r"ok\u2028ERROR"),
    "a right-to-left override": ("user\u202etxt.exe", r"user\u202etxt.exe"),
    "an isolate": ("a\u2066b\u2069", r"a\u2066b\u2069"),
    "a backspace": ("ok\b\bno", r"ok\x08\x08no"),
    "a delete": ("\x7f", r"\x7f"),
    "a NUL": ("a\0b", r"a\x00b"),
    "a tag character": ("a\U000e0041", r"a\U000e0041"),
    "half a surrogate pair": ("\ud800", r"\ud800"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_a_character_that_is_not_shown_as_itself_is_escaped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "done",
        "größer",
        "пришло",
        "日本語",
        "naïve é",
        "शक्ति",
        "🇮🇪",
        "👩\u200d🚀",
        "می\u200cخواهم",
        r"C:\new",
    ],
)
def test_text_of_any_language_is_shown_as_it_is(text):
    assert printable(text) == text
    assert one_line(text) == text


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_unprintable_remains(text):
    for shown in (printable(text), one_line(text)):
        assert all(one.isprintable() or one in JOINERS for one in shown)
    assert not {"Cc", "Zl", "Zp", "Cs"} & {unicodedata.category(one) for one in printable(text)}


def test_white_space_in_a_cell_becomes_one_space():
    assert one_line(" no\r\n\tsuch \u2028 user\x85 ") == "no such user"


@given(st.text(st.characters(exclude_categories=())), st.sampled_from([None, 2]))
def test_json_keeps_its_meaning(text, indent):
    shown = printable_json(json.dumps({"message": text}, ensure_ascii=False, indent=indent))

    assert all(one.isprintable() or one in JOINERS or one == "\n" for one in shown)
    assert json.loads(shown) == json.loads(json.dumps({"message": text}))


def test_no_character_of_any_plane_escapes_it():
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.bidirectional(chr(code)) in BIDI]

    assert marks
    assert not any(mark in printable(f"a{mark}b") for mark in marks)


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
