# Everything a person types here. Each target does all of its set-up itself.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build agent-deb check test check-api check-page test-slow test-foreign demo image-demo bench-agent bench-archive bench-image bench-inventory bench-load bench-server campaign-archive campaign-builds fuzz powercut simulate simulate-judge simulate-rollout clean

# 1 keeps the demo's page up until Ctrl-C, 0 ends when the table is printed.
KEEP ?= 1
# How long each fuzzer runs, and which ones; all if none is named.
SECONDS_EACH ?= 600
ONLY ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Device containers need root, compiling does not.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=CARGO_TARGET_DIR,VOLARY_CACHE,VOLARY_MINUTES,VOLARY_SEED,MENDER_ARTIFACT_4 env PATH=$$PATH)
HOST := $(subst -,_,$(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr a-z A-Z))
RUN_AS_ROOT := $(if $(SUDO),CARGO_TARGET_$(HOST)_RUNNER="$(SUDO)")
# One choice of packages and features for all that tests need. Each other choice gives some of what we depend on other
# features, and builds it and all that uses it once more.
ALL := --workspace --features volary-testkit/system
# Slow ones need containers and clean chroots, or the real ansible-playbook: the builder's own, those
# of the whole agent, and the system tests.
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
ifdef NEXTEST
RUN_TESTS := cargo nextest run --show-progress none --status-level slow
OWN := package(/^volary-(build|agent)$$/) & kind(test)
SYSTEM := package(volary-testkit) & binary(/^system_/)
BUILD_TESTED := cargo build --quiet $(ALL) --all-targets
# Most wait for the disk, git and ssh-keygen more than for a processor.
TEST_FAST := $(RUN_TESTS) $(ALL) --test-threads $(shell expr 2 \* $$(nproc)) -E 'not ($(OWN)) & not (package(volary-testkit) & kind(test))'
# Containers wait for much of their time, and leave a processor to the tests beside them.
TEST_SLOW := $(RUN_AS_ROOT) $(RUN_TESTS) $(ALL) --test-threads $(shell expr $$(nproc) + 1) -E '($(OWN)) | ($(SYSTEM))'
else
# Not every machine has cargo-nextest; cargo's own runner does the same, one binary after another.
RUN_TESTS := cargo test --quiet
BUILD_TESTED := cargo build --quiet --package volary-cli --package volary-xtask
TEST_FAST := $(RUN_TESTS) --workspace --exclude volary-build --exclude volary-agent && $(RUN_TESTS) --package volary-build --package volary-agent --lib --bins
TEST_SLOW := $(RUN_TESTS) --package volary-build --package volary-agent --test '*' && $(RUN_AS_ROOT) $(RUN_TESTS) --package volary-testkit --features system --test 'system_*'
endif

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## Install what building, testing and the demo need (Debian 12)
	@scripts/setup

build: setup ## Build the command line, the server and the tools
	@cargo build --package volary-cli --package volary-xtask

agent-deb: build ## Build the agent's Debian package into target/debian
	@cargo xtask agent-deb

check: setup ## Format, lints, tidiness, fast tests
	cargo fmt --all --check
	cargo clippy --quiet $(ALL) --all-targets -- -D warnings
	$(BUILD_TESTED)
	$(TARGET)/debug/volary-xtask tidy
	$(TEST_FAST)

test: check ## All tests, also those with containers, real apt and the demo
	$(TARGET)/debug/volary-xtask agent-deb
	$(TEST_SLOW)
	$(SUDO) $(TARGET)/debug/volary-xtask demo --no-keep --short

check-api: build ## The OpenAPI document, by the validator that others use
	@[ -x $(TARGET)/api/bin/openapi-spec-validator ] || { python3 -m venv $(TARGET)/api && $(TARGET)/api/bin/pip install --quiet openapi-spec-validator==0.9.0; }
	@$(TARGET)/debug/volary api openapi > $(TARGET)/api/openapi.json
	$(TARGET)/api/bin/openapi-spec-validator $(TARGET)/api/openapi.json

check-page: setup ## The server's pages in a real browser: accessible, fitting on a phone, a merge by a click, and signing in
	@scripts/setup browser
	@mkdir -p $(TARGET)/page
	@cd $(TARGET)/page && npm install --silent --no-fund --no-audit --no-save --prefix . playwright-core@1.65 axe-core@4.14 oidc-provider@9.13
	VOLARY_PAGE_OUT=$(abspath $(TARGET)/page) cargo test --quiet --package volary-server --test it browser:: -- --ignored --nocapture

test-slow: build agent-deb ## What takes too long for make test: real clients, exports, safety, a virtual machine, the page in a browser, foreign builds
	@scripts/setup machine
	@scripts/setup monitor
	@scripts/setup foreign
	@cargo xtask agent-deb --dev --architecture arm64
	@mkdir -p $(TARGET)/mender && cd $(TARGET)/mender && rm -f ./*.deb && apt-get download -qq -o APT::Sandbox::User=root mender-client && dpkg-deb --extract mender-client_*.deb .
	VOLARY_MENDER_MODULES=$(abspath $(TARGET))/mender/usr/share/mender/modules/v3 cargo test --quiet --package volary-agent --lib modules_that_exist -- --ignored
	CRASH_EVERY=1 cargo test --quiet --package volary-archive --test crash
	VOLARY_INVENTORY_CAMPAIGN=600 cargo test --quiet --package volary-fleet --test inventory_oracle --test inventory_split
	$(RUN_AS_ROOT) $(RUN_TESTS) --package volary-testkit --features system --test 'slow_*'
	cargo test --quiet --package volary-server --test it prometheus -- --ignored
	@$(MAKE) --no-print-directory check-api check-page
	$(RUN_AS_ROOT) cargo test --quiet --package volary-build --test builds -- --ignored

test-foreign: setup ## The agent for arm64 and armhf: built, packed, started and tested by qemu-user
	@scripts/setup foreign
	@cargo xtask test-foreign

demo: build agent-deb ## The whole chain on six devices, some 7 minutes; KEEP=0 ends instead of keeping the page up
	@$(SUDO) $(TARGET)/debug/volary-xtask demo $(if $(filter 0,$(KEEP)),--no-keep)

image-demo: build agent-deb ## An image is built, booted in QEMU, upgraded from Debian 12 to 13 by a merge, and brought back by a revert; KEEP=0 ends at once
	@scripts/setup machine
	@$(SUDO) $(TARGET)/debug/volary-xtask image-demo $(if $(filter 0,$(KEEP)),--no-keep)

campaign-builds: build ## Two packages of Debian for amd64 and arm64: built, installed, traced
	@$(SUDO) scripts/campaign-builds $(TARGET)/debug/volary

# Which parts of a benchmark or campaign; all if none is named. Of bench-agent: weight, idle, change.
PARTS ?=

bench-agent: build agent-deb ## Measure the agent beside ansible-pull and ansible-playbook (root; some 12 minutes)
	@$(SUDO) $(TARGET)/debug/volary-xtask bench-agent $(PARTS)
	@cargo xtask figures

bench-archive: setup ## Measure the archive beside aptly and reprepro (root; some 20 minutes)
	@cargo build --quiet --package volary-xtask
	@cargo build --quiet --release --package volary-cli
	@$(SUDO) $(TARGET)/debug/volary-xtask bench-archive
	@cargo xtask figures

# Of bench-image: artifacts, install, deltas; with commas between. STEPS of deltas: small, security, trixie; METHODS of
# deltas: gzip, blocks, pair, rauc, casync, xdelta, zstd.
# MENDER_ARTIFACT_4 may name a mender-artifact of version 4, which Debian has not: zstd is measured beside it.
STEPS ?=
METHODS ?=
bench-image: setup ## Measure artifacts, installing and deltas of images beside mender-artifact, mender-client, RAUC, casync, xdelta3 and zstd (root; some 10 minutes, and 90 in the peers of deltas)
	@scripts/setup images
	@cargo build --quiet --package volary-xtask
	@$(SUDO) $(TARGET)/debug/volary-xtask bench-image $(addprefix --only ,$(PARTS)) $(addprefix --steps ,$(STEPS)) $(addprefix --methods ,$(METHODS))
	@cargo xtask figures

bench-inventory: build agent-deb ## Measure what a change costs a device among 100 and 100,000 hosts (root)
	@cargo build --quiet --release --package volary-cli
	@$(SUDO) $(TARGET)/debug/volary-xtask bench-inventory
	@cargo xtask figures

# How many minutes simulated devices post.
POST_MINUTES ?= 5

# How many minutes of how many devices, and how long a minute is, in seconds.
LOAD_MINUTES ?= 3
LOAD_DEVICES ?= 100000
LOAD_MINUTE ?= 60

bench-load: setup ## Measure the whole server with 100,000 devices over TLS, for LOAD_MINUTES=3 (root; some 10 minutes)
	@cargo build --quiet --release --package volary-xtask
	@$(SUDO) $(TARGET)/release/volary-xtask bench-load $(LOAD_MINUTES) --devices $(LOAD_DEVICES) --minute $(LOAD_MINUTE)
	@cargo xtask figures

bench-server: setup ## Measure what measurements of 100,000 devices cost the server, for POST_MINUTES=5
	@cargo run --quiet --release --package volary-xtask -- bench-server $(POST_MINUTES)
	@cargo xtask figures

# How long a campaign may take, in minutes. What does not fit is told, not left out silently.
MINUTES ?= 40
# Its PARTS: race, clients, writers, kills, with commas between. AT_END=1 lets the indexes list the newest packages at
# their end, as those of large archives do.

campaign-archive: setup ## Kill, race and crowd the archive for at most MINUTES=40; PARTS=kills (root)
	@cargo build --quiet --package volary-xtask
	@cargo build --quiet --release --package volary-cli
	@$(SUDO) $(TARGET)/debug/volary-xtask campaign-archive --minutes $(MINUTES) $(addprefix --only ,$(PARTS)) $(if $(AT_END),--at-end)
	@cargo xtask figures

# How many cut images for each boot loader, and from which seed.
CUTS ?= 4000
SEED ?= $(shell date +%s)

powercut: setup ## Cut the power in CUTS=4000 writes of each boot state, in every write of an installation, and of whole machines for MINUTES=40 (root)
	VOLARY_CUTS=$(CUTS) VOLARY_SEED=$(SEED) cargo test --quiet --package volary-boot powercut -- --nocapture
	VOLARY_CUT_EVERY=1 cargo test --quiet --package volary-agent --lib slots::
	@scripts/setup machine
	@cargo build --quiet --package volary-xtask
	@$(RUN_AS_ROOT) $(TARGET)/debug/volary-xtask campaign-power --minutes $(MINUTES) --seed $(SEED)
	@cargo xtask figures

# How many worlds.
RUNS ?= 100000

simulate: setup ## Run the devices' machine in RUNS=100000 worlds that are out to break it
	@cargo xtask simulate --runs $(RUNS)
	@cargo xtask figures

simulate-rollout: setup ## Roll out commits that hurt, on made-up fleets, and write the table of docs/rollouts.md
	@cargo xtask simulate-rollout --runs $(if $(filter file,$(origin RUNS)),200,$(RUNS)) --seed $(if $(filter file,$(origin SEED)),1,$(SEED))
	@cargo xtask figures

simulate-judge: setup ## Count how often the judges are wrong, on made-up fleets, and write docs/judges.md (some 8 minutes)
	@cargo xtask simulate-judge --runs $(if $(filter file,$(origin RUNS)),1000,$(RUNS)) --seed $(if $(filter file,$(origin SEED)),1,$(SEED))
	@cargo xtask figures

fuzz: setup ## Fuzz every parser, SECONDS_EACH=600 each, or only those in ONLY
	@cargo xtask fuzz --seconds-each $(SECONDS_EACH) $(addprefix --only ,$(ONLY))
	@cargo xtask figures

clean: ## Remove what was built, also cached roots and stale labs
	@[ ! -x $(TARGET)/debug/volary-xtask ] || $(SUDO) $(TARGET)/debug/volary-xtask clean
	@cargo clean
