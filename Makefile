# Two commands do everything, set-up included: `make demo` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format generate bench bench-drift clean

BIN := .venv/bin

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install what the other targets need; does nothing when it is there
	@./setup.sh

demo: setup  ## train, publish, serve and monitor a model on this machine; stays up until Ctrl-C
	@$(BIN)/tidegate demo

test:  ## run all tests, against the real Triton, the real Prometheus and KServe's client
	@./setup.sh test
	@$(BIN)/python -m pytest $(ARGS)

check: setup  ## lint, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: setup  ## write the files that code makes: rules, dashboard, JSON Schema
	@$(BIN)/tidegate schema > docs/contract.schema.json
	@$(BIN)/python -c "import json; from gateway.route import json_schema; print(json.dumps(json_schema(), indent=1))" \
		> docs/routes.schema.json
	@$(BIN)/python -m monitoring
	@$(BIN)/python -m monitoring.sketch
	@$(BIN)/tidegate manifests

bench: setup  ## measure the gateway beside Triton alone
	@$(BIN)/python -m bench $(ARGS)

bench-drift: setup  ## false alarms and delay of the drift rules beside Evidently, NannyML, alibi-detect and Frouros
	@$(BIN)/python -m bench.drift $(ARGS)

clean:  ## remove run files, caches and all environments; published models stay
	rm -rf .venv .venv-triton .venv-kserve .venv-s3 .venv-kubectl run .pytest_cache .mypy_cache .ruff_cache .hypothesis tidegate.egg-info
