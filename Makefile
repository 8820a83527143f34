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

# Byte code is compiled by all cores; files of other versions of Python in some libraries cannot be.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -W ignore -m compileall -q -j 0 .venv/lib > /dev/null || true
	touch $(READY)

clean:
	rm -rf .venv runs
