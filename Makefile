# Each target works as the first command after "git clone"; only Python 3.11 or newer and make must be there.

REAL := slurm or sge or mpi
FAST := not ($(REAL)) and not slow
PYTEST := .venv/bin/python -m pytest
# Several tests at a time, for those that share nothing but the machine; see pytest_xdist_auto_num_workers.
SPREAD := --numprocesses=auto --dist=worksteal

# Where this is set, every process of the tests compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo lint check test bench docs clean

help:
	@echo "make setup   make .venv with hpclaunch and what its tests need"
	@echo "make demo    run the main job on this machine: eight jobs, a computation, a summary"
	@echo "make check   format, lint, types and the fast tests (less than a minute)"
	@echo "make test    all of that and all tests; as root on Debian with a real Slurm and a real Grid Engine"
	@echo "make bench   measure hpclaunch beside other tools"
	@echo "make docs    the documentation as web pages, in build/docs"
	@echo "make clean   remove what these targets made here"

setup: .venv/.complete

.venv/.complete: pyproject.toml .ci/setup .ci/constraints.txt
	@sh .ci/setup .venv test
	@touch $@

.venv-bench/.complete: pyproject.toml .ci/setup
	@sh .ci/setup .venv-bench bench
	@touch $@

demo: setup
	@.venv/bin/python examples/demo.py

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

check: lint
	HPCLAUNCH_TEST_PROFILE=quick $(PYTEST) -q $(SPREAD) -m "$(FAST)"

# The tests run also when lint fails, so that one run tells all. What needs a real system comes last: guard.sh runs
# the tests of each system beside those of the others, and stops the test beds however the run ends.
test: setup
	@status=0; \
	$(MAKE) --no-print-directory --keep-going lint || status=$$?; \
	$(PYTEST) -q $(SPREAD) --durations=10 -m "not ($(REAL))" || status=$$?; \
	bash tests/testbed/guard.sh $(PYTEST) --durations=10 || status=$$?; \
	[ $$status = 0 ] && echo "make test: passed" || echo "make test: FAILED" >&2; \
	exit $$status

bench: .venv-bench/.complete
	.venv-bench/bin/python -m benchmarks

docs:
	@sh .ci/setup .venv-docs docs
	.venv-docs/bin/mkdocs build --quiet

clean:
	rm -rf .venv .venv-audit .venv-bench .venv-docs .venv-mpi dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find hpclaunch tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
