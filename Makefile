# make setup    system packages (as root), virtual environment, C files
# make check    formatting, lint, types, imports, unit tests: two minutes
# make test     everything CI runs, quick levels first
# make demo     a real VM: imported, encrypted by keys of two KMIP servers, mounted, compared, booted; one server
#               is killed meanwhile. make demo KMS=native: keys of this machine
# make bench    ioflt beside gocryptfs, a bare pyfuse3 mount and QEMU's LUKS, row by row; what the keys of 10,000
#               VMs cost; how many events a second are logged; how long backups of a thin disk take
#               make bench-quick: the rows that have targets, in two minutes. Both as root
# make clean    remove what the other targets made, the environment included
#
# One level: make unit | operations | cli | golden | mounted | interop
# Longer:    make kills (a mount killed 1,000 times while it writes) | calls (commands killed and failed at every
#            system call) | long (everything, much of it longer)

SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
# Tests start thousands of commands: where this is set, each compiles again all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# A worker for each core; a module's tests stay together, as they share what takes long to make
# (but see APART in tests/conftest.py).
PYTEST := $(PYTHON_BIN) -m pytest -n auto --maxprocesses=4 --dist loadfile
# What a complete machine has: a test skipped for the lack of one of these is a failure.
REQUIRE := --require=fuse,root,loop,qemu,interop
# Where the demo's keys are: kmip (two key servers) or native.
KMS := kmip
# Quick levels first.
LEVELS := $(addprefix tests/,unit vectors machines contracts operations golden cli mounted interop)

.PHONY: setup check static test pure demo bench bench-quick clean unit operations cli golden mounted interop kills calls long

setup:
	@tools/setup.sh build

static:
	@tools/setup.sh build
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

check: static
	$(PYTEST) tests/unit -m "not slow"

test:
	@tools/setup.sh build test
	$(MAKE) --no-print-directory --jobs=2 --output-sync static pure # mypy keeps one core busy for a minute
	HYPOTHESIS_PROFILE=ci $(PYTEST) $(REQUIRE) $(LEVELS)

# What the C files serve: the cipher, what encrypts by it, file systems. And that every command is there and loads.
PURE := $(addprefix tests/,unit/crypto unit/filters unit/datastore unit/cli/test_commands.py operations/fuse)

# The same code without the C files: installed from the sources into a directory of its own.
pure:
	@tools/setup.sh build test
	@rm -rf build/pure && mkdir -p build/pure
	IOFLT_BUILD_NATIVE=0 $(PYTHON_BIN) -m pip install -qq --no-deps --target build/pure .
	@cp -r tests tools images setup.cfg README.md build/pure/
	cd build/pure && ../../$(PYTEST) --pure -m "not slow" $(PURE)

unit operations cli golden mounted interop:
	@tools/setup.sh build test
	$(PYTEST) tests/$@

kills:
	@tools/setup.sh build test
	$(PYTEST) $(REQUIRE) --long -o faulthandler_timeout=0 tests/mounted/test_kill.py -k 1000_kills

calls:
	@tools/setup.sh build test
	$(PYTEST) --dist load $(REQUIRE) --long -o faulthandler_timeout=0 tests/interop/test_killed.py -k every_call

long:
	@tools/setup.sh build test
	HYPOTHESIS_PROFILE=long $(PYTEST) $(REQUIRE) --long -o faulthandler_timeout=0 tests

demo:
	@tools/setup.sh build demo
	$(PYTHON_BIN) tools/demo.py --kms $(KMS)

bench:
	@tools/setup.sh build test bench
	$(PYTHON_BIN) tools/bench.py --history tests/bench/history.jsonl \
		$(if $(JSON),--json $(JSON)) $(if $(MARKDOWN),--markdown $(MARKDOWN))
	$(PYTHON_BIN) tools/bench_keys.py
	$(PYTHON_BIN) tools/bench_events.py
	$(PYTHON_BIN) tools/bench_backup.py

bench-quick:
	@tools/setup.sh build bench
	$(PYTHON_BIN) tools/bench.py --quick $(if $(JSON),--json $(JSON))

clean:
	rm -rf .venv build .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	find ioflt tools tests \( -name __pycache__ -o -name '*.so' -o -name '*.o' \) -prune -exec rm -rf {} +
