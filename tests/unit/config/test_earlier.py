"""What commit dc63209 wrote into run.yml is read, and hashed as it was then."""

from mtdnn.config.earlier import (
    is_of_a_run,
    with_execution,
    with_loss_options,
    with_unused,
    without_margin,
    without_unused,
)
from mtdnn.config.run import load_run_config

ADAMW = {
    "name": "adamw", "lr": 0.001, "head_lr": None, "weight_decay": 0.01, "betas": [0.9, 0.98], "eps": 1e-8,
    "momentum": 0.9, "layer_decay": 1.0,
}  # fmt: skip
LINEAR = {"name": "linear", "warmup": 0.2, "power": 2.0, "cut_fraction": 0.1, "ratio": 32.0}
"""Copied from run.yml files that dc63209 wrote; `--optimizer.momentum 0.9` was accepted there, and changed nothing."""


def test_options_that_were_never_used_are_dropped():
    read = without_unused({"optimizer": ADAMW, "schedule": LINEAR, "epochs": 3})
    assert set(ADAMW) - set(read["optimizer"]) == {"momentum"}
    assert (read["schedule"], read["epochs"]) == ({"name": "linear", "warmup": 0.2}, 3)
    sgd = without_unused({"optimizer": {**ADAMW, "name": "sgd"}})["optimizer"]
    assert sgd == {
        "name": "sgd", "lr": 0.001, "head_lr": None, "weight_decay": 0.01, "momentum": 0.9, "layer_decay": 1.0,
    }  # fmt: skip
    slanted = without_unused({"schedule": {**LINEAR, "name": "slanted_triangular"}})["schedule"]
    assert slanted == {"name": "slanted_triangular", "cut_fraction": 0.1, "ratio": 32.0}


def test_what_a_user_writes_is_left_to_be_refused():
    for block in (
        {"name": "adamw", "momentum": 0.9},
        {"lr": 1e-3},
        "adamw",
        {**ADAMW, "beta": 1},
        {**ADAMW, "name": "x"},
    ):
        assert without_unused({"optimizer": block}) == {"optimizer": block}


def test_a_run_yml_of_a_run_is_distinguished_from_a_user_s_file(tmp_path):
    block = ", ".join(f"{key}: {value}" for key, value in LINEAR.items())
    text = f"tasks: t\ndata: d\noutput: o\nencoder: e\nschedule: {{{block}}}\n"
    ours, theirs = tmp_path / "run.yml", tmp_path / "mine.yml"
    ours.write_text(f"# commit: dc63209336a4\n{text}")
    theirs.write_text(f"# my run\n{text}")
    assert is_of_a_run(ours) and not is_of_a_run(theirs)
    assert load_run_config(ours).schedule.options == {"warmup": 0.2}
    assert set(load_run_config(theirs).schedule.options) == {"warmup", "power", "cut_fraction", "ratio"}


def test_the_values_that_were_hashed_hold_every_option():
    run = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "schedule": {"name": "cosine", "warmup": 0.0}}
    assert with_unused(run) == {
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "betas": [0.9, 0.999], "eps": 1e-8},
        "schedule": {"name": "cosine", "warmup": 0.0, "power": 2.0, "cut_fraction": 0.1, "ratio": 32.0},
    }
    elsewhere = {"optimizer": {"name": "package.Lion", "lr": 0.1}}
    assert with_unused(elsewhere) == elsewhere


def test_a_margin_goes_to_the_loss_that_used_it():
    ranked = {"task_type": "ranking", "loss": "pairwise_margin", "margin": 2.0}
    assert with_loss_options({"a": ranked})["a"] == {
        "task_type": "ranking", "loss": {"name": "pairwise_margin", "margin": 2.0}
    }  # fmt: skip
    unused = {"task_type": "multiple_choice", "margin": 1.0}
    assert with_loss_options({"a": unused}) == {"a": {"task_type": "multiple_choice"}}
    own = {"task_type": "my.module.Type", "margin": 1.0}
    assert with_loss_options({"a": own}) == {"a": own}


def test_a_stored_margin_makes_no_store_out_of_date():
    stored = {"task_type": "ranking", "options": {"margin": 1.0, "one_best": True}}
    assert without_margin(stored) == {"task_type": "ranking", "options": {"one_best": True}}
    for other in ({"task_type": "mine", "options": {"margin": 1.0}}, {"task_type": "ranking", "options": None}, {}):
        assert without_margin(other) == other


def test_three_switches_are_read_as_one_record_and_hashed_as_three_keys(tmp_path):
    old = {"execution": "padded", "dropout_masks": "torch", "products": "fast"}
    assert with_execution({**old, "seed": 1}) == {
        "seed": 1, "execution": {"layout": "padded", "dropout": "torch", "products": "fast"}
    }  # fmt: skip
    assert with_unused(with_execution(old)) == old
    mixed = {"execution": {"layout": "padded"}, "products": "fast"}
    assert with_execution(mixed) == mixed  # of two minds: left to be refused
    mine = tmp_path / "mine.yml"
    mine.write_text("tasks: t\ndata: d\noutput: o\nencoder: e\nexecution: packed\ndropout_masks: torch\n")
    switches = load_run_config(mine).execution.model_dump()
    later = {"attention": "auto", "deterministic": False}
    assert switches == {"layout": "packed", "dropout": "torch", "products": "fast", **later}
    as_before = {"execution": "packed", "dropout_masks": "torch", "products": "fast"}
    assert with_unused({"execution": switches}) == as_before
    for changed in ({"attention": "squares"}, {"deterministic": True}):
        assert with_unused({"execution": {**switches, **changed}}) == {**as_before, **changed}
