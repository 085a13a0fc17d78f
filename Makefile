# Two commands on a fresh machine with Python 3.11 to 3.13 and make:
#   make demo    make test
# `make help` lists the rest.

# A stranger may choose another build of PyTorch, such as its CPU build, which comes without the CUDA libraries:
#   make demo PYTORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTORCH_INDEX ?=

# The Python that .venv is made from: the first of these that runs and is in the range, unless PYTHON= is given.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	$$name -c '$(IN_RANGE)' 2>/dev/null && echo $$name && break; done)
IN_RANGE = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
INSTALLED = .venv/.installed
KERNELS = src/rewire/engine/kernels

# pip reads these too where it builds this package, apart from the environment that it installs into.
export PIP_CONSTRAINT = constraints.txt
export PIP_BUILD_CONSTRAINT = constraints.txt

.PHONY: demo test test-slow pages sanitize format clean help
.DEFAULT_GOAL = help

demo: $(INSTALLED)  ## train a network at 95 % sparsity on real images (digits), dense beside it; ends with a report
	$(BIN)/rewire train digits

# As many processes as there are cores; a thread each, unless a test asks for more, keeps them out of each other's way.
test: $(INSTALLED)  ## format, lint, types, the fast tests, the examples in docstrings and README (5 minutes)
	$(BIN)/ruff format --check --quiet . || { echo "Type make format to put this right."; exit 1; }
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not slow" --doctest-modules src tests

test-slow: $(INSTALLED)  ## the tests that take longer (60 minutes)
	$(BIN)/pytest -n auto -m slow tests

# The tests that go through the kernels with many shapes, for each instruction set that this processor has. A sanitizer
# has to be the first thing that the process loads; each build puts its libraries into a folder of its own.
KERNEL_TESTS = $(BIN)/pytest -m "not slow" $(wildcard tests/engine/test_*ops.py)
ISAS = $(BIN)/python -c "from rewire.engine.library import ISAS, isa; print(*ISAS[: ISAS.index(isa()) + 1])"
PRELOAD = LD_PRELOAD="$$($${CXX:-g++} -print-file-name=lib$(1).so) $$($${CXX:-g++} -print-file-name=libstdc++.so)"
sanitize: $(INSTALLED)  ## the kernels under AddressSanitizer, UBSan and ThreadSanitizer (Linux, GCC, CMake; 10 minutes)
	cmake -S $(KERNELS) -B build/address -DREWIRE_SANITIZE=address,undefined -DREWIRE_OUTPUT="$(CURDIR)/build/address"
	cmake --build build/address --parallel 2
	for isa in $$($(ISAS)); do REWIRE_ISA=$$isa REWIRE_KERNELS=build/address ASAN_OPTIONS=detect_leaks=0 \
		$(call PRELOAD,asan) $(KERNEL_TESTS) || exit 1; done
	cmake -S $(KERNELS) -B build/thread -DREWIRE_SANITIZE=thread -DREWIRE_OUTPUT="$(CURDIR)/build/thread"
	cmake --build build/thread --parallel 2
	REWIRE_KERNELS=build/thread TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1" \
		setarch -R env $(call PRELOAD,tsan) $(KERNEL_TESTS)

# The page of results comes last, because both write results/report.html.
pages: $(INSTALLED)  ## make every table and plot of README and docs anew, and results/report.html, from the records
	$(BIN)/rewire report results/ studies/ --refresh docs/exploration.md
	$(BIN)/rewire report results/ --refresh README.md docs/engine.md docs/methods.md docs/results.md

format: $(INSTALLED)  ## put the code in its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .

clean:  ## remove .venv and caches; runs/ with your own results stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/rewire/engine/_rewire_*
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

$(INSTALLED): pyproject.toml constraints.txt tools/backend.py $(wildcard $(KERNELS)/*)
	@$(or $(PYTHON),false) -c '$(IN_RANGE)' 2>/dev/null || { \
		echo "rewire needs Python 3.11, 3.12 or 3.13, and $(if $(PYTHON),$(PYTHON) does not run one,none is on your PATH)."; \
		echo "Install one, or name yours: make demo PYTHON=/path/to/python3.12"; exit 1; }
	@echo "[1/3] .venv, with $$($(PYTHON) --version)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "On Debian and Ubuntu, first type: sudo apt install python3-venv"; exit 1; }
	@echo "[2/3] PyTorch, the large part$(if $(PYTORCH_INDEX),, (PYTORCH_INDEX=https://download.pytorch.org/whl/cpu is smaller))"
	@$(PIP) install $(if $(PYTORCH_INDEX),--no-deps --index-url $(PYTORCH_INDEX)) torch
	@echo "[3/3] rewire and the other packages"
	@$(PIP) install --quiet --editable ".[dev]"
	@touch $@
