# Every target works in a fresh clone: it makes .venv first, once, and again only when pyproject.toml changes.
PYTHON ?= python3
SEED ?= 0
RUN ?= runs/demo
SET ?= tests/golden
WORLD := build/split/world
BIN := .venv/bin
# One thread for each process: torch on two threads beside one busy core is many times slower than on one.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: setup demo test check bench parity format results clean

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e '.[dev]'
	touch .venv/installed

demo: setup
	$(BIN)/irlvla demo --seed $(SEED) --run $(RUN)

test: setup
	$(BIN)/python -m pytest -q -n 2 tests

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) test

bench: setup
	$(BIN)/python benchmarks/scorer.py --set $(SET)
	$(BIN)/python benchmarks/reactive.py --set $(SET)
	$(BIN)/python benchmarks/preparation.py --set $(SET)
	$(BIN)/python benchmarks/split.py
	$(BIN)/python benchmarks/labelling.py --logs $(WORLD)/openscene --maps $(WORLD)/maps --split $(WORLD)/splits/train.yaml
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/camera.py

parity: setup
	mkdir -p build
	for name in epdms epdms_unfiltered; do $(BIN)/irlvla score --logs $(SET)/openscene --maps $(SET)/maps --split test \
		--trajectories $(SET)/trajectories.npz --definition $$name --out build/parity_$$name.csv > build/parity_$$name.txt || exit 1; done
	for name in epdms epdms_unfiltered; do $(BIN)/irlvla score --logs $(SET)/openscene --maps $(SET)/maps --split test \
		--trajectories $(SET)/trajectories.npz --definition $$name --traffic idm --out build/parity_$${name}_idm.csv \
		> build/parity_$${name}_idm.txt || exit 1; done
	$(BIN)/python tests/golden/compare.py $(SET) build/parity_epdms.csv build/parity_epdms_unfiltered.csv \
		build/parity_epdms_idm.csv build/parity_epdms_unfiltered_idm.csv

results: setup
	$(BIN)/python benchmarks/proof.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
