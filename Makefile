# Each target sets up what it needs by itself, and is quick the second time. Needs: Python 3.11 or newer, and make.
PYTHON ?= python3
GPU ?= 1
SECONDS ?= 60
MINUTES ?= 10
V := .venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow lint bench bench-detectors parity quality chaos soak flood kafka format clean bench-ingest fuzz
help:
	@sed -n 's/^## //p' Makefile

$(V)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Telltale needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(V)

# what runs: the engine and what it depends on, at the versions that were tested
$(V)/.run: $(V)/bin/python pyproject.toml constraints.txt
	$(V)/bin/pip install -q -c constraints.txt -e .
	@touch $@

$(V)/.test: $(V)/.run
	$(V)/bin/pip install -q -c constraints.txt -e '.[test,lint]'
	@touch $@

$(V)/.test-gpu: $(V)/.test
	$(V)/bin/pip install -q -c constraints.txt torch
	$(V)/bin/pip install -q -c constraints.txt triton
	@touch $@

## make demo [SECONDS=60]   the main job on real inference and a simulated fleet; the console at the printed address
demo: $(V)/.run
	$(V)/bin/telltale demo --seconds $(SECONDS)

ifeq ($(GPU),0)
TEST_ENV := $(V)/.test
else
TEST_ENV := $(V)/.test-gpu
endif

## make test [GPU=0]        all tests but the long suites; GPU=0 leaves out the interpreted GPU kernels
test: $(TEST_ENV) kafka
	$(V)/bin/python -m pytest -m "not slow" $(if $(filter 0,$(GPU)),--no-gpu-code) $(ARGS)

## make lint                ruff and mypy
lint: $(V)/.test
	$(V)/bin/ruff check .
	$(V)/bin/ruff format --check .
	$(V)/bin/mypy

format: $(V)/.test
	$(V)/bin/ruff check --fix .
	$(V)/bin/ruff format .

$(V)/.bench: $(V)/.test
	$(V)/bin/pip install -q -c constraints.txt -e '.[bench]'
	@touch $@

## make bench [ARGS=--peers] how fast the kernels are, against limits measured in the same run, and what one would otherwise call
bench: $(V)/.bench
	$(V)/bin/python -m benchmarks $(ARGS)

## make bench-detectors      what the detectors of inference traffic cost a row, beside River's ADWIN where .venv-peers has it
bench-detectors: $(V)/.test
	$(V)/bin/python -m benchmarks.detectors $(ARGS)

# the client that the engine is compared with, in an environment of its own
.venv-ingest/.done:
	$(PYTHON) -m venv .venv-ingest
	.venv-ingest/bin/pip install -q confluent-kafka==2.16.1
	@touch $@

## make bench-ingest         how fast bytes become columns, and Kafka's records alerts, beside the clients and readers that one would take
bench-ingest: $(V)/.test .venv-ingest/.done kafka
	$(V)/bin/python -m benchmarks.ingest
	$(V)/bin/python -m benchmarks.end_to_end $(ARGS)

$(V)/.fuzz: $(V)/.test
	$(V)/bin/pip install -q -c constraints.txt -e '.[fuzz]'
	@touch $@

## make fuzz [SECONDS=60]   hostile bytes for each decoder that reads them fast, and for Kafka's batches, SECONDS each
fuzz: $(V)/.fuzz
	for target in otlp json kafka; do $(V)/bin/python -m tests.fuzz.decode $$target -max_total_time=$(SECONDS) -max_len=8192 || exit 1; done

## make quality             how well the detectors detect, on the data in ../shared/data
quality: $(V)/.test .venv-quality/.done
	$(V)/bin/python -m benchmarks.quality $(ARGS)

## make test-slow            the long suites
test-slow: $(TEST_ENV) kafka
	$(V)/bin/python -m pytest -m slow $(ARGS)

## make chaos [MINUTES=10] [SEED=N]  faults of every kind against engine processes on a real Kafka; the alerts must be those of a quiet run
chaos: $(V)/.test kafka
	$(V)/bin/python -m tests.e2e.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

## make soak [MINUTES=10]   a running engine for minutes: idle CPU, delay of alerts at half load, a dead sink, whether memory stays flat
soak: $(V)/.test kafka
	$(V)/bin/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

## make flood               ten million principals that nobody has seen before, against the bound on memory
flood: $(V)/.test
	$(V)/bin/python -m benchmarks.flood $(ARGS)

## make kafka               bring Kafka's jars for the tests, where no Kafka is found and Maven is there
kafka:
	@$(PYTHON) tests/support/kafka_home.py

clean:
	rm -rf $(V) .kafka .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
