# Retort. Each target does all that it needs, from nothing; a second call does no work twice.
#
#   make quickstart   distillation from end to end in two minutes, on a task that comes with the program: no
#                     network, no GPU; then a table, a page, and a model to chat with
#   make hello        a real model: fetches SmolLM2-135M-Instruct (93 MB), imports it, lets it answer a question
#   make build        the optimised binary, at target/release/retort
#   make test         the whole suite, on any machine, without network once set up
#   make lint         formatting, clippy, documentation
#   make assets       the real model that some tests and benchmarks use (they are skipped without it)
#   make bench        the benchmarks; RETORT_PEER_PYTHON=python adds transformers beside them
#   make setup        libtorch and the crates, nothing more

SHELL := /bin/bash
ASSETS ?= $(CURDIR)/.assets
MODEL := $(ASSETS)/smollm2/SmolLM2-135M-Instruct
BINARY := target/release/retort

.PHONY: setup build test lint assets bench quickstart hello clean
.DEFAULT_GOAL := build

setup:
	@scripts/setup
	@cargo fetch --locked

build: setup
	cargo build --release --locked
	@scripts/place-binary "$(BINARY)"

test: setup
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} cargo test --workspace --locked

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

assets:
	@RETORT_ASSETS="$(ASSETS)" scripts/assets

bench: setup
	cargo bench --locked --bench ground --bench decode --bench mixed --bench train --bench onpolicy
	cargo bench --locked -p retort-policies --bench head

$(MODEL)/config.json: | build
	@RETORT_ASSETS="$(ASSETS)" scripts/assets
	$(BINARY) import "$(MODEL).Q4_1.gguf" --out "$(MODEL)"

quickstart: build
	$(BINARY) quickstart

hello: build $(MODEL)/config.json
	$(BINARY) inspect "$(MODEL)"
	$(BINARY) generate --model "$(MODEL)" --greedy --prompt "What is the capital of France?"

clean:
	cargo clean
