# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check golden docs clean

demo: $(READY)
	$(BIN)/unlabeled demo --out runs/demo-$$(date +%Y%m%d-%H%M%S)

# Two processes at once, of one thread each: most tests use one core only. A file's tests share its fixtures.
test: $(READY)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(MAKE) test

golden: $(READY)
	$(BIN)/python -m pytest -m golden

docs: $(READY)
	$(BIN)/python docs/make.py

# Libraries are compiled to byte code when they are imported: a third less time than compiling all of them.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv runs
