"""The lowest versions are those of setup.py, and honest about what is known of them."""

from packaging.version import Version

from benchmarks.floors import SETUP, floors

NEEDED = {
    "torch": "2.11",  # varlen_attn(scale=, window_size=) exists from 2.11 on; below 2.10 there are CVEs
    "transformers": "5.7",  # CVE-2026-4372, CVE-2026-5241; 5.2 to 5.6 pack ModernBERT wrongly
    "jsonargparse": "4.49",  # 4.45 refuses positional arguments with a default; 4.48 has another name for `instantiate`
    "pydantic": "2.12",  # 2.11 cannot make the JSON schema of a run
    "setuptools": "77.0.3",  # what torch 2.13 needs; below 70.1 it makes no wheel by itself
    "filelock": "3.20.3",  # CVEs below
    "jinja2": "3.1.6",  # CVE-2025-27516 and others below
    "matplotlib": "3.10",  # 3.9 leaves labels that begin with "_" out of legends
    "pyarrow": "23.0.1",  # CVEs below
    "scipy": "1.15",  # 1.14 approximates Wilcoxon's p of few differences where one is 0 or two are equal
    "submitit": "1.5.4",  # 1.5.0 moves a script that its jobs have yet to read; 1.5.3 needs setuptools below 82
    "seqeval": "1.2.2",  # 1.2.0 and 1.2.1 need exactly numpy 1.19.2
}


def test_every_requirement_has_its_lowest_version():
    found = dict(line.split("==") for line in floors(SETUP.read_text(encoding="utf-8")))
    assert {name: found[name] for name in NEEDED if Version(found[name]) < Version(NEEDED[name])} == {}
    assert {"numpy", "pydantic", "safetensors", "ray", "jsonargparse", "torchjd"} <= found.keys()
