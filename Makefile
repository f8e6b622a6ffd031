# What a developer types. `make` alone lists the commands.
.DEFAULT_GOAL := help
.PHONY: help setup venv build demo test check simulate chunking kill-matrix load fuzz openapi bench bench-peers bench-against scale profile

OUT := $(or $(CARGO_TARGET_DIR),target)
FARROW := $(OUT)/debug/farrow
VENV := $(OUT)/venv
FUZZ := $(OUT)/fuzz
TOOLS := $(OUT)/tools
CARGO_FUZZ := $(TOOLS)/bin/cargo-fuzz
PEERS := $(OUT)/peers
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_TARGETS = $(or $(TARGET),$(basename $(notdir $(wildcard fuzz/targets/*.rs))))

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: ## Install what is missing: R, Python, PostgreSQL, curl, jq, a C compiler (Debian, Ubuntu)
	@bash scripts/setup.sh

venv: setup $(VENV)/installed ## Install what checks the API against its description, and a storage that answers as S3 does, into the target folder

$(VENV)/installed: tests/contract/requirements.txt tests/storage/requirements.txt
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(^:%=--requirement %)
	@touch $@

build: setup ## Build the program: target/debug/farrow
	cargo build -p cli --bin farrow

demo: build ## Models by gear and the two-by-four topology, by curl, on two agents
	@FARROW=$(FARROW) bash demo/demo.sh

test: venv ## Everything that must hold before a change lands
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build -p cli --bin farrow
	cargo test --workspace

check: ## The quick part of `test`: format, lints, and licences where cargo-deny is installed
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	else echo "cargo-deny is not installed: licences not checked"; fi

simulate: setup ## 10000 histories of servers, agents, clients and a network that fails, and deliberate bugs that must be found; HISTORIES=n SEED=n choose
	FARROW_SIM_HISTORIES=$(or $(HISTORIES),10000) FARROW_SIM_SEED=$(or $(SEED),0) \
	cargo test -p server --lib --profile simulation simulation:: -- --nocapture --test-threads 1

chunking: setup ## Whole maps on virtual time: the makespan over its lower bound, ours beside rules that the literature knows
	cargo test -p server --lib -- --ignored --exact --nocapture scheduler::simulator::tests::the_table

kill-matrix: build ## Kill, stop and cut off each part at ten moments of a map, on both databases (some 15 minutes)
	FARROW_BIN=$(abspath $(FARROW)) cargo test -p tests --test e2e -- --ignored --exact --nocapture matrix::the_whole_kill_matrix

load: setup ## 200 agents and 500 waiting clients at one server for a minute, with a release build
	cargo build --release -p cli --bin farrow
	FARROW_BIN=$(abspath $(OUT))/release/farrow cargo test --release -p tests --test e2e -- --ignored --exact --nocapture load::a_minute_of_load

# The sanitizer, which finds what reads or takes more memory than it may, is not among what a stable
# compiler offers, but is part of it: RUSTC_BOOTSTRAP=1 has it, and no other toolchain is needed, which
# `make` would have to download and which would not be the compiler that builds the program. SQLite is
# not fuzzed; optimising it under the sanitizer would take longer than all of the rest.
fuzz: setup $(CARGO_FUZZ) ## Inputs that nobody would write, for every parser of what others send; SECONDS=n a target, TARGET=name choose
	RUSTC_BOOTSTRAP=1 CFLAGS="-O0 -g0" PATH=$(abspath $(TOOLS))/bin:$$PATH cargo fuzz build --target-dir $(FUZZ) $(TARGET)
	python3 fuzz/seeds.py $(FUZZ)/corpora
	python3 fuzz/run.py --programs $(FUZZ)/$(HOST)/release --corpora $(FUZZ)/corpora \
	--artifacts $(FUZZ)/artifacts --dictionaries fuzz/dictionaries --seconds $(or $(SECONDS),60) $(FUZZ_TARGETS)

$(CARGO_FUZZ):
	cargo install cargo-fuzz --version 0.13.2 --locked --root $(TOOLS)

openapi: build ## Write openapi/openapi.json anew from the code
	@mkdir -p openapi
	$(FARROW) openapi > openapi/openapi.json.new
	@mv openapi/openapi.json.new openapi/openapi.json

bench: setup ## Measure a release build, by itself and beside the peers that are installed; BENCH_ARGS='--help' tells what can be chosen
	cargo build --release -p cli --bin farrow
	python3 bench/run.py --farrow $(OUT)/release/farrow --peers $(PEERS) $(BENCH_ARGS)

bench-peers: setup $(PEERS)/installed ## Install what `bench` compares with: Celery, Dask, HyperQueue, joblib, Ray into the target folder, Redis and furrr by apt
	@bash scripts/setup.sh peers

$(PEERS)/installed: bench/peers/requirements.txt
	python3 -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

scale: setup ## How costs and memory grow with elements, queued jobs, waiting agents, large values (some ten minutes); SCALE_ARGS='--help' tells what can be chosen
	cargo build --release -p cli --bin farrow
	python3 bench/scale.py --farrow $(OUT)/release/farrow $(SCALE_ARGS)

# Frame pointers let perf say what a function costs with all that it calls.
profile: setup ## Which functions the processors' time goes to, of server, agent and workers, by perf; PROFILE_ARGS='--help' tells what can be chosen
	@command -v perf >/dev/null || { python3 bench/profile.py; exit 1; }
	RUSTFLAGS="-C force-frame-pointers=yes $$RUSTFLAGS" cargo build --profile profiling -p cli --bin farrow
	python3 bench/profile.py --farrow $(OUT)/profiling/farrow --output $(OUT)/profile $(PROFILE_ARGS)

bench-against: setup ## Compare with another build in the same run: make bench-against OLD=path/to/farrow
	cargo build --release -p cli --bin farrow
	python3 bench/compare.py --farrow $(OUT)/release/farrow --against $(OLD) $(BENCH_ARGS)
