# Two commands matter on a fresh machine: `make demo` and `make test`. Each makes the environments that it needs.
# They need Python 3.11 or 3.12 (with a shared libpython), Java 17 or newer, and Maven; nothing else.

PYTHON ?= $(shell .ci/python)
UV := .build/uv/bin/uv
# Where `make fit` and `make evaluate` find labelled data; see training/lite/README.md for its shape.
DATA ?= data

.PHONY: demo test test-proguard chaos lint fmt bench bench-guard gpu-check check-schemas publish-schemas fit evaluate locks clean help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/ready $(if $(filter proguard,$(GUARD)),.venv-proguard/ready,.venv-triton/ready) ## the main job: real Kafka, real Triton, 300 events, sums that must match; GUARD=proguard MODEL=checkpoint for the real model
	.venv/bin/proguard-stream demo $(if $(GUARD),--guard $(GUARD)) $(if $(MODEL),--model $(MODEL)) $(ARGS)

test: .venv/ready .venv-triton/ready .venv-proguard/ready ## the whole suite, against real Kafka and real Triton
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)
	$(PYTEST_PROGUARD)

# What needs torch runs in an environment of its own; --confcutdir keeps out the fixtures of the rest, which need Kafka's client.
PROGUARD_TESTS := tests/triton_models/proguard
PYTEST_PROGUARD = .venv-proguard/bin/python -m pytest -n 2 --dist loadfile --confcutdir=$(PROGUARD_TESTS) $(PROGUARD_TESTS) tests/gpu

test-proguard: .venv-proguard/ready .venv-triton/ready ## only the real guard's tests (a tiny random checkpoint, on the CPU)
	$(PYTEST_PROGUARD) $(ARGS)

lint: .venv/ready check-schemas ## formatting, lint, types, published schemas
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

fmt: .venv/ready ## format and fix what can be fixed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

check-schemas: .venv/ready ## the published schemas are up to date and none is broken
	.venv/bin/python -m schemas.publish --check
	.venv/bin/python -m schemas.compat

publish-schemas: .venv/ready ## write schemas/published from the models
	.venv/bin/python -m schemas.publish

bench: .venv/ready .venv-triton/ready ## ratios of one run, on a quiet machine (half an hour; ARGS="--events 6000 --memory 0": ten minutes)
	.venv/bin/python -m tests.benchmarks.run $(ARGS)

bench-guard: .venv-proguard/ready ## the real guard at 1, 16 and 64 in flight; MODEL=<sealed checkpoint> DEVICE=cuda for a real one
	.venv-proguard/bin/python -m tests.benchmarks.real_guard $(if $(MODEL),--model $(MODEL)) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

# TensorRT-LLM is in the Python of NVIDIA's container, next to a transformers that is too old for the other engine: one run each, compared.
GPU_PYTHON ?= python3
GPU_CHECK = -m tests.gpu.check $(if $(MODEL),--model $(MODEL)) $(if $(PRESET),--preset $(PRESET)) $(ARGS)
gpu-check: .venv-proguard/ready ## the acceptance on a GPU: MODEL=<sealed checkpoint> PRESET=h100-7b, or random weights of the 7B's shape
	.venv-proguard/bin/python $(GPU_CHECK) --engines transformers --out gpu-check
	@if [ -n "$(MODEL)" ] && $(GPU_PYTHON) -c 'import importlib.util as i, sys; sys.exit(i.find_spec("tensorrt_llm") is None)'; then \
	  $(GPU_PYTHON) $(GPU_CHECK) --engines tensorrt_llm --compare-with gpu-check/answers.json --out gpu-check/tensorrt_llm; \
	else echo "TensorRT-LLM was NOT checked: it needs MODEL and NVIDIA's container"; fi

chaos: .venv/ready .venv-triton/ready ## FAULTS faults (500) with a SEED, on real Kafka and Triton; every topic audited at the end
	.venv/bin/python -m tests.chaos.run

fit: .venv/ready ## fit the embedded guard's heads on DATA
	.venv/bin/python -m training.lite.fit --data $(DATA)

evaluate: .venv/ready ## score the embedded guard on DATA's test splits
	.venv/bin/python -m training.lite.evaluate --data $(DATA)

# Environments: one lock each, hashes checked, no project code inside but an editable link.

$(UV): locks/uv.txt
	$(PYTHON) -m venv .build/uv
	.build/uv/bin/python -m pip install --quiet --require-hashes -r locks/uv.txt
	@touch $@

.venv/ready: $(UV) locks/dev.txt locks/build.txt pyproject.toml
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python .venv/bin/python --require-hashes locks/dev.txt
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --build-constraints locks/build.txt --editable .
	@touch $@

.venv-triton/ready: $(UV) locks/triton.txt
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-triton
	$(UV) pip sync --quiet --python .venv-triton/bin/python --require-hashes locks/triton.txt
	@touch $@

.venv-proguard/ready: $(UV) locks/proguard.txt
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-proguard
	$(UV) pip sync --quiet --python .venv-proguard/bin/python --require-hashes locks/proguard.txt
	@touch $@

COMPILE = $(UV) pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11

locks: $(UV) ## resolve again, to the newest versions that pyproject allows
	$(COMPILE) pyproject.toml --extra worker -o locks/worker.txt
	$(COMPILE) pyproject.toml --extra worker --extra lite --extra dev -o locks/dev.txt
	$(COMPILE) pyproject.toml --extra triton -o locks/triton.txt
	$(COMPILE) pyproject.toml --extra proguard -o locks/proguard.txt
	$(COMPILE) pyproject.toml --extra worker --extra emerging -o locks/emerging.txt
	$(COMPILE) pyproject.toml --extra training -o locks/training.txt
	echo hatchling | $(COMPILE) - -o locks/build.txt
	echo uv | $(COMPILE) - -o locks/uv.txt

clean: ## remove the environments and caches of this checkout
	rm -rf .venv .venv-triton .venv-proguard .build .pytest_cache .mypy_cache .ruff_cache .hypothesis
