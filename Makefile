# One command per chore; `make` alone lists them. They use the Python of the active environment.
PYTHON ?= python
ARGS ?=

.PHONY: help build test check docs bench soak demo clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build what has changed, into llamacore_sys/
	$(PYTHON) build_lib.py build $(ARGS)

test: ## run the tests; ARGS="tests/core -k sampler" for some
	$(PYTHON) -m pytest $(ARGS)

check: ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

docs: ## build the site into site/
	$(PYTHON) -m mkdocs build --strict

bench: ## run the benchmarks
	$(PYTHON) benchmarks/generate.py $(ARGS)
	$(PYTHON) benchmarks/engine.py
	$(PYTHON) benchmarks/embed.py
	$(PYTHON) benchmarks/speculative.py
	$(PYTHON) benchmarks/capture.py
	$(PYTHON) benchmarks/portable.py

soak: ## twenty minutes of random requests to one engine
	$(PYTHON) tests/stress/soak.py 1200

demo: ## train the demo model anew
	$(PYTHON) -m tools.train_demo --work build/demo $(ARGS)

clean: ## remove everything built; the downloaded source stays
	$(PYTHON) build_lib.py clean
	rm -rf site dist *.egg-info
