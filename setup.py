"""Installs mtdnn; tool settings lie in pyproject.toml, tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="mtdnn",
    version="0.1.0",
    description="Multi-task fine-tuning of one shared encoder, with SMART as a per-task objective",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["mtdnn", "mtdnn.*"]),
    package_data={"mtdnn": ["py.typed"], "mtdnn.report": ["*.jinja"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "transformers>=5.7",
        "datasets>=4.1",
        "accelerate>=1.11",
        "tokenizers>=0.22.2",
        "safetensors>=0.5",
        "pydantic>=2.9",
        "jsonargparse[signatures]>=4.41",
        "PyYAML>=6.0.1",
        "filelock>=3.20.3",
        "jinja2>=3.1.6",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pyarrow>=23.0.1",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "tensorboard>=2.16",
        "tqdm>=4.66.3",
        "xxhash>=3.4",
    ],
    extras_require={
        "adapters": ["peft>=0.18"],
        "balance": ["torchjd[cagrad,quadprog-projector]>=0.18"],
        "ray": ["ray>=2.40"],
        "dev": [
            "hypothesis>=6.100",
            "mypy>=1.10",
            "peft>=0.18",
            "psutil>=5.9",
            "pytest>=8",
            "ruff>=0.6",
            "seqeval>=1.2",
            "torchjd[cagrad,quadprog-projector]>=0.18",
            "types-PyYAML",
            "types-tqdm",
        ],
        "docs": ["furo>=2024.8", "myst-parser>=4", "sphinx>=8"],
    },
    entry_points={"console_scripts": ["mtdnn = mtdnn.cli.main:main"]},
)
