# `make` lists the commands. Everything they need is made on the way: .venv (Python 3.11 or newer) and .lava.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LAVA := .lava/d2e-lava.json
PYTEST := D2E_REQUIRE_LAVA=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test quick lint bench bench-lava lava clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
		--config-settings editable_mode=compat -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps sinabs snntorch spikingjelly norse loguru
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps neurobench tqdm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps tonic aedat importRosbag \
		requests urllib3 idna certifi charset-normalizer
	touch $@

$(LAVA): $(READY) backends/loihi2/lava/env.py
	$(BIN)/d2e lava install --path .lava

venv: $(READY) ## make the Python environment .venv

demo: $(READY) ## compile the shipped digits network for loihi2-sim and show the report
	$(BIN)/d2e-compile examples/digits/model.pt --target loihi2-sim \
		--calibration examples/digits/calibration.npz --eval examples/digits/test.npz

test: $(READY) $(LAVA) ## run the whole test suite, the comparisons with Lava included
	$(PYTEST) -n 2 -m "not slow"

quick: $(READY) ## run the tests that need neither Lava nor a browser, the first failure ends it
	$(BIN)/python -m pytest -n 2 -x -q -m "not slow and not lava and not browser"

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY) $(LAVA) ## time the simulator beside Lava, torch and the frameworks installed
	$(BIN)/python benchmarks/simulator.py

bench-lava: $(READY) $(LAVA) ## compare 700 random networks and the example models with Lava, spike for spike
	$(PYTEST) -n 2 -m "slow or lava"

lava: $(LAVA) ## make the private environment of lava-nc and lava-dl, .lava

clean: ## remove both environments and everything built
	rm -rf $(VENV) .lava .bench build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
