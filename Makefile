# make quickstart   sets up, distils the embedded teacher, prints the verdict and where the report lies
# make test         sets up, then the tests;  make check   format, lint, types, docs
.PHONY: setup quickstart test check format docs clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.potstill-ready

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@python=; for name in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14; do \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "potstill needs Python 3.11 or newer; install it, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then "$$python" -m venv $(VENV) || { \
		echo "Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: setup
	$(BIN)/potstill quickstart

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/docs.py --check

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python scripts/docs.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
