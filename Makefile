# Every target makes .venv first if it is missing or requirements.txt has changed since.
PYTHON ?= python3
DATA ?= auto
EXPERIMENT ?= lesson-classifier
SEEDS ?= 1
WORKERS ?= 1
SEED ?= 0
COUNT ?= 160
LOGS := lightning_logs
RUN := .venv/bin/python -m twinloop
STAMP := .venv/installed
BENCH_STAMP := .venv/installed-for-bench
SWEEP_STAMP := .venv/installed-for-sweep
LESSON_STAMP := .venv/installed-for-lesson

export DATA
# RESUME=1 resumes the latest run of the same experiment and data; LOOP=homemade trains by the
# Learner.
fit = $(RUN) fit --config experiments/$(1).yaml --data.source "$(DATA)" $(if $(RESUME),--ckpt_path last) \
    $(if $(LOOP),--loop $(LOOP)) $(if $(filter-out 1,$(SEEDS)),--seeds $(SEEDS))

.DEFAULT_GOAL := help
.PHONY: help train-ae train-classifier train-mlp compare sweep convolutions lesson notebook bench runs tensorboard test test-all test-slow faults fuzz lint lock clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile
	@echo "  with DATA=FOLDER, DATA=owner/name (the Hub) or DATA=digits; RESUME=1 resumes the latest run,"
	@echo "  and LOOP=homemade trains by the Learner in place of Lightning's Trainer"

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("twinloop needs Python 3.11 or newer; try make PYTHON=python3.12" \
	    if sys.version_info < (3, 11) else 0)'
	@echo "installing torch, lightning and the rest of requirements.txt into .venv, 2 GB: takes 1 to 3 minutes"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip # which shows a bar while it installs
	.venv/bin/python -m pip install --requirement requirements.txt
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	@touch $(STAMP)

# The frameworks that benchmarks/ compares with, and what slow tests need besides.
$(BENCH_STAMP): $(STAMP) benchmarks/requirements.txt benchmarks/requirements-torchvision.txt
	.venv/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt
	.venv/bin/python -m pip install --quiet --upgrade --no-deps --target .venv/torchvision \
	    --requirement benchmarks/requirements-torchvision.txt
	@touch $(BENCH_STAMP)

# Optuna, and what it needs to keep a study in a database.
$(SWEEP_STAMP): $(STAMP) pyproject.toml
	.venv/bin/python -m pip install --quiet --editable '.[sweep]'
	@touch $(SWEEP_STAMP)

# Jupyter, and what makes a site of its notebooks.
$(LESSON_STAMP): $(STAMP) pyproject.toml
	.venv/bin/python -m pip install --quiet --group lesson
	@touch $(LESSON_STAMP)

train-ae: $(STAMP) ## train the autoencoder on Fashion-MNIST, about a minute on 2 cores
	@$(call fit,autoencoder)

train-classifier: $(STAMP) ## train the classifier, 1 to 4 minutes on 2 cores
	@$(call fit,classifier)

train-mlp: $(STAMP) ## train the multi-layer perceptron, seconds
	@$(call fit,mlp)

compare: $(STAMP) ## train EXPERIMENT=lesson-classifier in both loops and compare the results
	@$(RUN) compare --config experiments/$(EXPERIMENT).yaml --data.source "$(DATA)" --seeds $(SEEDS) \
	    $(if $(RESUME),--resume)

sweep: EXPERIMENT = mlp
sweep: $(SWEEP_STAMP) ## find settings of EXPERIMENT=mlp by experiments/sweeps/mlp.yaml; TRIALS=20 WORKERS=1
	@OMP_NUM_THREADS=1 $(RUN) sweep --config experiments/$(EXPERIMENT).yaml --data.source "$(DATA)" \
	    --sweep experiments/sweeps/$(EXPERIMENT).yaml --workers $(WORKERS) $(if $(TRIALS),--trials $(TRIALS)) \
	    $(if $(RESUME),--resume) $(if $(LOOP),--loop $(LOOP))

# Layers this small gain nothing from a second thread, and lose much where other programs need it.
convolutions: $(STAMP) ## convolutions by hand: figures, an interactive page, a workbook of formulas
	@OMP_NUM_THREADS=1 $(RUN) convolutions --config experiments/lesson-classifier.yaml --data.source "$(DATA)" \
	    --data.batch_size 128 --trainer.max_epochs 40 --trainer.max_steps 860

lesson notebook: DATA := $(if $(filter auto,$(DATA)),digits,$(DATA))
lesson notebook: export OMP_NUM_THREADS := 1

lesson: $(LESSON_STAMP) convolutions ## run the lesson's notebooks, and write them as a site
	@.venv/bin/python notebooks/build.py site --convolutions lightning_logs/convolutions

# Copies, which git ignores, so that no source changes; those that are there may be half solved.
NOT_COPIED = $(filter-out $(patsubst %.ipynb,%.py,$(wildcard notebooks/*.ipynb)),$(wildcard notebooks/[0-9]*.py))
notebook: $(LESSON_STAMP) ## open copies of the lesson's notebooks in Jupyter
	@$(if $(NOT_COPIED),.venv/bin/jupytext --quiet --to ipynb $(NOT_COPIED))
	@DATA="$(if $(wildcard $(DATA)),$(abspath $(DATA)),$(DATA))" .venv/bin/python -m jupyterlab \
	    --ServerApp.root_dir=. --ServerApp.default_url=/lab/tree/notebooks/01_kernel.ipynb

bench: $(BENCH_STAMP) ## benchmarks beside other frameworks; PARTS=loops for one part
	@.venv/bin/python -m benchmarks $(PARTS) --data "$(DATA)" $(if $(ROUNDS),--rounds $(ROUNDS))

runs: $(STAMP) ## list all runs; ARGS="--best val/accuracy" for the best
	@$(RUN) runs $(ARGS)

tensorboard: $(STAMP) ## show the runs in a browser
	.venv/bin/tensorboard --logdir $(LOGS) --host localhost

test: $(STAMP) ## the fast tests: no network, no data set
	.venv/bin/python -m pytest --numprocesses auto

test-all: test test-slow ## all tests; DATA=FOLDER adds training on the real data

test-slow: $(BENCH_STAMP) $(LESSON_STAMP) $(SWEEP_STAMP) ## the tests that `make test` leaves out: slow, pages, SLURM, real data
	.venv/bin/python -m pytest --numprocesses auto --dist worksteal -rs -m "(slow or data or browser or slurm) and not gpu"

faults: $(SWEEP_STAMP) ## fault injection into COUNT=160 runs, at points drawn from SEED=0
	.venv/bin/python -m tests.faults --seed $(SEED) --count $(COUNT)
	.venv/bin/python -m tests.faults.sweeps --seed $(SEED)

fuzz: $(STAMP) ## thousands of invalid and hostile files, to docs/fuzz.json
	.venv/bin/python -m tests.fuzzing --inputs 240 --output docs/fuzz.json

lint: $(STAMP) ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

lock: ## pin all dependencies with their hashes in requirements.lock; needs uv
	uv pip compile pyproject.toml --quiet --group dev --extra export --constraint requirements.txt --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	    --output-file requirements.lock

clean: ## remove .venv and tool caches; keep the runs in lightning_logs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
