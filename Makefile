# Stoker. `make help` lists the targets.
#
# Objects lie in build/<variant>/ (release, asan, tsan, fuzz), so variants never mix. CFLAGS, CPPFLAGS, LDFLAGS and LDLIBS are the
# caller's: what stands here is put before them, never replaced by them.

VERSION := 0.1.0

PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR    ?= $(PREFIX)/lib/systemd/system
PYTHON     ?= python3
PORT       ?= 8090
VARIANT    ?= release

build   := build
out     := $(build)/$(VARIANT)
stokerd := $(if $(filter release,$(VARIANT)),$(build)/stokerd,$(out)/stokerd)
venv    := $(build)/venv

# ---- sources

sources := $(wildcard server/*.c server/base/*.c server/http/*.c server/api/*.c server/api/*/*.c server/hocon/*.c server/ui/*.c \
                      jobs/*.c jobs/store/*.c jobs/runner/*.c jobs/webhook/*.c) \
           $(if $(filter tsan,$(VARIANT)),test/tsan_close.c)
unit_sources := $(wildcard test/unit/test_*.c)
unit_shared  := $(filter-out $(unit_sources),$(wildcard test/unit/*.c)) # what all unit tests may use

objects    := $(sources:%.c=$(out)/%.o)
lib        := $(out)/libstoker.a
unit_tests := $(unit_sources:test/unit/%.c=$(out)/unit/%)

hocon_parse := $(out)/hocon-parse

fuzz_sources := $(wildcard test/fuzz/*.c)
fuzzers      := $(fuzz_sources:test/fuzz/%.c=$(out)/fuzzers/%)

# ---- flags

packages := sqlite3 libarchive libconfig jansson libuv libcrypto libcurl

stk_cppflags := -Iinclude -Iserver -Ijobs -D_GNU_SOURCE -DSTOKER_VERSION='"$(VERSION)"'
stk_cflags   := -std=gnu17 -g -pthread -fPIE -Wall -Wextra -Wshadow -Wconversion -Wformat=2 -Wstrict-prototypes \
                -Wmissing-prototypes -Wvla
stk_ldflags  := -pie -pthread -Wl,-z,relro,-z,now
stk_ldlibs    = $(shell pkg-config --libs $(packages)) -lcivetweb
pkg_cflags   := $(shell pkg-config --cflags $(packages) 2>/dev/null)

ifeq ($(VARIANT),release)
stk_cflags += -O2 -fstack-protector-strong -fstack-clash-protection -Wp,-U_FORTIFY_SOURCE -Wp,-D_FORTIFY_SOURCE=3
ifneq ($(filter x86_64 i686,$(shell uname -m)),)
stk_cflags += -fcf-protection
endif
else ifeq ($(VARIANT),asan)
stk_cflags  += -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
stk_ldflags += -fsanitize=address,undefined
else ifeq ($(VARIANT),tsan)
stk_cflags  += -O1 -fno-omit-frame-pointer -fsanitize=thread
stk_ldflags += -fsanitize=thread -Wl,-u,syscall
else ifeq ($(VARIANT),fuzz) # libFuzzer is clang's; what clang warns of beyond gcc stops nobody here
CC          := clang
stk_cflags  += -O1 -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined \
               -Wno-format-nonliteral -Wno-error
stk_ldflags += -fsanitize=address,undefined
else
$(error VARIANT is release, asan, tsan or fuzz, not '$(VARIANT)')
endif

ifneq ($(filter 1 true,$(CI) $(WERROR)),)
stk_cflags += -Werror
endif

compile = $(CC) $(stk_cppflags) $(CPPFLAGS) $(stk_cflags) $(pkg_cflags) $(CFLAGS)
link    = $(CC) $(stk_cflags) $(CFLAGS) $(stk_ldflags) $(LDFLAGS)

# ---- the program

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all
all: $(stokerd) ## build/stokerd (the default)

# A change of the command line rebuilds what it concerns: this file changes when its text does.
flags := $(out)/flags
.PHONY: FORCE
$(flags): FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(compile) | $(link) $(LDLIBS))' | cmp -s - $@ || \
	 echo '$(subst ','\'',$(compile) | $(link) $(LDLIBS))' > $@

$(out)/%.o: %.c $(flags)
	@mkdir -p $(@D)
	@pkg-config --exists $(packages) || { echo "libraries are missing: run 'make deps'" >&2; exit 1; }
	@echo "  CC    $(VARIANT)  $<"
	@$(compile) -MMD -MP -c -o $@ $<

# Everything but main(), for the unit tests. Made anew each time, so that no object of a removed source stays in it.
$(lib): $(filter-out $(out)/server/main.o,$(objects)) $(out)/sources
	@rm -f $@
	@$(AR) rcs $@ $(filter %.o,$^)

$(out)/sources: FORCE
	@mkdir -p $(@D)
	@echo '$(sources)' | cmp -s - $@ || echo '$(sources)' > $@

$(stokerd): $(out)/server/main.o $(lib)
	@echo "  LINK  $(VARIANT)  $@"
	@$(link) -o $@ $(filter %.o %.a,$^) $(stk_ldlibs) $(LDLIBS)

# ---- unit tests: one program for each test/unit/test_*.c, with the real objects

$(out)/test/unit/%.o: stk_cppflags += -DTEST_DATA_DIR='"$(CURDIR)/test/unit"' -DTOP_DIR='"$(CURDIR)"'

$(unit_tests): $(out)/unit/%: $(out)/test/unit/%.o $(unit_shared:%.c=$(out)/%.o) $(lib)
	@mkdir -p $(@D)
	@echo "  LINK  $(VARIANT)  $@"
	@$(link) -o $@ $(filter %.o %.a,$^) -lcmocka $(stk_ldlibs) $(LDLIBS)

# ---- our side of test/hocon

$(hocon_parse): $(out)/test/hocon/parse.o $(lib)
	@echo "  LINK  $(VARIANT)  $@"
	@$(link) -o $@ $(filter %.o %.a,$^) $(stk_ldlibs) $(LDLIBS)

.PHONY: hocon-parse
hocon-parse: $(hocon_parse)

# ---- fuzz targets: one program for each test/fuzz/*.c (VARIANT=fuzz)

$(fuzzers): $(out)/fuzzers/%: $(out)/test/fuzz/%.o $(lib)
	@mkdir -p $(@D)
	@echo "  LINK  $(VARIANT)  $@"
	@$(link) -fsanitize=fuzzer -o $@ $(filter %.o %.a,$^) $(stk_ldlibs) $(LDLIBS)

.PHONY: fuzzers
fuzzers: $(fuzzers)

.PHONY: unit-tests
unit-tests: $(unit_tests)
.SECONDARY: # keep the tests' objects

-include $(objects:.o=.d) $(unit_sources:%.c=$(out)/%.d) $(unit_shared:%.c=$(out)/%.d) \
         $(fuzz_sources:%.c=$(out)/%.d) $(out)/test/hocon/parse.d

# ---- set-up

.PHONY: deps
deps: ## install the Debian or Ubuntu packages that are missing
	@.ci/install-deps

locks := $(addprefix python-runner/,requirements-build.txt requirements.txt requirements-stoke.txt requirements-test.txt)

.PHONY: venv
venv: $(venv)/.locks $(venv)/bin/stoke ## build/venv: Python with pinned pyspark, pandas, ..., and stoke (needs 'make deps')
	@:

# An environment made from older lock files is made anew; one whose installation was interrupted is completed.
$(venv)/.locks: $(locks)
	@.ci/make-venv '$(PYTHON)' $(venv) $@ $(locks)

# The command line, run from the sources.
launcher = sed -e 's|@PYTHON@|$(1)|g' -e 's|@RUNNER@|$(2)|g' conf/stoke.sh
$(venv)/bin/stoke: conf/stoke.sh $(venv)/.locks
	@$(call launcher,$(CURDIR)/$(venv)/bin/python,$(CURDIR)/python-runner) > $@
	@chmod 755 $@

.PHONY: oracle
oracle: venv ## build/oracle: what our HOCON parser is compared with, and a JDK for it
	@.ci/fetch-oracle $(venv) $(build)/oracle

.PHONY: lock
lock: $(venv)/.locks ## write the lock files anew from python-runner/requirements*.in
	@.ci/make-locks $(venv)

# Most steps below need everything: packages first, then the rest side by side.
parallel = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
submake  = $(MAKE) --no-print-directory

# ---- run

.PHONY: run stop demo
run: all venv ## run the server in the foreground, with its state in build/state (PORT=8090, ARGS=)
	exec $(build)/stokerd --state-dir $(build)/state --listen 127.0.0.1:$(PORT) $(ARGS)

stop: ## stop the server that 'make run' or 'make demo' started
	@.ci/stop-server $(build)/state

demo: ## install, build, start the server and run the word-count example (PORT=8090)
	@$(submake) deps
	@$(submake) $(parallel) all
	@$(submake) venv
	@PORT='$(PORT)' PYTHON='$(PYTHON)' examples/demo.sh

# ---- tests. test/run-checks runs the stages named and ends with a line "N passed, N failed".

.PHONY: check check-unit check-hocon check-runner check-http check-spark asan tsan fuzz
check: ## all set-up and all tests
	@$(submake) deps
	@$(submake) $(parallel) all unit-tests hocon-parse
	@.ci/install-fuzz-deps
	@$(submake) $(parallel) VARIANT=asan all unit-tests
	@$(submake) $(parallel) VARIANT=tsan all unit-tests
	@$(submake) $(parallel) VARIANT=fuzz fuzzers
	@$(submake) oracle
	@test/run-checks unit hocon runner http-rest asan-unit asan-http tsan-unit tsan-http fuzz spark soak

check-unit: unit-tests ## unit tests of the C code
	@test/run-checks unit

check-hocon: hocon-parse oracle ## the HOCON parser beside Typesafe Config
	@test/run-checks hocon

check-runner: venv ## tests of python-runner without Spark
	@test/run-checks runner

check-http: all venv ## the real server with a scripted runner
	@test/run-checks http

check-spark: all venv ## the real server with real PySpark
	@test/run-checks spark

asan: venv ## unit and http tests with AddressSanitizer and UBSan
	@$(submake) $(parallel) VARIANT=asan all unit-tests
	@test/run-checks asan-unit asan-http

tsan: venv ## unit and http tests with ThreadSanitizer
	@$(submake) $(parallel) VARIANT=tsan all unit-tests
	@test/run-checks tsan-unit tsan-http

fuzz: ## every parser fed with random bytes: SECONDS=60 each, two at a time, TARGETS= all (test/fuzz/README.md)
	@.ci/install-fuzz-deps
	@$(submake) $(parallel) VARIANT=fuzz fuzzers
	@FUZZ_SECONDS='$(SECONDS)' FUZZ_TARGETS='$(TARGETS)' test/run-checks fuzz

.PHONY: soak
MINUTES ?= 20
soak: all venv ## everything at once on real Spark, then the account (MINUTES=20, SEED=)
	@STOKERD='$(CURDIR)/$(build)/stokerd' $(venv)/bin/python test/soak/soak.py --minutes '$(MINUTES)' \
	    $(if $(SEED),--seed '$(SEED)')

.PHONY: bench
bench: all venv ## measure; installs wrk when it is missing
	@.ci/install-deps wrk
	@$(venv)/bin/python test/bench/bench.py --stokerd $(build)/stokerd $(ARGS)
	@$(venv)/bin/python test/bench/compare.py --stokerd $(build)/stokerd
	@$(venv)/bin/python test/bench/listing.py --stokerd $(build)/stokerd
	@$(venv)/bin/python test/bench/big.py --stokerd $(build)/stokerd

# ---- style

c_files = $(shell find include server jobs test -name '*.[ch]')

.PHONY: format lint
format: ## clang-format every C file in place
	@.ci/install-deps clang-format
	clang-format -i $(c_files)

lint: compile_commands.json ## clang-format and clang-tidy, without changing anything
	@.ci/install-deps clang-format clang-tidy
	clang-format --dry-run -Werror $(c_files)
	clang-tidy --quiet -p . $(sources)

# For clang-tidy and editors.
compile_commands.json: Makefile $(out)/sources $(flags)
	@{ echo '['; sep=' '; for f in $(sources) $(unit_sources) $(unit_shared); do \
	    printf '%s{"directory": "%s", "file": "%s", "arguments": ["cc"' "$$sep" '$(CURDIR)' "$$f"; \
	    for a in $(filter -I% -D% -std=% -W% -pthread,$(filter-out -Wp%,$(stk_cppflags) $(stk_cflags) $(pkg_cflags))) \
	        '-DTEST_DATA_DIR="$(CURDIR)/test/unit"' '-DTOP_DIR="$(CURDIR)"' -c "$$f"; do \
	        printf ', "%s"' "$$(printf %s "$$a" | sed 's/["\\]/\\&/g')"; done; \
	    echo ']}'; sep=','; done; echo ']'; } > $@

# ---- install and clean

.PHONY: install
install: all ## DESTDIR= PREFIX=/usr/local: stokerd, stoke, runner, configuration, systemd unit
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(LIBDIR)/stoker' '$(DESTDIR)$(SYSCONFDIR)/stoker' '$(DESTDIR)$(UNITDIR)'
	install -m 755 $(build)/stokerd '$(DESTDIR)$(BINDIR)/stokerd'
	cd python-runner && find . -name tests -prune -o -name __pycache__ -prune -o -type f -print | while read -r f; do \
	    install -D -m 644 "$$f" '$(abspath $(DESTDIR)/)$(LIBDIR)/stoker/python-runner/'"$$f" || exit 1; done
	$(call launcher,$(LIBDIR)/stoker/venv/bin/python,$(LIBDIR)/stoker/python-runner) > '$(DESTDIR)$(BINDIR)/stoke'
	chmod 755 '$(DESTDIR)$(BINDIR)/stoke'
	test -e '$(DESTDIR)$(SYSCONFDIR)/stoker/stoker.conf' || \
	    install -m 644 conf/stoker.conf '$(DESTDIR)$(SYSCONFDIR)/stoker/stoker.conf'
	sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g' conf/stoker.service \
	    > '$(DESTDIR)$(UNITDIR)/stoker.service'
	@echo "Python is yours to provide: see 'Installing' in README.md."

.PHONY: clean
clean: ## remove what was compiled; build/venv and build/state stay
	rm -rf $(build)/release $(build)/asan $(build)/tsan $(build)/fuzz $(build)/check $(build)/stokerd compile_commands.json

.PHONY: help
help: ## this list
	@echo "make <target>"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do \
	    printf '%-15s %s\n' "$$t" "$$d"; done
