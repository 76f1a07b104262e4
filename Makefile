# Every target sets up what it needs by itself, given git, make and Python >= 3.11. Nothing outside this folder
# is changed, but for servers that the tests may have to install (see CONTRIBUTING.md).
# PYTHON=… names the Python to use; ARGS=… is handed to the command of a target.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help dev example-reminders test test-cluster test-long test-all check format generate plain requirements upgrade bench bench-operator docs clean named-python

BIN := .venv/bin
READY := .venv/ready
# Its notice is of a theme that we know of: see docs/dependencies.md.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
# Tests mostly wait for time to pass and for other processes, so some more run at once than there are processors.
AT_ONCE ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses=$(AT_ONCE) --dist=loadgroup
ARGS ?=

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: $(READY) ## Run the quickstart: handlers on their schedules, on an embedded SQLite.
	@$(BIN)/pyncette dev examples/quickstart $(ARGS)

example-reminders: $(READY) ## Run a day of examples/reminders: 100,000 people in their own time zones, in some minutes.
	@$(BIN)/python -m examples.reminders day $(ARGS)

test: $(READY) ## Run the tests that need no cluster, on real servers.
	$(PYTEST) -m "not cluster and not long" $(ARGS)

test-cluster: $(READY) ## Run the tests that need an API server, Helm, or a whole cluster, which is brought up for them.
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup -m "cluster and not long" $(ARGS)

test-long: $(READY) ## Run the tests that take long, and are in neither of these; some need an API server.
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup -m long $(ARGS)

test-all: $(READY) ## Run every test.
	$(PYTEST) $(ARGS)

check: $(READY) ## Check format, lint, types, imports, sizes, links, and that generated files are current.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/structure.py --check --longest 0
	$(BIN)/python tools/generate.py --check
	$(MKDOCS)

format: $(READY) ## Format the code, and apply the fixes of the linter.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

generate: $(READY) ## Write the files that are made from the code.
	$(BIN)/python tools/generate.py

plain: $(READY) ## Write charts/kustomize, the plain manifests, from the chart; needs Helm, or Go to build it.
	$(BIN)/python tools/render_plain.py

requirements: $(READY) ## Pin requirements/*.txt again, after a change of what is asked for.
	$(BIN)/python tools/compile_requirements.py $(ARGS)

upgrade: $(READY) ## Pin requirements/*.txt to the newest versions.
	$(BIN)/python tools/compile_requirements.py --upgrade $(ARGS)

bench: $(READY) ## Measure, and write the table of docs/performance.md.
	$(BIN)/python -m benchmarks $(ARGS)

bench-operator: $(READY) ## Measure the operator among 10,000 tasks, and write that table of docs/performance.md.
	$(BIN)/python -m benchmarks.operator_at_scale $(ARGS)

docs: $(READY) ## Build the documentation into site/.
	$(MKDOCS) $(ARGS)

clean: ## Remove what make made; the next target sets up again.
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache site dist

# Set up again only when what is asked for changed; a Python that is named may be another than last time.
$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml tools/set_up.py $(if $(PYTHON),named-python)
	@python=$$(PYTHON='$(PYTHON)' tools/find-python) && "$$python" tools/set_up.py
	@touch $@
