"""YAML values remember their lines, and every fault says where it stands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtdnn.config.yaml_source import YamlSource, dump_yaml, parse_value, parse_yaml, read_yaml
from mtdnn.errors import ConfigError, Place, fault


def test_every_key_knows_its_line():
    source = parse_yaml("a: 1\nb:\n  c:\n    - x\n    - y\n", path="a.yml")
    assert source.value == {"a": 1, "b": {"c": ["x", "y"]}}
    assert str(source.where(("b", "c"))) == "a.yml:3"
    assert str(source.where(("b", "c", 1))) == "a.yml:5"


def test_a_key_that_is_not_there_has_the_place_of_its_parent():
    source = parse_yaml("a: 1\nb:\n  c: 2\n", path="a.yml")
    assert str(source.where(("b", "missing"))) == "a.yml:2"
    assert str(source.where(("missing",))) == "a.yml"


@pytest.mark.parametrize("number", ["1e-5", "1.0e-5", "1E-5", "+1e-5", "0.00001", "1.e-5", ".1e-4"])
def test_numbers_with_an_exponent_are_numbers(number):
    assert parse_yaml(f"lr: {number}", path="a.yml").value == {"lr": pytest.approx(1e-5)}


@pytest.mark.parametrize("word", ["e5", "1e", "e-5", "1e5x", "bert-1e5"])
def test_words_that_only_look_like_numbers_stay_words(word):
    assert parse_yaml(f"name: {word}", path="a.yml").value == {"name": word}


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    (tmp_path / "a.yml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    source = read_yaml(tmp_path / "a.yml")
    assert source.value == {"a": 1, "b": 2}
    assert source.where(("b",)).line == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2\n", "a.yml:2: a: given twice, first at line 1. Remove or rename one."),
        (b"x:\n  a: 1\n  a: 2\n", "a.yml:3: x.a: given twice, first at line 2. Remove or rename one."),
        (b"", "a.yml: the file is empty. A mapping of keys to values is expected."),
        (b"- a\n- b\n", "a.yml:1: not a mapping of keys to values"),
        (b"a: [1, 2\nb: 3\n", "a.yml:2: not valid YAML: "),
        (b"a: \xe9\n", "a.yml: not UTF-8 (byte 3). Save the file as UTF-8."),
        (b"a: 1\nb: !foo 1\n", "a.yml:2: the tag !foo is not supported. Write the value without a tag."),
        (b"{[1]: 2}\n", "a.yml:1: not valid YAML: found unhashable key"),
        (b"a: 2001-13-45\n", "a.yml:1: not valid YAML: month must be in 1..12…. Put the value in quotes."),
        (b"a: 1\nb: \x01\n", "a.yml:2: character '\\x01' is not allowed in YAML. Remove it."),
    ],
)
def test_a_file_that_is_no_mapping_is_reported(tmp_path, content, message):
    (tmp_path / "a.yml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "a.yml")
    assert all(part in str(caught.value) for part in message.split("…"))  # Python 3.14 adds ", not 13"


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yml: cannot be read: No such file or directory. Check the path."):
        read_yaml(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("penalty.size.relative", "--penalty.size.relative"),
        ("penalty.size.relative.more", "--penalty.size.relative"),
        ("penalty.size", "--penalty.size.relative"),  # the file names the penalty alone
        ("penalty.size.other", "--penalty.size.relative"),
        ("penalty.weight", "a.yml:3"),
        ("penalty.every", "a.yml:2"),
        ("penalty", "a.yml:2 and --penalty.size.relative"),
        ("sampler", "--sampler.tau and --sampler.rate"),
        ("sampler.name", "--sampler.tau and --sampler.rate"),
        ("other", "a.yml"),
    ],
)
def test_a_key_that_flags_gave_a_part_of_is_reported_by_them(key, place):
    lines = {("penalty",): 2, ("penalty", "weight"): 3}
    flags = [("penalty", "size", "relative"), ("sampler", "tau"), ("sampler", "rate")]
    assert str(YamlSource("a.yml", {}, lines, flags).where(tuple(key.split(".")))) == place


@pytest.mark.parametrize(
    ("found", "placed"),
    [
        (fault("", "inner.rate", "0 is too little"), "a.yml:3: inner.rate: 0 is too little"),
        (fault("", "inner.other", "is missing"), "a.yml:2: inner.other: is missing"),
        (fault("", "name", "unknown"), "--name: unknown"),
        (fault(Place("rows.tsv", 3), "name", "unknown"), "rows.tsv:3: name: unknown"),
        (fault("", "", "name: nothing but words"), "name: nothing but words"),
    ],
)
def test_a_fault_found_later_gets_the_place_of_its_key(found, placed):
    lines = {("inner",): 2, ("inner", "rate"): 3}
    source = YamlSource("a.yml", {"name": "x", "inner": {"rate": 0}}, lines, flags=[("name",)])
    assert str(source.placed(found)) == placed


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("3e-5", 3e-5), ("[a, b]", ["a", "b"]), ("{name: x}", {"name": "x"}), ("x", "x")]
)
def test_a_value_alone_is_read_as_in_a_file(text, value):
    assert parse_value(text, where="--key") == value


def test_a_value_alone_that_is_no_yaml_is_reported():
    with pytest.raises(ConfigError, match=r"--key: '\{a: 1, a: 2\}' is not valid YAML"):
        parse_value("{a: 1, a: 2}", where="--key")
    with pytest.raises(ConfigError, match=r"--key: '\[a' is not valid YAML. Put it in quotes if it is text."):
        parse_value("[a", where="--key")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "a.yml: more than 200,000 values, aliases counted as often as they are used. Write fewer values"),
        ("a: " + "[" * 100 + "]" * 100, "a.yml:1: more than 64 nested lists or mappings. Flatten them."),
        ("a: " + "[" * 5000 + "]" * 5000, "a.yml: values are nested too deeply. Flatten them."),
        ("a: !!int ''\n", "a.yml:1: not valid YAML: "),
        (
            "a: 1\nb: 9223372036854775808\n",
            "a.yml:2: not valid YAML: a whole number of more than 64 bits. Put the value",
        ),
        (f"a: -1{'0' * 9000}\n", "a.yml:1: not valid YAML: Exceeds the limit"),
        ("a: 1\nb: !!bool maybe\n", "a.yml:2: not valid YAML: 'maybe'. Put the value in quotes."),
        ("a: !!set {b}\n", "a.yml:1: the tag !!set is not supported. Write the value without a tag."),
        ("a: !!python/name:os.system\n", "a.yml:1: the tag !!python/name:os.system is not supported."),
        ('a: "\\ud800"\n', "a.yml:1: an unpaired surrogate"),
        ("%YAML 9.9\n---\na: 1\n", "a.yml:1: not valid YAML: "),
        ("a: 1\n---\nb: 1\n", "a.yml:2: not valid YAML: but found another document"),
        ("? [a, b]\n: 1\n", "a.yml:1: not valid YAML: found unhashable key"),
        ("a: 0x_\n", "a.yml:1: not valid YAML: "),
    ],
)
def test_what_no_definition_needs_is_refused_with_its_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, path="a.yml")
    assert str(caught.value).startswith(message)


def test_an_endless_file_is_refused():
    with pytest.raises(ConfigError, match=r"/dev/zero: more than 16 MiB\. Give a file of definitions"):
        read_yaml("/dev/zero")


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "1e5",
        "1e-4",
        "1.",
        ".5",
        "0x1f",
        "017",
        "1_000",
        "12:30:45",
        "2020-01-01",
        "yes",
        "no",
        "off",
        "~",
        "null",
        "=",
        "<<",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        WORDS,
        WORDS | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | st.lists(WORDS),
    )
)
def test_what_is_written_is_read_back(value):
    """Names, labels and numbers, among them words that YAML takes for numbers, dates and truth values."""
    if value:
        assert parse_yaml(dump_yaml(value), path="a.yml").value == value


def test_what_is_no_path_is_one_error():
    with pytest.raises(ConfigError, match=r"a dict, where the path of a YAML file is expected\. Give the path"):
        read_yaml({"output": "study"})
