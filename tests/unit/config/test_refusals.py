"""What pydantic refuses is reported in our words, with the line or the flag of its key."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtdnn.config.refusals import refusal, validated
from mtdnn.config.run import RunConfig
from mtdnn.config.yaml_source import YamlSource, parse_yaml
from mtdnn.errors import ConfigError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = Field(1.0, gt=0)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    inner: Inner | None = None
    either: str | Inner = "word"
    sizes: list[int] = []


def faults_of(text):
    with pytest.raises(ConfigError) as caught:
        validated(Outer, *both(text))
    return list(caught.value.lines)


def both(text):
    source = parse_yaml(text, path="a.yml")
    return source.value, source


def test_every_fault_of_a_document_is_reported_with_its_line():
    assert faults_of("nam: x\ninner:\n  rate: -1\n  rat: 2\nsizes:\n  - 1\n  - two\n") == [
        "a.yml: name: is missing. Add it.",
        "a.yml:3: inner.rate: -1: input should be greater than 0. Give another value, or leave it out for the "
        "default, 1.0.",
        "a.yml:4: inner.rat: unknown key 'rat'; known: rate. Did you mean 'rate'?",
        "a.yml:7: sizes.1: 'two': expected a whole number. Give another value.",
        "a.yml:1: nam: unknown key 'nam'; known: name, inner, either, sizes. Did you mean 'name'?",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("{a: 1, b: [2]}", "{'a': 1, 'b': [2]}: "),
        ("[]", "[]: "),
        (f"[{'x' * 36}]", f"['{'x' * 36}']: "),
        (f"[{'x' * 37}]", ""),  # 41 characters
    ],
)
def test_a_mapping_or_list_is_shown_if_it_is_short(value, shown):
    (reported,) = faults_of(f"name: {value}\n")
    assert reported == f"a.yml:1: name: {shown}expected a text. Give another value."


def test_a_missing_option_is_reported_without_what_it_is_missing_from():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"sizes": [1]})
    assert [refusal(detail) for detail in caught.value.errors()] == ["field required"]


def test_in_a_union_only_the_member_that_fits_the_value_is_reported():
    assert faults_of("name: x\neither: {rat: 2}\n") == [
        "a.yml:2: either.rat: unknown key 'rat'; known: rate. Did you mean 'rate'?"
    ]


def test_a_value_given_as_a_flag_is_reported_by_the_flag():
    source = YamlSource("a.yml", {"name": "x", "inner": {"rate": 0}}, {("name",): 1}, flags=[("inner", "rate")])
    with pytest.raises(ConfigError) as caught:
        validated(Outer, source.value, source)
    assert str(caught.value) == (
        "--inner.rate: 0: input should be greater than 0. Give another value, or leave it out for the default, 1.0."
    )


def test_an_unknown_key_that_looks_like_a_member_of_a_union_is_reported():
    assert faults_of("name: a\n<b: 1\n")[0].startswith("a.yml:2: <b: unknown key '<b'; known: ")


def test_a_sound_document_becomes_its_model():
    assert validated(Outer, *both("name: x\ninner: {rate: 2}\n")) == Outer(name="x", inner=Inner(rate=2))


def test_a_value_that_no_member_of_a_union_takes_is_one_error():
    class Every(BaseModel):
        every: int | Literal["epoch", "never"] = "epoch"

    with pytest.raises(ConfigError) as caught:
        validated(Every, *both("every: weekly\n"))
    assert caught.value.lines == (
        "a.yml:1: every: 'weekly': expected a whole number, or 'epoch' or 'never'. Give another value, or leave it out "
        "for the default, epoch.",
    )


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("epochs: yes", "epochs: true (or yes, on): expected a number. Give another value, or leave it out for the "
         "default, 3."),
        ("compile: 1", "compile: 1: expected true or false. Give another value, or leave it out for the default, "
         "false."),
        ("compile: 'yes'", "compile: 'yes': expected true or false. Give another value, or leave it out for the "
         "default, false."),
        ("evaluate_every: no", "evaluate_every: false (or no, off): expected a whole number, or 'epoch' or 'never'. "
         "Give another value, or leave it out for the default, epoch."),
        ("optimizer: {lr: on}", "optimizer.lr: true (or yes, on): expected a number. Give another value, or leave it "
         "out for the default, 5e-05."),
    ],
)  # fmt: skip
def test_a_boolean_of_yaml_is_shown_as_it_may_have_been_written(text, reported):
    source = parse_yaml(f"{text}\ntasks: t\ndata: d\noutput: o\nencoder: e\n", path="a.yml")
    with pytest.raises(ConfigError) as caught:
        validated(RunConfig, source.value, source)
    assert caught.value.lines == (f"a.yml:1: {reported}",)
