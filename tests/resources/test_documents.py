"""YAML reads here as kubectl reads it, and every value knows where it stood."""

import itertools
import math

import pytest

from pyncette.resources.documents import NESTING_MAX, NODES_MAX, Document, Fault, Spot, bare, documents

# What kubectl makes of a bare word. It hands YAML to sigs.k8s.io/yaml, which reads it by the rules of YAML 1.1, with
# differences of its own, and writes JSON.
WORDS = {
    "y": True,
    "Yes": True,
    "ON": True,
    "true": True,
    "n": False,
    "NO": False,
    "Off": False,
    "False": False,
    "nO": "nO",
    "~": None,
    "null": None,
    "12": 12,
    "-12": -12,
    "+12": 12,
    "1_000": 1000,
    "012": 10,
    "0o14": 12,
    "08": 8,
    "0x1F": 31,
    "0b101": 5,
    "60.0": 60,
    "1e3": 1000,
    ".5": 0.5,
    "-1.5e-1": -0.15,
    "9223372036854775807": 2**63 - 1,
    "9223372036854775808": float(2**63),
    "1e999": "1e999",
    "12:30": "12:30",
    "190:20:30": "190:20:30",
    "2030-01-31": "2030-01-31",
    "2030-01-31T09:00:00Z": "2030-01-31T09:00:00Z",
    "1.2.3": "1.2.3",
    "+1 555": "+1 555",
    "-": "-",
    "...": "...",
    "MON-FRI": "MON-FRI",
}


@pytest.mark.parametrize(("word", "value"), WORDS.items())
def test_a_bare_word_is_what_it_is_to_kubectl(word, value):
    assert bare(word) == value
    assert type(bare(word)) is type(value)


@pytest.mark.parametrize("word", [".nan", ".inf", "-.Inf", "+.INF"])
def test_a_number_that_json_has_not_is_a_fault_where_it_stands(word):
    [document] = documents(f"a:\n  b: {word}\n")

    assert math.isnan(bare(word))
    assert document.faults == (Fault(Spot(2, 6), f"JSON has no number {word}; quote it if it is text"),)


def value(text):
    [document] = documents(text)
    assert isinstance(document, Document), document
    assert not document.faults
    return document.value


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("a: 'NO'", {"a": "NO"}),
        ('a: "12"', {"a": "12"}),
        ("a: |\n  12\n", {"a": "12\n"}),
        ("a:", {"a": None}),
        ("a: ''", {"a": ""}),
        ("a: !!str 12", {"a": "12"}),
        ("a: !!int '12'", {"a": 12}),
        ("a: !!float 1", {"a": 1}),
        ("a: !!bool 'no'", {"a": False}),
        ("a: !!timestamp 2030-01-01", {"a": "2030-01-01"}),
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("on: 1\n2: 3\n1.5: x\nno: 4\n", {"true": 1, "2": 3, "1.5": "x", "false": 4}),
        ("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {c: 3, <<: *x}\n", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a:\n  <<: [{b: 1}, {b: 2, c: 3}]\n", {"a": {"b": 1, "c": 3}}),
        ("a: {b: https://example.org}", {"a": {"b": "https://example.org"}}),
    ],
)
def test_a_document_becomes_the_json_that_kubectl_sends(text, json):
    assert value(text) == json


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, 'the field "a" is duplicate, first used in line 1: keep one'),
        ("true: 1\non: 2\n", 2, 1, 'the field "true" is duplicate, first used in line 1: keep one'),
        (
            "a: !!python/name:os.system x\n",
            1,
            4,
            "the tag tag:yaml.org,2002:python/name:os.system is not used in",
        ),
        ("a: !env HOME\n", 1, 4, "the tag !env is not used in manifests: remove it"),
        ("a: !!set {b}\n", 1, 4, "the tag tag:yaml.org,2002:set is not used in manifests: remove it"),
        ("a: !!int x\n", 1, 4, "'x' is not of the type that its tag !!int names"),
        ("a: !!float yes\n", 1, 4, "'yes' is not of the type that its tag !!float names"),
        ("? [a]\n: b\n", 1, 3, "the name of a field must be text, not a list or a mapping"),
        ("~: b\n", 1, 1, "the name of a field is empty: quote it if it is text"),
        ("a: &x [1, *x]\n", 1, 4, "an alias refers to itself"),
        ("a: &x {<<: *x}\n", 1, 4, "an alias refers to itself"),
        ("a:\n  <<: [b]\n", 2, 8, "<< takes a mapping, or a list of mappings"),
    ],
)
def test_what_kubectl_would_pass_over_or_misread_is_a_fault(text, line, column, message):
    [document] = documents(text)

    [fault] = document.faults
    assert fault.spot == Spot(line, column)
    assert fault.message.startswith(message)


def test_what_is_beside_a_fault_is_read():
    [document] = documents("a: !env HOME\nb: 2\n")

    assert document.value == {"a": None, "b": 2}


def test_documents_are_separated_as_by_kubectl_and_empty_ones_are_none():
    text = "a: 1\n---\n# nothing\n--- # here\nb: |\n  x\n  ---\n--- \n\n---\nc: 3\n"

    assert [document.value for document in documents(text)] == [{"a": 1}, {"b": "x\n---\n"}, {"c": 3}]


@pytest.mark.parametrize(
    ("text", "spot", "message"),
    [
        ("a:\n  schedule: * * * * *\n", Spot(2, 13), 'a value that begins with * needs quotes: "* * * * *"'),
        (
            "schedule: */5 * * * *  # often\n",
            Spot(1, 11),
            'a value that begins with * needs quotes: "*/5 * * * *"',
        ),
        ("- * 9 * * *\n", Spot(1, 3), 'a value that begins with * needs quotes: "* 9 * * *"'),
        ("a:\n\tb: 1\n", Spot(2, 1), "the line is indented with a tab; use spaces"),
        ("a:\n  b: 1\n  \tc: 1\n", Spot(3, 3), "the line is indented with a tab; use spaces"),
    ],
)
def test_the_commonest_mistakes_in_yaml_say_what_to_write(text, spot, message):
    (fault,) = documents(text)

    assert (fault.spot, fault.message) == (spot, f"is not YAML: {message}")


def test_a_document_that_is_no_yaml_does_not_hide_the_others():
    first, broken, last = documents("a: 1\n---\nb: [\n---\nc: 3\n")

    assert (first.value, last.value) == ({"a": 1}, {"c": 3})
    assert broken.message.startswith("is not YAML: ")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: 1\n\tb: 2\n", 2, 1),
        ("a: 1\n---\nb: {{ .Values.c }}d\n", 3, 19),
        ("a: 'x\n", 2, 1),
        ("a: b: c\n", 1, 5),
        ("é: 1\né: x\x01\n", 2, 5),
        ("a: *x\n", 1, 4),
        ("a: 1\n...\nb: 2\n", 3, 1),
    ],
)
def test_a_fault_of_yaml_has_its_line_and_column(text, line, column):
    faults = [fault for fault in documents(text) if isinstance(fault, Fault)]

    assert [fault.spot for fault in faults] == [Spot(line, column)]


def test_every_value_and_every_name_knows_where_it_stands():
    _, document = documents("x: 1\n---\n\nspec:\n  ä: 'ü'\n  list:\n    - name: b\n  tail: {c: d}\n")

    assert document.spot_of(("spec", "ä")) == Spot(5, 6)
    assert document.spot_of_name(("spec", "ä")) == Spot(5, 3)
    assert document.spot_of(("spec", "list", 0, "name")) == Spot(7, 13)
    assert document.spot_of(("spec", "tail", "c")) == Spot(8, 13)


def test_what_is_missing_is_where_it_should_have_been():
    [document] = documents("kind: A\nspec:\n  list:\n    - a: 1\n")

    assert document.spot_of(("spec", "handler")) == Spot(2, 1)
    assert document.spot_of(("spec", "list", 0, "b")) == Spot(4, 7)
    assert document.spot_of(("metadata", "name")) == Spot(1, 1)


def test_what_comes_from_an_anchor_stands_there_and_what_overrides_it_stands_here():
    [document] = documents("a: &x\n  b: 1\n  c: 2\nd:\n  c: 3\n  <<: *x\n")

    assert document.spot_of(("d", "b")) == Spot(2, 6)
    assert document.spot_of(("d", "c")) == Spot(5, 6)
    assert document.spot_of(("d",)) == Spot(4, 1)


def test_bare_words_that_are_not_what_they_look_like_are_remembered():
    [document] = documents("a: NO\nb: 012\nc: 'NO'\nd: true\ne: 0\nf: 0x1F\ng: 07\nh: [off]\n")

    assert document.odd == {("a",): "NO", ("b",): "012", ("h", 0): "off"}


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "[" * NESTING_MAX + "]" * NESTING_MAX])
def test_what_is_nested_too_deeply_is_a_fault_and_ends_no_process(text):
    [fault] = documents(text)

    assert fault.message == "has more than 100 lists and mappings within each other"


def test_aliases_cannot_nest_deeper_than_what_is_written():
    chain = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2 * NESTING_MAX))

    [document] = documents(chain)

    assert {fault.message for fault in document.faults} == {
        "its aliases make more than 100 lists and mappings within each other"
    }


def test_a_few_lines_of_aliases_cannot_mean_billions_of_values():
    names = "abcdefghij"
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise(names)
    )

    [document] = documents(bomb)

    assert [fault.message for fault in document.faults] == [
        f"has more than {NODES_MAX:,} values once its aliases are expanded"
    ]
