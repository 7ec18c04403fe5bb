# A thin front for CMake: `make run` and `make test` work on a fresh Debian 12 with make and a C
# compiler, and install what is missing (core/cmake/setup.sh). Everything else is in CMakeLists.txt.
#
#   make           build/picochat and build/plugins/*.so
#   make run       generate text: CONFIG=configs/FILE.ini, ARGS="..." go to picochat
#   make test      build and run all tests
#   make install   PREFIX=/usr/local, DESTDIR=
#   make models    the models of models/, from nothing: some 15 minutes on two cores
#   make asan | tsan | fuzz | lint | bench | clean

CONFIG ?= configs/mqa_spec_int8.ini
ARGS ?=
PREFIX ?= /usr/local
DESTDIR ?=
BUILD ?= build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
CMAKE_FLAGS ?=
CTEST_FLAGS ?=
FUZZ_SECONDS ?= 60
BENCH ?= --synthetic llama-110m -p 128 -n 64

SETUP = sh core/cmake/setup.sh
# The builds inside are no part of this make: they get no job server and print no folders.
CLEAN_ENV = env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL
CONFIGURE = cmake --log-level=NOTICE -S . $(CMAKE_FLAGS)
# Standard output belongs to the program that is run.
COMPILE = $(CLEAN_ENV) cmake --build $(1) -j $(JOBS) $(2) >&2
CTEST = $(CLEAN_ENV) ctest --output-on-failure -j $(JOBS) $(CTEST_FLAGS) --test-dir

all:
	@$(SETUP) build
	@$(CONFIGURE) -B $(BUILD) >&2
	@$(call COMPILE,$(BUILD),--target app)

run: all
	@$(BUILD)/picochat --config $(CONFIG) $(ARGS)

test:
	@$(SETUP) build test
	@$(CONFIGURE) -B $(BUILD) -DPICOCHAT_TESTS=ON
	@$(call COMPILE,$(BUILD))
	@$(CTEST) $(BUILD)

install:
	@$(SETUP) build
	@$(CONFIGURE) -B $(BUILD) -DCMAKE_INSTALL_PREFIX="$(PREFIX)"
	@$(call COMPILE,$(BUILD),--target app)
	@DESTDIR="$(DESTDIR)" cmake --install $(BUILD)

asan:
	@$(SETUP) build test
	@$(CONFIGURE) -B build-asan -DPICOCHAT_TESTS=ON -DPICOCHAT_SANITIZE=address,undefined
	@$(call COMPILE,build-asan)
	@ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:$$ASAN_OPTIONS \
	 UBSAN_OPTIONS=print_stacktrace=1:$$UBSAN_OPTIONS \
	 $(CTEST) build-asan

tsan:
	@$(SETUP) build test
	@$(CONFIGURE) -B build-tsan -DPICOCHAT_TESTS=ON -DPICOCHAT_SANITIZE=thread
	@$(call COMPILE,build-tsan)
	@TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:$$TSAN_OPTIONS \
	 $(CTEST) build-tsan

fuzz:
	@$(SETUP) build fuzz
	@$(CONFIGURE) -B build-fuzz -DCMAKE_C_COMPILER=clang -DPICOCHAT_TESTS=OFF -DPICOCHAT_FUZZ=ON
	@$(call COMPILE,build-fuzz,--target fuzz)
	@sh tests/fuzz/run build-fuzz $(FUZZ_SECONDS)

lint:
	@$(SETUP) lint
	@sh tests/lint.sh

bench: all
	@$(BUILD)/picochat bench $(BENCH)

models: all
	@$(call COMPILE,$(BUILD),--target tales)
	@sh models/make $(BUILD)

clean:
	@rm -rf $(BUILD) build-asan build-tsan build-fuzz

.PHONY: all run test install asan tsan fuzz lint bench models clean
