# `make demo` and `make test` set up all they need in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
CORE := setup.py $(wildcard regrnn/kernels/src/*)

.PHONY: demo test test-all sanitize lint bench clean

demo: .venv/core
	$(BIN)/regrnn demo

test: .venv/dev
	$(BIN)/python -m pytest

test-all: .venv/dev
	$(BIN)/python -m pytest -m "slow or not slow"

# The core's tests under the address and undefined-behaviour sanitizers (of g++), on a copy that is compiled with them.
# The tests run by pytest's own script, since `python -m pytest` would import the package from here.
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZED := $(CURDIR)/build/sanitize

sanitize: .venv/dev
	rm -rf $(SANITIZED)
	CXX="$(CXX)" CXXFLAGS="$(SANITIZE)" REGRNN_REQUIRE_CORE=1 \
	  $(BIN)/python -m pip install --quiet --no-deps --target $(SANITIZED) .
	for turn in "baseline tests/kernels" "avx2 tests/kernels" "auto tests/kernels/test_core_bfloat16.py"; do \
	  set -- $$turn; \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=$(SANITIZED) REGRNN_KERNEL=$$1 \
	  $(BIN)/pytest $$2 || exit 1; \
	done

# Keep the machine idle meanwhile: everything is measured in turns with the idiom, but not against other work.
bench: .venv/dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.report

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "regrnn needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt $(CORE) | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/dev: pyproject.toml constraints.txt $(CORE) | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/core

clean:
	rm -rf .venv build dist *.egg-info regrnn/kernels/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
