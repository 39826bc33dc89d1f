# Every target sets up .venv by itself from the version lock. PYTHON chooses the interpreter, ARGS goes to the tool:
#   make PYTHON=python3.12 test        make unit ARGS="-k batching"

PYTHON ?=
ARGS ?=
PYTHON311 ?= python3.11
PYTHON312 ?= python3.12

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# For tests that share nothing: a process a core. File by file in their order, or the longest would be among the last.
FILES := --dist loadfile --no-loadscope-reorder
PARALLEL := -n logical --maxprocesses 4 $(FILES)
# For tests on servers: each process has its own Kafka, registry and Triton (2 GiB), and half of the time waits for them.
SERVERS ?= 3
ON_SERVERS := -n $(SERVERS) $(FILES)
RANDOM := test_random_faults.py
LOWEST := build/lowest
SOURCES := headrace pipeline connectors triton_models tests tools

.DEFAULT_GOAL := help
.PHONY: help setup demo replay-demo demo-resilience test unit properties integration chaos chaos-long bench bench-full helm-check test-extra lint format docs lock \
	test-lowest wheel clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Run the main job end to end, with a worker killed on the way
	@$(BIN)/headrace demo $(ARGS)

replay-demo: setup ## Try a model's next version on history: replayed, judged by a gate, mended
	@$(BIN)/headrace replay-demo $(ARGS)

demo-resilience: setup ## See what happens when things go wrong: retries, a breaker, dead letters redriven
	@$(BIN)/headrace demo-resilience $(ARGS)

test: lint ## Everything that must be green: lint, then all tests but the chaos suite
	@$(PYTEST) $(PARALLEL) tests/unit tests/docs $(ARGS)
	@$(PYTEST) $(ON_SERVERS) tests/integration $(ARGS)

setup: ## Make .venv from the version lock (every other target does it when needed)
	@PYTHON="$(PYTHON)" tools/bootstrap.sh $(firstword $(MAKECMDGOALS))

unit: setup ## The fast tests: no server, under a minute
	@$(PYTEST) $(PARALLEL) tests/unit tests/docs $(ARGS)

properties: setup ## The tests of properties alone, which unit tries with few examples, with many
	@$(PYTEST) $(PARALLEL) tests/unit -m hypothesis --hypothesis-profile deep $(ARGS)

integration: setup ## The tests on real servers: Kafka, schema registry, Triton
	@$(PYTEST) $(ON_SERVERS) tests/integration $(ARGS)

chaos: setup ## Break everything under load for ten minutes, count every record (HEADRACE_CHAOS_SEED=, ARGS="-k ...")
	@$(PYTEST) tests/chaos/$(RANDOM) $(ARGS); random=$$?; \
		[ $$random = 0 ] || [ $$random = 5 ] || exit $$random; \
		$(PYTEST) -n 2 $(FILES) tests/chaos --ignore tests/chaos/$(RANDOM) $(ARGS); rest=$$?; \
		[ $$rest = 0 ] || { [ $$rest = 5 ] && [ $$random = 0 ]; }  # 5: ARGS chose none of them

chaos-long: setup ## Random faults for an hour, a million records, and overload for ten minutes: build/chaos*.json tell
	@HEADRACE_CHAOS_SECONDS=$${HEADRACE_CHAOS_SECONDS:-3600} \
		HEADRACE_CHAOS_OVERLOAD_SECONDS=$${HEADRACE_CHAOS_OVERLOAD_SECONDS:-600} \
		$(PYTEST) tests/chaos/$(RANDOM) tests/chaos/test_overload.py $(ARGS)

bench: setup ## Measure headrace beside other programs: build/bench.json and docs/benchmarks.md (ARGS="--only ...")
	@$(BIN)/python -m tests.bench $(ARGS)

bench-full: setup ## The same, and as things grow; replays, beside live traffic and against it; comparisons (hours)
	@$(BIN)/python -m tests.bench --full
	@$(BIN)/python -m tests.bench.head_of_line
	@$(BIN)/python -m tests.bench.replay
	@$(BIN)/python -m tests.bench.replay_beside_live --own-triton --model text_embedding
	@$(BIN)/python -m tests.bench.replay_beside_live --own-triton --model image_jpeg --live-share 0.3
	@$(BIN)/python -m tests.bench.evaluate_bench
	@$(BIN)/python -m tests.bench.replay_million

helm-check: setup ## Lint, render and validate the Helm chart over a matrix of values (needs helm)
	@test -x build/helm-check/bin/python || $(BIN)/python -m venv build/helm-check
	@build/helm-check/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/helm-check.txt
	@build/helm-check/bin/python -m tools.helm_check

test-extra: helm-check ## The tests that need a tool beyond Python's packages: helm
	@$(PYTEST) tests/extra $(ARGS)

lint: setup ## Check style, format and types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: setup ## Mend what the style check can mend, and format
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

docs: setup ## Write the generated pages in docs/ again
	@$(BIN)/python tools/docs.py

lock: ## Resolve the version locks again, for both Python versions (PYTHON311=, PYTHON312=)
	@$(PYTHON311) tools/lock.py
	@$(PYTHON312) tools/lock.py

test-lowest: setup ## Run the fast tests on the lowest versions that pyproject.toml allows
	@rm -rf $(LOWEST)
	@$(BIN)/python -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --only-binary :all: -c requirements/lowest.txt -e '.[triton,embedded,evaluate,dev]'
	@$(LOWEST)/bin/python -m pytest $(PARALLEL) tests/unit $(ARGS)

wheel: setup ## Build the wheel into dist/
	@$(BIN)/python -m build --no-isolation --wheel --outdir dist .

clean: ## Remove what was built and the caches
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	@rm -rf .venv .venv.lock
