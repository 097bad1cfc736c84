# Everything a developer runs. `make test` and `make demo` each work as the only command on a fresh machine.

PYTHON := .venv/bin/python
SECONDS_EACH ?= 60

.PHONY: setup demo test lint format bench soak fuzz

# Python environment, Debian packages (as root), npm peers; repeated only when their lists change.
setup:
	@scripts/setup python programs node

demo:
	@scripts/setup python
	@$(PYTHON) examples/demo.py

# One pytest run, so that one line counts everything; a file's tests share their networks in one worker.
test: setup
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "not soak"

lint:
	@scripts/setup python
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

format:
	@scripts/setup python
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# Every benchmark in turn, for an hour or so; the medians go to benchmarks/RESULTS.md.
bench: setup
	$(PYTHON) -m benchmarks

soak: setup
	$(PYTHON) -m pytest -m soak --timeout 7200

# Each target of tests/fuzz for SECONDS_EACH seconds.
fuzz:
	@scripts/setup python fuzz
	for target in tests/fuzz/fuzz_*.py; do $(PYTHON) $$target -max_total_time=$(SECONDS_EACH) || exit 1; done
