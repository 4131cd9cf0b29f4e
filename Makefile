# Two commands for a newcomer: `make demo` and `make test`. Everything they need is set up on the way and remembered in .stamps.
SHELL := /bin/bash
STAMPS := .stamps
TS_SOURCES := $(shell find proto controller worker client -name '*.ts' -not -path 'proto/gen/*' 2>/dev/null) $(wildcard proto/hels/v1/*.proto)
NATIVE_SOURCES := $(shell find native -not -path 'native/build*' \( -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cmake' -o -name CMakeLists.txt \) 2>/dev/null)
HELSCTL := npm run -s helsctl --
# Where there is nvcc: kernels for this machine's GPU, or, without one, for one architecture only, so that they are compiled. Packages
# are built with all of them: `npm run build:native`, or a list of CMake's in this variable.
export HELS_CUDA_ARCHITECTURES ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u | sed 's/$$/-real/' | paste -sd ';'),90-real)

.PHONY: demo up build install uninstall test bench soak check clean setup setup-test native-test
PREFIX ?= /opt/hels
INSTALL := deploy/install.sh --prefix $(PREFIX) $(if $(DESTDIR),--root $(DESTDIR))

demo: build
	@$(HELSCTL) demo

up: build
	@$(HELSCTL) up

build: $(STAMPS)/native $(STAMPS)/typescript

# Not after build: `sudo make install` must not build as root. It says what to do when nothing is built.
install:
	@$(INSTALL)

uninstall:
	@$(INSTALL) --uninstall

setup: $(STAMPS)/packages $(STAMPS)/npm

$(STAMPS)/packages: deploy/packages.sh
	@mkdir -p $(STAMPS)
	@deploy/packages.sh build
	@touch $@

$(STAMPS)/test-packages: deploy/packages.sh
	@mkdir -p $(STAMPS)
	@deploy/packages.sh build test
	@touch $@

$(STAMPS)/npm: package-lock.json $(STAMPS)/packages
	@echo "==> npm ci"
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(STAMPS)/native: $(NATIVE_SOURCES) $(STAMPS)/npm
	@echo "==> building the native addon (C++20)"
	@npm run -s build:native
	@touch $@

$(STAMPS)/typescript: $(TS_SOURCES) tsconfig.json tsconfig.build.json package.json $(STAMPS)/npm
	@echo "==> building TypeScript"
	@npm run -s build:ts
	@touch $@

# Types, format, import rules and dead code; native tests under the sanitizers; then the TypeScript tests.
test: setup-test build
	@npm run -s check
	@native/run-tests.sh
	@npm test

setup-test: $(STAMPS)/test-packages

check: $(STAMPS)/npm $(STAMPS)/test-packages
	@npm run -s check

native-test: $(STAMPS)/npm $(STAMPS)/test-packages
	@native/run-tests.sh

bench: build
	@npm run -s bench

soak: build setup-test
	@native/tidy.sh
	@npm run -s soak

clean:
	rm -rf dist proto/gen native/build native/build-* $(STAMPS)
