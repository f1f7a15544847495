# beamray: build, test and install. GNU make.
#
#   make                    ./beamray (never touches the package manager)
#   make deps               install what is missing (apt), or say what to get
#   make demo | check | check-long
#   make bench              speed of looks, cost of tracing; BENCH=--quick for a short one
#   make lint | format | unit | install | uninstall | clean
#
# Configurations live beside each other in build/, so switching costs nothing:
#   CC=gcc|clang   DEBUG=1   SANITIZE=address,undefined   STATIC=1
# O=DIR moves the build directory, V=1 shows the commands.

VERSION := 0.1.0

ifeq ($(origin CC),default)
CC := gcc
endif
PKG_CONFIG ?= pkg-config
CLANG      ?= clang
BPFTOOL    ?= $(firstword $(wildcard /usr/sbin/bpftool /usr/local/sbin/bpftool /sbin/bpftool) bpftool)
INSTALL    ?= install

prefix  ?= /usr/local
bindir  ?= $(prefix)/bin
mandir  ?= $(prefix)/share/man
bashcompdir ?= $(prefix)/share/bash-completion/completions
docdir  ?= $(prefix)/share/doc/beamray

# ---- configuration ---------------------------------------------------------

O    ?= build
comma := ,
config := $(notdir $(firstword $(CC)))$(if $(DEBUG),-debug)$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))$(if $(STATIC),-static)
B    := $(O)/$(config)
ARCH := $(shell uname -m)
BPF_ARCH := $(patsubst x86_64,x86,$(patsubst aarch64,arm64,$(ARCH)))

# The program is found under its plain name in the checkout, whatever the
# configuration; a build directory of one's own keeps its own program.
PROGRAM := $(if $(filter build,$(O)),beamray,$(O)/beamray)

# ---- what there is ---------------------------------------------------------

SRC      := $(sort $(wildcard src/*.c src/*/*.c src/*/*/*.c))
BPF_SRC  := $(sort $(wildcard bpf/*.bpf.c))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
UNIT_LIB := $(filter-out $(UNIT_SRC),$(sort $(wildcard tests/unit/*.c)))
GEN_SRC  := $(sort $(wildcard tools/otp-layout/*.c))
TRACE_SRC := $(sort $(wildcard tests/trace/*.c))

OBJ      := $(SRC:%.c=$(B)/%.o)
LIB_OBJ  := $(filter-out $(B)/src/main.o,$(OBJ))
SKEL     := $(BPF_SRC:bpf/%.bpf.c=$(B)/bpf/%.skel.h)
UNIT     := $(UNIT_SRC:%.c=$(B)/%)
UNIT_LIB_OBJ := $(UNIT_LIB:%.c=$(B)/%.o)
GEN_OBJ  := $(GEN_SRC:%.c=$(B)/%.o)
TRACE_TOOLS := $(TRACE_SRC:%.c=$(B)/%)

PKGS := libdw libelf zlib jansson sqlite3 libcap-ng capstone $(if $(BPF_SRC),libbpf)

# ---- flags -----------------------------------------------------------------

# Only goals that compile ask pkg-config: `make deps` runs where it is not there.
NO_COMPILE := deps clean clean-all uninstall demo check check-long format
GOALS := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out $(NO_COMPILE),$(GOALS)),)
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell $(PKG_CONFIG) $(if $(STATIC),--static) --libs $(PKGS))
# Has no .pc file.
LIBS       := -liberty $(PKG_LIBS) -lm
ifeq ($(strip $(PKG_LIBS)),)
$(error Libraries are missing (see above); `make deps` installs them)
endif
endif

CPPFLAGS_ALL := -D_GNU_SOURCE -DBEAMRAY_VERSION='"$(VERSION)"' -Isrc -Ibpf -I$(B)/bpf $(PKG_CFLAGS)
# (tables leave fields out on purpose: what is not named is zero; gcc and clang differ
# in when they warn of it)
CFLAGS_ALL   := -std=gnu11 -Wall -Wextra -Werror -Wno-missing-field-initializers -g -pthread -MMD -MP \
	-fno-strict-aliasing -fno-common
LDFLAGS_ALL  := -pthread -Wl,--as-needed -Wl,-z,relro,-z,now,-z,noexecstack

CFLAGS_ALL += $(if $(DEBUG),-Og -fno-omit-frame-pointer,-O2)
ifdef SANITIZE
CFLAGS_ALL  += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS_ALL += -fsanitize=$(SANITIZE)
else
CPPFLAGS_ALL += $(if $(DEBUG),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
CFLAGS_ALL   += -fstack-protector-strong -fstack-clash-protection
ifeq ($(ARCH),x86_64)
CFLAGS_ALL   += -fcf-protection
endif
endif
ifdef STATIC
LDFLAGS_ALL += -static
else
CFLAGS_ALL  += -fPIE
LDFLAGS_ALL += -pie
endif

# What the user gives comes last and wins.
COMPILE = $(CC) $(CPPFLAGS_ALL) $(CPPFLAGS) $(CFLAGS_ALL) $(CFLAGS)
LINK    = $(CC) $(CFLAGS_ALL) $(CFLAGS) $(LDFLAGS_ALL) $(LDFLAGS)

ifdef V
Q :=
say = @:
else
Q := @
say = @printf '  %-8s %s\n'
endif

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
.PHONY: all deps demo check check-long unit unit-programs lint install uninstall clean FORCE

all: $(PROGRAM)

# ---- the program -----------------------------------------------------------

$(PROGRAM): $(B)/beamray FORCE
	@cmp -s $< $@ || { cp -f $< $@.new.$$$$ && mv -f $@.new.$$$$ $@; }

$(B)/beamray: $(OBJ)
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $(OBJ) $(LIBS)

$(B)/%.o: %.c Makefile
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -c -o $@ $<

# Everything but main.o: what unit tests and tools link with.
$(B)/libbeamray.a: $(LIB_OBJ)
	$(say) AR $@
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $(LIB_OBJ)

# ---- BPF -------------------------------------------------------------------
# bpf/NAME.bpf.c -> NAME.skel.h, which src/trace/*.c includes.

$(B)/bpf/%.bpf.o: bpf/%.bpf.c Makefile
	$(say) BPF $<
	@mkdir -p $(@D)
	$(Q)$(CLANG) -target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) -g -O2 -std=gnu11 -Wall -Wextra \
		-Werror -Wno-unused-parameter -Ibpf -idirafter /usr/include/$(ARCH)-linux-gnu \
		-MMD -MP -MF $(@:.o=.d) -MT $@ -c -o $@ $<

$(B)/bpf/%.skel.h: $(B)/bpf/%.bpf.o
	$(say) SKEL $@
	$(Q)$(BPFTOOL) gen skeleton $< name $*_bpf > $@.tmp && mv -f $@.tmp $@

$(filter $(B)/src/trace/%,$(OBJ)): | $(SKEL)

# ---- unit tests ------------------------------------------------------------

$(UNIT): %: %.o $(UNIT_LIB_OBJ) $(B)/libbeamray.a
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $< $(UNIT_LIB_OBJ) $(B)/libbeamray.a $(LIBS) -lcmocka

# cmocka hands every test a state that most do not want.
$(B)/tests/unit/%.o: CPPFLAGS_ALL += -Itests/unit
$(B)/tests/unit/%.o: CFLAGS_ALL += -Wno-unused-parameter

# Programs that scenario tests of the tracer run.
$(TRACE_TOOLS): %: %.o $(B)/libbeamray.a
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $< $(B)/libbeamray.a $(LIBS)

unit-programs: $(UNIT) $(TRACE_TOOLS)

unit: $(UNIT)
	@tests/run.sh --unit-only --unit-dir $(B)/tests/unit

# ---- tools -----------------------------------------------------------------

ifneq ($(GEN_SRC),)
.PHONY: otp-layout
otp-layout: $(O)/otp-layout

$(O)/otp-layout: $(B)/otp-layout FORCE
	@cmp -s $< $@ || { cp -f $< $@.new.$$$$ && mv -f $@.new.$$$$ $@; }

$(B)/otp-layout: $(GEN_OBJ) $(B)/libbeamray.a
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $(GEN_OBJ) $(B)/libbeamray.a $(LIBS)
endif

# ---- everything else -------------------------------------------------------

deps:
	@tools/deps.sh

demo:
	@tools/deps.sh
	@$(MAKE) --no-print-directory all
	@tools/demo.py

check:
	@tools/deps.sh --optional
	@tests/run.sh

check-long:
	@tools/deps.sh --optional
	@tests/run.sh --long

.PHONY: bench
bench: all $(B)/tests/bench/readv
	@tests/bench/run.py $(B)/tests/bench/readv
	@tests/bench/overhead.py $(BENCH)
	@tests/bench/list.py

$(B)/tests/bench/readv: $(B)/tests/bench/readv.o
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $<

# clang-tidy looks at what changed since origin/main; LINT_ALL=1 at everything.
lint: $(SKEL)
	@LINT_FLAGS='-std=gnu11 -D_GNU_SOURCE -DBEAMRAY_VERSION="" -Isrc -Ibpf -Itests/unit -isystem $(B)/bpf $(PKG_CFLAGS)' \
		tools/lint.sh $(if $(LINT_ALL),--all)

# Hand-written C laid out by clang-format; generated tables are not.
.PHONY: format
format:
	@tools/lint.sh --format

install: $(B)/beamray
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(bashcompdir)
	$(INSTALL) -m 755 $(B)/beamray $(DESTDIR)$(bindir)/beamray
	$(INSTALL) -m 644 man/beamray.1 $(DESTDIR)$(mandir)/man1/beamray.1
	$(INSTALL) -m 644 completion/beamray.bash $(DESTDIR)$(bashcompdir)/beamray

uninstall:
	rm -f $(DESTDIR)$(bindir)/beamray $(DESTDIR)$(mandir)/man1/beamray.1 \
		$(DESTDIR)$(bashcompdir)/beamray

# The OTP roots were downloaded, not built: they stay. `make clean-all` takes them too.
clean:
	rm -rf $(filter-out $(O)/roots $(O)/systems,$(wildcard $(O)/*)) $(PROGRAM)

.PHONY: clean-all
clean-all: clean
	rm -rf $(O)

-include $(OBJ:.o=.d) $(GEN_OBJ:.o=.d) $(UNIT:=.d) $(UNIT_LIB_OBJ:.o=.d) $(TRACE_TOOLS:=.d) $(B)/tests/bench/readv.d
-include $(BPF_SRC:bpf/%.bpf.c=$(B)/bpf/%.bpf.d)
