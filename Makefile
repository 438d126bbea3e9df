# Every target installs what it needs: uv into .tools/, Python packages into .venv/, and, where said, Debian packages
# (as root). `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV := .tools/bin/uv
RUN := $(UV) run --no-sync
export UV_PYTHON_DOWNLOADS := never
export UV_PYTHON_PREFERENCE := only-system

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(UV):
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8

.venv/.synced: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen --quiet --all-extras --group dev
	@touch $@

.PHONY: setup
setup: .venv/.synced ## Install uv and every Python package, as uv.lock pins them

.PHONY: demo
demo: setup ## Make a lake of real sample data, query Parquet, Delta and Iceberg, say how to go on
	$(RUN) firn demo --lake ./demo-lake

.PHONY: serve
serve: setup ## Serve the demo lake on http://127.0.0.1:8080
	$(RUN) firn serve --lake ./demo-lake

.PHONY: test
test: setup ## Run the tests that need no server of Debian's
	$(RUN) pytest -q -n 2 --dist loadfile -m "not e2e"

.PHONY: e2e
e2e: setup etcd ## Run the main job on a local stack, and all tests against a real etcd (apt-get, as root) and S3 API
	$(RUN) pytest -q tests/e2e/test_main_job.py
	$(RUN) pytest -q -m e2e --ignore tests/e2e/test_main_job.py

# A stack keeps all it has in STACK; two of them run side by side.
STACK ?= build/stack

.PHONY: up
up: setup ## Start etcd, an S3 API, the log, workers and the endpoint on this machine; S3=moto, WORKERS=2, PORT=…
	$(RUN) python localstack/stack.py --folder $(STACK) up $(if $(S3),--s3 $(S3)) $(if $(WORKERS),--workers $(WORKERS)) \
	  $(if $(FUNCTIONS),--functions $(FUNCTIONS)) $(if $(PORT),--port $(PORT))

.PHONY: down
down: setup ## End what `make up` started, and keep its data; DATA=delete does not
	$(RUN) python localstack/stack.py --folder $(STACK) down $(if $(DATA),--data $(DATA))

.PHONY: status
status: setup ## Say which parts of the stack run
	@$(RUN) python localstack/stack.py --folder $(STACK) status

.PHONY: logs
logs: setup ## Show what the stack's parts said last; PART=endpoint, LINES=20
	@$(RUN) python localstack/stack.py --folder $(STACK) logs $(PART) $(if $(LINES),--lines $(LINES))

.PHONY: etcd
etcd:
	@{ command -v etcd && command -v etcdctl; } >/dev/null || { echo "installing etcd-server and etcd-client with apt-get"; apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq etcd-server etcd-client >/dev/null; }

KILLS ?= 1000
SEED ?= 1

.PHONY: soak
soak: setup ## Kill writers, servers and compactors KILLS times (1000); prints acknowledged, found, lost, doubled
	$(RUN) python -m tests.soak --kills $(KILLS) --seed $(SEED)

ROUNDS ?= 10

.PHONY: fuzz
fuzz: setup ## Try ROUNDS (10) times as many examples of every property, other ones each time; TESTS=folder or file
	@for round in $$(seq $(ROUNDS)); do echo "round $$round of $(ROUNDS)"; \
	  $(RUN) pytest -q -n 2 --dist loadfile -m "hypothesis and not e2e" --hypothesis-profile fuzz $(TESTS) || exit 1; done

.PHONY: rolling
rolling: setup ## Have coordinators of this release ask workers of another, and the reverse; FROM=COMMIT, a commit or several
	$(RUN) python -m tests.rolling $(FROM)

.PHONY: check
check: setup ## Format, lint, types, layers
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	@if command -v terraform >/dev/null; then terraform fmt -check -recursive -diff terraform; \
	  else echo "NOT CHECKED: the format of terraform/, since terraform is not installed"; fi

.PHONY: terraform-check
terraform-check: setup ## Validate, test, apply to a local AWS and destroy; takes the AWS provider from TF_PLUGIN_DIR
	$(RUN) pytest -q -rs tests/e2e/test_terraform.py tests/infra/test_terraform_settings.py

.PHONY: image
image: setup ## Build the container image and run it; a Docker engine is installed (apt-get, as root) where there is none
	infra/image/engine.sh --install infra/image/build.sh
	infra/image/engine.sh --kept $(RUN) pytest -q -rs tests/e2e/test_image.py

.PHONY: image-clean
image-clean: ## Remove the image, its base, and what an engine of make image's own keeps
	infra/image/clean.sh

.PHONY: format
format: setup ## Format and fix what can be fixed
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

.venv/.bench: .venv/.synced
	$(UV) sync --frozen --quiet --all-extras --group dev --group bench
	@touch $@

.PHONY: lambda-zip
lambda-zip: setup ## Build the query worker's slim zip for AWS Lambda into build/lambda-zip, and check its size
	.venv/bin/python infra/lambda/build.py

.PHONY: bench
bench: bench-query bench-write bench-lookup bench-functions ## Run every benchmark

.PHONY: bench-query
bench-query: .venv/.bench ## Queries beside DataFusion, DuckDB, chDB and Polars; writes docs/benchmarks.md
	$(RUN) python -m benchmarks.query

.PHONY: postgres
postgres:
	@test -x /usr/lib/postgresql/15/bin/postgres || { echo "installing postgresql-15 with apt-get"; apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql-15 >/dev/null; }

.PHONY: bench-write
bench-write: .venv/.bench postgres ## Durable writes beside PostgreSQL (apt-get), SQLite, deltalake, pyiceberg; into docs/benchmarks.md
	$(RUN) python -m benchmarks.write

.PHONY: bench-lookup
bench-lookup: .venv/.bench ## Rows by their keys: kernels, and end to end beside DataFusion, DuckDB, Polars and pyiceberg
	$(RUN) python -m benchmarks.lookup

.PHONY: bench-functions
bench-functions: .venv/.bench ## Statements as tasks: processes, HTTP, Lambda's emulator, Ray, beside Sail, Dask, Ray Data; costs
	$(RUN) python -m benchmarks.functions

.PHONY: clean
clean: ## Remove what the targets made, except the lakes
	rm -rf .venv .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
