# Everything runs from $(VENV), which the first target that needs it builds. Set VENV=/path/to/environment to use one that
# you have (its torch is kept), PYTHON=python3.12 to build with another Python, ARGS="..." to pass arguments on.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PARALLEL := -n auto --dist worksteal
BIN := $(VENV)/bin
RUN := $(VENV)/.elbowroom-run
DEV := $(VENV)/.elbowroom-dev
CHECK_PYTHON := 'import sys; sys.version_info < (3, 11) and sys.exit("needs Python 3.11 or newer: set PYTHON=")'

.PHONY: all help venv demo test slow paper adapters ray bench lint types clean

all: venv help  ## build the environment and list the targets

help:  ## list the targets
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "make %-7s %s\n", $$1, $$2}' Makefile

venv: $(DEV)  ## build the environment (again when pyproject.toml or constraints.txt changed)

$(RUN): pyproject.toml constraints.txt tools/install.py
	@test -x $(BIN)/python || $(PYTHON) -c $(CHECK_PYTHON)
	@test -x $(BIN)/python || { echo "Building $(VENV) ..." && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python tools/install.py
	@touch $@

$(DEV): $(RUN)
	@$(BIN)/python tools/install.py dev
	@touch $@

demo: $(RUN)  ## measure the model that is shipped, on the data that is shipped
	@$(BIN)/elbowroom demo $(ARGS)

test: $(DEV)  ## run the fast tests and the doctests
	@$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

slow: $(DEV)  ## run the slow tests, and those on the files of ELBOWROOM_DATA
	@$(BIN)/python -m pytest -q -m "(slow or external) and not paper" $(PARALLEL) $(ARGS)

paper: $(DEV)  ## run all experiments of the paper quickly, and kill one
	@$(BIN)/python -m pytest -q -m paper $(ARGS)

# Foreign libraries live in an environment of their own, on top of $(VENV), so that nothing of theirs reaches it.
ADAPTERS := $(VENV)-adapters
FOREIGN := pythae==0.1.2 pyro-ppl==1.9.2 scvi-tools==1.4.2
BENEATH := 'import site; print("import site; site.addsitedir(" + repr(site.getsitepackages()[0]) + ")")'

$(ADAPTERS)/.ready: $(DEV)
	@rm -rf $(ADAPTERS) && echo "Building $(ADAPTERS) ..." && $(BIN)/python -m venv $(ADAPTERS)
	@$(BIN)/python -c $(BENEATH) > $$(echo $(ADAPTERS)/lib/python3*/site-packages)/beneath.pth
	@$(ADAPTERS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(FOREIGN)
	@touch $@

adapters: $(ADAPTERS)/.ready  ## run the tests of the adapters, with the foreign libraries
	@ELBOWROOM_ADAPTERS=1 $(ADAPTERS)/bin/python -m pytest -q -p no:cacheprovider -m adapters $(PARALLEL) tests/adapters $(ARGS)

# Ray too, with its many dependencies.
RAY := $(VENV)-ray

$(RAY)/.ready: $(DEV)
	@rm -rf $(RAY) && echo "Building $(RAY) ..." && $(BIN)/python -m venv $(RAY)
	@$(BIN)/python -c $(BENEATH) > $$(echo $(RAY)/lib/python3*/site-packages)/beneath.pth
	@$(RAY)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt ray==2.60.0
	@touch $@

ray: $(RAY)/.ready  ## run the tests on a cluster of Ray
	@ELBOWROOM_RAY=1 $(RAY)/bin/python -m pytest -q -p no:cacheprovider -m ray tests/scale $(ARGS)

bench: $(DEV)  ## measure cost and reach on the files of ELBOWROOM_DATA, write docs/benchmarks.md (ARGS="growth" for sizes)
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(DEV)  ## check the style
	@$(BIN)/ruff check --quiet --output-format concise .

types: $(DEV)  ## check the types
	@$(BIN)/mypy --no-error-summary

clean:  ## remove caches and build products (the environment stays)
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
