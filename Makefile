# Five words a newcomer needs, and test-nightly. What they do lives in the programs they call.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo up test test-nightly check bench

demo: .venv/.runtime ; .venv/bin/fairlead demo

up: .venv/.runtime ; .venv/bin/fairlead up

# What starts no stack shares all cores; of the others one at a time is enough for a machine. Both are run.
DEFAULT = .venv/bin/pytest -m "not nightly and not gpu"
SHARED = tests/unit tests/model tests/test_architecture.py
test: .venv/.development
	OMP_NUM_THREADS=1 $(DEFAULT) -n auto --dist worksteal $(SHARED); shared=$$?; \
	$(DEFAULT) $(SHARED:%=--ignore %) && exit $$shared

test-nightly: .venv/.development ; .venv/bin/pytest -m nightly

check: .venv/.development ; .venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/lint-imports --no-cache && .venv/bin/mypy

bench: .venv/.development ; .venv/bin/python -m benchmarks $(NAME)

# torch goes first and plainly, so that a build chosen before (CPU, CUDA) is kept: see README, "CPU or CUDA".
.venv/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Fairlead needs Python 3.11 to 3.13: make PYTHON=python3.12")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e '.[api,agent,workloads]'
	touch $@

.venv/.development: .venv/.runtime
	$(PIP) -e '.[api,agent,workloads,energy,explain,privacy,spiking,dev]'
	touch $@
