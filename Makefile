# Everything runs in a virtual environment of the project's own. Each target sets up what it needs:
# `make demo` the package alone, `make test` also the tools and the rivals that the tests compare with.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTEST_ARGS ?=
BENCH_ARGS ?=
GATE_ARGS ?=
TOPICS ?=

BIN := $(VENV)/bin
RUST_VERSION := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
RUST := Cargo.toml $(wildcard rust/*/Cargo.toml) $(shell find rust -name '*.rs')
comma := ,
BENCH_TOPICS = $(if $(TOPICS),$(subst $(comma), ,$(TOPICS)),crf $(patsubst benches/contests_%.py,%,$(wildcard benches/contests_*.py)))
export VIRTUAL_ENV := $(abspath $(VENV))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-rust test-python test-transformers-old test-asan lint format bench gate kernels roofline test-gpu bench-gpu wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp in the environment says what has been installed there, and is as old as that.
$(VENV)/.stamp-venv:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fastseg needs Python 3.10 or newer: install it, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@found=$$(cargo --version 2>/dev/null | cut -d ' ' -f 2); \
		printf '%s\n' $(RUST_VERSION) "$$found" | sort --check=quiet --version-sort || \
		{ echo "fastseg builds its engine with Rust $(RUST_VERSION) or newer, and cargo here is: $${found:-missing}"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment: on Debian, 'apt install python3-venv' brings what is missing"; exit 1; }
	$(BIN)/pip install 'maturin>=1.12.1,<2'
	@touch $@

# The engine, compiled for speed, and the package, linked to the sources.
$(VENV)/.stamp-package: $(VENV)/.stamp-venv pyproject.toml $(RUST)
	$(BIN)/maturin develop --release --quiet
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/.stamp-package
	$(BIN)/pip install 'fastseg-rs[dev]'
	@touch $@

setup: $(VENV)/.stamp-dev $(VENV)/.stamp-package ## Install everything that tests and benches need into .venv

demo: $(VENV)/.stamp-package ## Refine the photograph in examples/ and write the before/after picture
	$(BIN)/python examples/demo.py

test: test-rust test-python ## Run every test

test-rust: ## Run the tests of the Rust engine alone, for each instruction set
	cargo test --package fastseg-core
	FASTSEG_SIMD=avx2 cargo test --quiet --package fastseg-core --test engine
	FASTSEG_SIMD=baseline cargo test --quiet --package fastseg-core --test engine

# A process for each core; each loads PyTorch, and more than eight are not worth their memory. Files stay
# together, so that what a file sets up once is set up once. PYTEST_ARGS='-n 0' takes one process.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 8 --dist loadfile

test-python: setup ## Run the Python tests (PYTEST_ARGS='-k refine' picks some)
	$(BIN)/pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

# An environment inside the environment: its own transformers, everything else from outside.
OLD := $(VENV)/transformers-old

$(OLD)/.stamp: pyproject.toml | $(VENV)/.stamp-dev
	$(BIN)/python -m venv --without-pip $(OLD)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(OLD)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outside.pth"
	$(OLD)/bin/python -m pip install 'transformers<5.9'
	@touch $@

test-transformers-old: setup $(OLD)/.stamp ## Run the tests of fastseg.accelerate with a transformers before 5.9
	$(OLD)/bin/python -I -m pytest $(SIDE_BY_SIDE) tests/acceleration $(PYTEST_ARGS)

test-asan: ## Run the engine's tests under AddressSanitizer (needs a nightly toolchain)
	RUSTFLAGS=-Zsanitizer=address cargo +nightly test --package fastseg-core \
		--target "$$(rustc -vV | sed -n 's/^host: //p')" --target-dir target/asan

lint: setup ## Check style, types, the stub of the engine, and clippy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest fastseg._rust
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings

format: setup ## Put the sources into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cargo fmt --all

bench: setup ## Measure against the rivals; write tables and JSON (TOPICS=crf,counting picks; BENCH_ARGS='--quick')
	@for topic in $(BENCH_TOPICS); do \
		if [ $$topic = crf ]; then set -- benches/compare.py; else set -- benches/contests.py --topics $$topic; fi; \
		echo "$(BIN)/python $$* $(BENCH_ARGS)"; $(BIN)/python "$$@" $(BENCH_ARGS) || exit 1; \
	done

gate: setup ## Fail where a measured ratio lies below its limit in benches/limits.toml
	$(BIN)/python benches/gate.py $(if $(TOPICS),--topics $(TOPICS)) $(GATE_ARGS)

kernels: setup ## Compile every Triton kernel for six chips (no GPU needed); write the tables
	TRITON_INTERPRET=0 $(BIN)/python benches/kernels_table.py

roofline: setup ## Count SegFormer's bytes and operations (no GPU needed); write docs/roofline.md
	TRITON_INTERPRET=0 $(BIN)/python -W ignore benches/roofline.py

# On a machine with a GPU nothing is built or installed: the sources run with the Python that has torch
# and triton (make GPU_PYTHON=python).
GPU_PYTHON ?= $(PYTHON)
ON_GPU = TRITON_INTERPRET=0 PYTHONPATH=python $(GPU_PYTHON)

test-gpu: ## Check every kernel on a GPU (needs torch and triton, no Rust)
	$(ON_GPU) tests/gpu/checks.py

bench-gpu: ## Check, then measure kernels and models on a GPU; write results and kernels/tuned.json
	$(ON_GPU) benches/gpu.py $(BENCH_ARGS)

wheel: $(VENV)/.stamp-venv ## Build the wheel and the source distribution into dist/
	$(BIN)/maturin build --release --sdist --out dist

clean: ## Remove what was built and installed
	rm -rf $(VENV) target dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find python -name '*.so' -delete
