# make demo | test | lint | docs — each makes .venv with the tested versions first, once.
# PIP_FLAGS are options for pip, such as where to take a PyTorch without CUDA from.

PYTHON ?= python3
PIP_FLAGS ?=
# Without compiling every module of every package beforehand, which would take most of the time.
PIP := .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
# A process for each core with one thread each; tests of a file share its fixtures and so a process.
PARALLEL := -n logical --dist loadfile

.PHONY: demo test lint docs gpu floors wheel clean

demo: .venv/installed
	.venv/bin/python -m experiments.demo.run --out demo

test: .venv/installed
	$(OFFLINE) .venv/bin/python -m pytest $(PARALLEL)

# What needs a CUDA device: its tests, then the benchmarks as tables for benchmarks/README.md; without one, the reason.
# PIP_FLAGS must not point at a PyTorch without CUDA. BENCHMARK_FLAGS are those of benchmarks/on_gpu.py.
BENCHMARK_FLAGS ?=
gpu: .venv/installed
	$(OFFLINE) .venv/bin/python -m pytest -m gpu -rs tests/gpu
	$(OFFLINE) .venv/bin/python -m benchmarks.on_gpu --device cuda $(BENCHMARK_FLAGS)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The site, in build/site; a warning is an error.
docs: .venv/installed_docs
	.venv/bin/sphinx-build -a -W --keep-going -q -c docs . build/site
	@echo build/site/index.html

# torch first: what comes after it then finds the pinned build there.
.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	touch $@

.venv/installed_docs: .venv/installed
	$(PIP) --editable '.[docs]'
	touch $@

# The tests once with the lowest versions that setup.py allows, in an environment of their own. PIP_FLAGS as above.
floors: .floors/installed
	$(OFFLINE) .floors/bin/python -m pytest $(PARALLEL)

.floors/installed: setup.py benchmarks/floors.py
	$(PYTHON) -m venv --clear .floors
	$(PYTHON) benchmarks/floors.py > .floors/constraints.txt
	.floors/bin/python -m pip install --quiet --no-compile $(PIP_FLAGS) -c .floors/constraints.txt torch
	.floors/bin/python -m pip install --quiet --no-compile $(PIP_FLAGS) -c .floors/constraints.txt --editable '.[dev]'
	touch $@

# The wheel alone in an environment of its own, from converting rows to predicting them, outside the repository.
wheel:
	PYTHON=$(PYTHON) PIP_FLAGS="$(PIP_FLAGS)" bash .ci/wheel

clean:
	rm -rf .venv .floors demo build
