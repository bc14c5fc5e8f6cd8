# Nothing but Python 3.10 or newer and pip is needed; every target makes the environment that it wants by itself.
PYTHON ?= python3
DEMO = .venv-demo
DEV = .venv-dev
TEST ?= tests
COUNT ?= 20
JOBS ?= 1

.PHONY: help demo test lint types wheel stress bench clean

help:
	@echo "make demo     two ordinary programs, each as it is and with its import changed: results and times"
	@echo "make test     the test suite"
	@echo "make lint     ruff;  make types: mypy;  make wheel: dist/*.whl"
	@echo "make stress   TEST=tests/driver COUNT=50 [JOBS=4]: the same tests again and again, each in a new process"
	@echo "make bench    benchmarks side by side with the alternatives (long; python -m benchmarks --help for less)"
	@echo "make clean    remove what these targets made"

demo:
	@$(PYTHON) tools/make_venv.py $(DEMO) -- -e '.[demo]'
	@$(DEMO)/bin/python examples/demo.py

test: $(DEV)/made
	$(DEV)/bin/python -m pytest -q $(TEST)

lint: $(DEV)/made
	$(DEV)/bin/python -m ruff check .
	$(DEV)/bin/python -m ruff format --check .

types: $(DEV)/made
	$(DEV)/bin/python -m mypy

wheel: $(DEV)/made
	$(DEV)/bin/python -m build --wheel

stress: $(DEV)/made
	$(DEV)/bin/python tests/run_repeated.py --count $(COUNT) --jobs $(JOBS) $(TEST)

bench:
	@$(PYTHON) -m benchmarks

# Always asked: the script knows by itself whether there is something to do.
.PHONY: $(DEV)/made
$(DEV)/made:
	@$(PYTHON) tools/make_venv.py $(DEV) -- -e '.[dev]'

clean:
	rm -rf $(DEMO) $(DEV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
