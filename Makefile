# Two commands on a fresh machine: `make demo` and `make test`; each does its own set-up.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SLURM_FOLDER ?= build/slurm
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-fast soak check format bench accept slurm-up slurm-down

help:
	@echo "make setup                 venv and requirements"
	@echo "make demo                  rendered corpus, pretraining, a forced preemption, EgoMCQ, results"
	@echo "make test                  all tests, on a real local Slurm too (what CI runs)"
	@echo "make test-fast             tests without Slurm and without the slow ones"
	@echo "make soak                  the long repetitions: kills, preemptions at random steps; one table"
	@echo "make check                 ruff, pyright, structure"
	@echo "make bench                 hot paths against the straightforward way, as ratios"
	@echo "make accept LINE=journey-1 re-run one acceptance line and print its figure"
	@echo "make slurm-up | slurm-down a four-node Slurm on this machine, to play with"

setup: $(READY)

$(READY): requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: setup
	$(PY) -m tests.integration.demo

test: setup
	$(PY) -m pytest -m "not soak" -n 3 --dist loadfile

test-fast: setup
	$(PY) -m pytest -m "not slurm and not slow" -n 2 --dist loadfile

soak: setup
	$(PY) -m tests.slurm.soak

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright
	$(PY) -m pytest -q tests/architecture

format: setup
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: setup
	$(PY) -m pytest tests/bench --benchmark-only -q -s

accept: setup
	$(PY) -m tests.accept $(LINE)

slurm-up: setup
	$(PY) -m tests.slurm.testbed up --folder $(SLURM_FOLDER) --accounting

slurm-down: setup
	$(PY) -m tests.slurm.testbed down --folder $(SLURM_FOLDER)
