"""The script that remakes Figure 1 runs on the package as it is."""

import sys

from experiments.smart_toy import boundary


def test_the_script_draws_both_boundaries_and_the_right_one_is_smoother(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(boundary, "STEPS", 150)
    monkeypatch.setattr(sys, "argv", ["boundary.py", "--output", str(tmp_path / "boundary.png")])
    boundary.main()
    without, smooth = (float(line.split("R_s ")[1]) for line in capsys.readouterr().out.splitlines())
    assert smooth < without / 2
    assert (tmp_path / "boundary.png").stat().st_size > 10_000
