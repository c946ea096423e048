# make demo    build, install into .venv and serve the demo unit
# make test    the whole suite against the installed wheel (ARGS="-k tcp" goes to pytest)
# make lint    style, types and stubs
# make bench   mbcore beside other servers (ARGS goes to tests/bench/run.py)
# make soak    100,000 polls on simulated RS-485 lines of every kind (ARGS goes to tests/bus/soak.py)
# make storm   30 minutes of every kind of client over the compiled loops (ARGS goes to tests/storm/run.py; --sanitize address, thread)
# make wheel   sdist and wheel into dist/
# make wheels-arm    wheels for every Pi into dist/pi/, cross-built, checked, built a second time and compared
# make test-arm      the suite on them in emulated Debian systems (test-arm-all: every system, with ARMv6, and every file)
# make test-install  every way of docs/install.md in emulated Debian systems, after make bundle
# make pi-in-the-loop   emulated boards with the ARM wheel, polled over their UART (ARGS=virt: that board)
# make bundle        archives for boards without a network into dist/pi/; test-bundle installs one in an emulated system
# make clean   remove all that was built, .venv too
#
# Everything runs on the wheel in .venv, never on the tree. The wheel is built again when a source is newer.

PYTHON ?= python3
VENV := .venv
# -P keeps the tree out of the module path.
RUN := $(VENV)/bin/python -P
PIP := $(RUN) -m pip --disable-pip-version-check --quiet
SOURCES := $(wildcard LICENSE MANIFEST.in README.md pyproject.toml setup.py) $(shell find mbcore server rpi -type f \
	\( -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.toml' -o -name py.typed \))

.PHONY: demo test lint bench soak storm wheel wheels-arm test-arm test-arm-all bundle test-bundle test-install pi-in-the-loop clean

demo: $(VENV)/.installed
	@$(VENV)/bin/mbcore serve

test: $(VENV)/.with-test
	$(RUN) -m pytest tests $(ARGS)

lint: $(VENV)/.with-dev
	$(RUN) -m ruff check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint mbcore
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/zizmor --offline --quiet .github/workflows
	cd $(VENV) && bin/python -P -m mypy --config-file ../pyproject.toml --strict \
		-p mbcore.server -p mbcore.rpi -p mbcore.messages -m mbcore.cli -m mbcore.migrate
	cd $(VENV) && bin/python -P -m mypy.stubtest --mypy-config-file ../pyproject.toml \
		--allowlist ../.ci/stubtest-allow --ignore-missing-stub --ignore-disjoint-bases mbcore

bench: $(VENV)/.with-test
	$(VENV)/bin/python tests/bench/run.py $(ARGS)

soak: $(VENV)/.with-test
	$(RUN) tests/bus/soak.py $(ARGS)

storm: $(VENV)/.with-dev
	$(RUN) tests/storm/run.py $(ARGS)

pi-in-the-loop: $(VENV)/.with-test
	$(PYTHON) rpi/build-wheels aarch64
	$(VENV)/bin/python rpi/pi-in-the-loop $(ARGS)

wheel: $(VENV)/.with-dev
	rm -rf dist/*.whl dist/*.tar.gz build/lib*
	$(RUN) -m build --outdir dist .

# With -P they would not find rpi/workshop.
wheels-arm:
	$(require)
	$(PYTHON) rpi/build-wheels --check-reproducible

test-arm:
	$(PYTHON) rpi/test-wheels $(ARGS)

test-arm-all:
	$(PYTHON) rpi/build-wheels armel
	$(PYTHON) rpi/test-wheels --all bookworm-armhf bookworm-arm64 trixie-armhf trixie-arm64 bookworm-armel $(ARGS)

bundle:
	$(PYTHON) rpi/bundle $(ARGS)

test-bundle:
	$(PYTHON) rpi/test-bundle $(ARGS)

test-install:
	$(PYTHON) rpi/test-bundle bookworm-armhf bookworm-arm64 trixie-armhf trixie-arm64
	$(PYTHON) rpi/test-install $(ARGS)

clean:
	rm -rf $(VENV) build dist mbcore.egg-info
	find mbcore -name '*.abi3.so' -delete

# Says in one sentence what the machine lacks. Any Python 3 reads it, so that an old one says so.
define LACKING
import sys
if sys.version_info < (3, 11):
    sys.exit("mbcore needs Python 3.11 or newer and this one is %d.%d: name another, e.g. make PYTHON=python3.13" % sys.version_info[:2])
import importlib.util, os, shutil, sysconfig
compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
there = {
    "build-essential": shutil.which(compiler),
    "python3-venv": importlib.util.find_spec("ensurepip"),
    "python3-dev": os.path.exists(header),
}
lacking = [package for package in there if not there[package]]
if lacking:
    sys.exit("mbcore is compiled here, and for that this machine lacks something: sudo apt install " + " ".join(lacking))
endef
export LACKING

define require
@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON): sudo apt install python3-venv python3-dev build-essential" >&2; exit 1; }
@$(PYTHON) -c "$$LACKING"
endef

$(VENV)/bin/python:
	$(require)
	$(PYTHON) -m venv $(VENV)

# What an earlier build left in build/lib would go into the wheel.
$(VENV)/.built: $(SOURCES) | $(VENV)/bin/python
	$(require)
	rm -rf build/lib* build/wheel
	$(PIP) wheel --no-deps --wheel-dir build/wheel .
	@touch $@

$(VENV)/.installed: $(VENV)/.built
	$(PIP) install --force-reinstall --no-deps build/wheel/mbcore-*.whl
	$(PIP) install build/wheel/mbcore-*.whl
	@touch $@

# .with-test, .with-dev: the extra of that name is installed too.
$(VENV)/.with-%: $(VENV)/.installed
	$(PIP) install "$$(echo build/wheel/mbcore-*.whl)[$*]"
	@touch $@
