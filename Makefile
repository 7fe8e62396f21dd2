# make setup | demo | test | check | bench, and nothing to remember.  CONTRIBUTING.md says why.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
# Three workers: many tests wait for the kernel, and two leave a seventh of two cores idle.  One file stays with one
# worker, so a daemon serves a whole file.  Files come in the order of tests/conftest.py, not by their number of tests.
WORKERS ?= 3
# With it every process of a run compiles the tests again: a quarter of a minute each time.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
ARGS ?=

.PHONY: help setup setup-venv peers demo test test-fast test-against-docker test-vm test-machine check bench lock clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 22

setup: .cache/apt.stamp .venv/stamp .cache/peers.stamp test-machine  ## system packages (root), .venv, peers, the test machine: nothing started

setup-venv: .cache/apt.stamp .venv/stamp

peers: .cache/peers.stamp

.cache/apt.stamp: scripts/apt-packages.txt scripts/install-packages
	@mkdir -p .cache
	@scripts/install-packages
	@touch $@

.venv/stamp: requirements.lock pyproject.toml scripts/make-venv | .cache/apt.stamp
	@scripts/make-venv .venv
	@touch $@

.cache/peers.stamp: scripts/peers.txt scripts/unpack-peers | .cache/apt.stamp
	@mkdir -p .cache
	@scripts/unpack-peers $(CURDIR)/.cache/peers
	@touch $@

demo: setup-venv  ## the walkthrough with real containers; leaves nothing behind (TOMCAT=1: with a real Tomcat)
	@$(PY) -m demo $(if $(TOMCAT),--tomcat) $(ARGS)

test: setup  ## the whole test suite, and a core of it on Debian's own kernel (vm/tests)
	@$(PYTEST) $(ARGS)

test-fast: .venv/stamp  ## what needs no root and no daemon
	@$(PYTEST) tests/unit $(ARGS)

test-against-docker: setup  ## the api and clients tests aimed at Debian's dockerd: they test Docker's behaviour, not ours
	@$(PYTEST) --engine docker tests/api tests/clients $(ARGS)

test-vm: setup-venv  ## the demo and vm/tests on Debian's own kernel with cgroup v2, under qemu without KVM
	@vm/run $(ARGS)

# qemu and the kernel. A machine that cannot have them says why (status 77), and the test that wants them skips with it.
test-machine: setup-venv
	@vm/prepare || [ $$? -eq 77 ]

check: .venv/stamp  ## style, types, layers
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup  ## pierd and Debian's dockerd side by side: a table with ratios
	@$(PY) -m benchmarks $(ARGS)

lock: .venv/stamp  ## pin every Python package again, with hashes
	@scripts/lock

clean:  ## everything that set-up and tests made in this folder
	@rm -rf .venv .cache build pierhead.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
