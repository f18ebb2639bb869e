# Each target sets itself up on a fresh clone: Python 3.11, make and git are all it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
SUMS := find nbs mesbot \( -name '*.ipynb' -o -name '*.py' \) -type f | LC_ALL=C sort | xargs cksum
ARGS ?=
MODELS ?= models
MAKEFLAGS += --no-print-directory
# what IPython and matplotlib would write into the home folder stays here
export IPYTHONDIR := $(abspath $(VENV))/ipython
export MPLCONFIGDIR := $(abspath $(VENV))/matplotlib

.DEFAULT_GOAL := help
.PHONY: help report test paper bench soak marathon seeds crash lab sync

help: ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

report: $(VENV)/.research ## an honest walk-forward report on the built-in market; ARGS="--alpha 0" for one without an edge
	$(BIN)/mesbot report $(ARGS)

test: $(VENV)/.dev ## notebooks and library in step, every notebook runs, whole-repo truths hold
	@before="$$($(SUMS))"; $(BIN)/nbdev_clean && $(BIN)/nbdev_export || exit 1; \
	if [ "$$before" != "$$($(SUMS))" ]; then echo "notebooks were not clean or not exported; they are now: look at git diff, then test again"; exit 1; fi
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/pytest --quiet --numprocesses 2 --dist loadfile tests

paper: $(VENV)/.research ## a day of paper trading on a made-up market, as fast as decisions are made, then its review page; ARGS="--speed 1" for real time
	$(BIN)/mesbot models practice --models $(MODELS)
	$(BIN)/python -m live_runner paper --models $(MODELS) $(ARGS)

marathon: $(VENV)/.research ## ten days of paper trading on end: memory, and how long a decision takes; ARGS="--sessions 3" for less
	$(BIN)/python tests/soak_runner.py $(ARGS)

seeds: $(VENV)/.dev ## 500 seeded mixes of everything that can go wrong, through the runner's core
	MESBOT_SEEDS=500 $(BIN)/pytest --quiet --numprocesses 2 tests/acceptance/test_live_seeds.py

crash: $(VENV)/.dev ## the runner killed with -9 at every named point and at 100 random moments
	MESBOT_SLOW=1 $(BIN)/pytest --quiet tests/acceptance/test_live_crash.py tests/acceptance/test_journal_crash.py

sync: $(VENV)/.dev ## clean the notebooks and export the library from them
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

bench: $(VENV)/.research ## how fast and lean markets, store, features and labels are, measured here; ARGS="--rows 1000000" for less
	$(BIN)/mesbot bench $(ARGS)

soak: $(VENV)/.research ## five sessions through the simulated gateway as fast as a client reads: time, memory, round trips; ARGS="--sessions 2" for less
	$(BIN)/python tests/soak_gateway.py $(ARGS)

lab: $(VENV)/.lab ## read and write the book in JupyterLab
	$(BIN)/jupyter lab nbs

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mesbot needs Python 3.11 or later, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools wheel

# A stamp says that an extra is installed from the lock; it is made anew when the lock or the package facts change.
$(VENV)/.%: $(VENV)/bin/pip settings.ini setup.py pyproject.toml constraints.txt
	@echo "installing what mesbot needs for [$*] into $(VENV): some minutes and up to 2 GB, once" >&2
	$(INSTALL) --no-build-isolation --editable '.[$*]'
	@touch $@
