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

golden: .venv/.ready-docs
	$(BIN)/python -m pytest -m golden

# The site is in docs/_build; its generator is installed when it is first needed.
docs: .venv/.ready-docs
	$(BIN)/python docs/make.py
	$(BIN)/python -m sphinx -q -E -a -W --keep-going -b html docs docs/_build
	$(BIN)/python docs/links.py docs/_build

.venv/.ready-docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# Byte code is compiled by all cores; files of other versions of Python in some libraries cannot be.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -W ignore -m compileall -q -j 0 .venv/lib > /dev/null || true
	touch $(READY)

clean:
	rm -rf .venv runs docs/_build docs/methods
