/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recognising a BEAM.
 *
 *	beam.smp's data --> banner "Erlang/OTP 27 [erts-15.2.7] ... [jit:ns]"
 *	                      |         |
 *	        debug info ---+         +--- release's table, or the others
 *	                      v
 *	                   layout --> globals (anchors.c) --> checks (vm_verify.c)
 *	                                                          |
 *	                              all hold: this is it  <-----+-----> next layout
 *
 * The name of the executable proves nothing: releases rename it, and anything
 * may be called beam.smp. What every VM has is the banner in its data, and it
 * names release, version, flavour and the builds whose structures differ
 * (debug, lock checking, lock counting), with symbols or without.
 *
 * A table serves a major release. A release that has no table gets the others
 * of its flavour tried under all checks and is served only when exactly one
 * passes; else beamray says what is missing instead of guessing.
 */
#include "erts/vm.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "erts/layout_dwarf.h"
#include "erts/vm_private.h"
#include "target/escape.h"

#define CHECKS_MAX 256
#define NAMES_MAX  1024 /* alloc types: 248 on 29 */
#define BANNER_MAX 256
#define RETRIES	   3
#define RETRY_US   2000

bool vm_check_add(struct vm *vm, bool ok, const char *what, const char *fmt, ...)
{
	struct vm_check *c;
	va_list ap;

	if (vm->n_checks >= CHECKS_MAX)
		return ok;
	c = realloc(vm->checks, (vm->n_checks + 1) * sizeof(*c));
	if (!c)
		return ok;
	vm->checks = c;
	c += vm->n_checks++;
	memset(c, 0, sizeof(*c));
	c->ok = ok;
	snprintf(c->what, sizeof(c->what), "%s", what);
	va_start(ap, fmt);
	vsnprintf(c->result, sizeof(c->result), fmt, ap);
	va_end(ap);
	return ok;
}

/* ---- Banner ------------------------------------------------------------------------ */

/* Copies digits and dots; false when there are none. */
static bool version_copy(char *dst, size_t size, const char *src, bool dots)
{
	size_t n = 0;

	while (n + 1 < size && (isdigit((unsigned char)src[n]) || (dots && src[n] == '.'))) {
		dst[n] = src[n];
		n++;
	}
	dst[n] = 0;
	return n > 0;
}

int vm_banner_read(const struct image_copy *c, struct vm_banner *out)
{
	static const char start[] = "Erlang/OTP ";
	static const char *const refused[] = { "[debug-compiled]",    "[lock-checking]",
					       "[lock-counting]",     "[valgrind-compiled]",
					       "[address-sanitizer]", "[32-bit]" };
	uint64_t at = 0;

	memset(out, 0, sizeof(*out));
	for (int i = 0; i < 64; i++) {
		const char *text, *erts;

		at = image_copy_find(c, start, sizeof(start) - 1, true, at);
		if (!at)
			return -ENOENT;
		text = image_copy_string(c, at);
		if (!text || strnlen(text, 4 * BANNER_MAX) == 4 * BANNER_MAX)
			continue;
		erts = strstr(text, " [erts-");
		if (!erts || erts - text > BANNER_MAX ||
		    !version_copy(out->release, sizeof(out->release), text + sizeof(start) - 1,
				  false) ||
		    !version_copy(out->erts, sizeof(out->erts), erts + 7, true))
			continue;
		out->jit = strstr(text, " [jit") != NULL;
		for (size_t k = 0; k < sizeof(refused) / sizeof(refused[0]); k++)
			if (!out->refused[0] && strstr(text, refused[k]))
				snprintf(out->refused, sizeof(out->refused), "%.*s",
					 (int)strlen(refused[k]) - 2, refused[k] + 1);
		return 0;
	}
	return -ENOENT;
}

/* etp_lock_check and its like, where they are exported. */
static const char *refused_by_symbols(struct vm *vm, const struct image_copy *c)
{
	static const struct {
		const char *symbol, *word;
	} flags[] = {
		{ "etp_debug_compiled", "debug-compiled" },
		{ "etp_lock_check", "lock-checking" },
		{ "etp_lock_count", "lock-counting" },
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		struct image_symbol sym;
		uint32_t value;

		if (image_symbol(vm->exe, flags[i].symbol, &sym) &&
		    image_copy_u32(c, sym.addr, &value) && value)
			return flags[i].word;
	}
	return NULL;
}

/* ---- Names ------------------------------------------------------------------------- */

/* Copies an array of string pointers up to its NULL, escaped. */
static int names_read(const struct image_copy *c, uint64_t array, unsigned max, char ***out,
		      unsigned *n_out)
{
	char **v = calloc(max, sizeof(*v));
	unsigned n = 0;

	*out = v;
	*n_out = 0;
	if (!v)
		return -ENOMEM;
	for (; n < max; n++) {
		char text[96];
		const char *raw;
		uint64_t addr;

		if (!image_copy_u64(c, array + 8 * n, &addr) || !addr)
			break;
		raw = image_copy_string(c, addr);
		if (!raw)
			break;
		escape_string(text, sizeof(text), raw);
		v[n] = strdup(text);
		if (!v[n])
			return -ENOMEM;
		*n_out = n + 1;
	}
	return 0;
}

static void names_free(char ***v, unsigned *n)
{
	for (unsigned i = 0; *v && i < *n; i++)
		free((*v)[i]);
	free(*v);
	*v = NULL;
	*n = 0;
}

/* ---- Layouts ----------------------------------------------------------------------- */

/* Debug info of this very binary, completed from the table of its release. */
static struct layout *layout_of_debuginfo(struct vm *vm, const struct layout *base)
{
	struct layout *l = NULL;
	int fd = image_debug_open(vm->target, vm->exe);
	Dwarf *dw;

	if (fd < 0)
		return NULL;
	dw = dwarf_begin(fd, DWARF_C_READ);
	if (dw) {
		l = calloc(1, sizeof(*l));
		if (l && layout_from_dwarf(dw, base, l, NULL, NULL) != 0) {
			free(l);
			l = NULL;
		}
		dwarf_end(dw);
	}
	close(fd);
	return l;
}

/* Tries a layout: anchors and all checks. Returns the number that failed; what
 * was found is in vm. */
static unsigned layout_try(struct vm *vm, const struct image_copy *copy, const struct layout *l,
			   enum anchors_mode mode)
{
	struct anchor_search s = {
		.target = vm->target,
		.maps = vm->maps,
		.images = vm->images,
		.exe = vm->exe,
		.copy = copy,
		.l = l,
		.mode = mode,
		.a = &vm->anchors,
	};

	free(vm->checks);
	vm->checks = NULL;
	vm->n_checks = 0;
	names_free(&vm->alloc_names, &vm->n_alloc);
	names_free(&vm->type_names, &vm->n_types);
	vm->layout = l;
	anchors_find(&s);
	if (vm->anchors.v[A_A2AD].addr)
		names_read(copy, vm->anchors.v[A_A2AD].addr, anchor_n_allocators(l),
			   &vm->alloc_names, &vm->n_alloc);
	if (vm->anchors.v[A_N2TD].addr)
		names_read(copy, vm->anchors.v[A_N2TD].addr, NAMES_MAX, &vm->type_names,
			   &vm->n_types);
	return vm_verify(vm, &s);
}

/* Whether everything was found that a build of this kind lets us find. */
static bool all_found(const struct vm *vm)
{
	for (int id = 0; id < A_N; id++) {
		if (vm->anchors.v[id].addr)
			continue;
		/* The first are never searched for; an emulator has no JIT. */
		if (id != A_NO_SCHEDULERS && id != A_OTP_RELEASE && id != A_ERTS_VERSION &&
		    id != A_CODE_INDEX && (id != A_JIT_DESCRIPTOR || vm->jit))
			return false;
	}
	return true;
}

/* The same with patience: a VM that loads code or makes atoms while we look
 * hides a table or a counter for some milliseconds. */
static unsigned layout_try_again(struct vm *vm, struct image_copy *copy, const struct layout *l,
				 enum anchors_mode mode)
{
	const struct mappings *callers = vm->maps;
	unsigned bad = layout_try(vm, copy, l, mode);

	for (int i = 0; i < RETRIES && (bad || !all_found(vm)); i++) {
		struct mappings *fresh;

		usleep(RETRY_US << i);
		/* What is looked for may lie in a carrier that is newer than the
		 * caller's picture of the address space. */
		if (mappings_read(vm->target, &fresh, NULL) != 0)
			break;
		vm->maps = copy->maps = fresh;
		if (image_copy_refresh(copy) == 0)
			bad = layout_try(vm, copy, l, mode);
		else
			i = RETRIES;
		vm->maps = copy->maps = callers;
		mappings_free(fresh);
	}
	return bad;
}

static const char *first_failed(const struct vm *vm)
{
	for (size_t i = 0; i < vm->n_checks; i++)
		if (!vm->checks[i].ok)
			return vm->checks[i].what;
	return "";
}

static int layout_choose(struct vm *vm, struct image_copy *copy, const struct vm_open_opts *opts,
			 struct error *err)
{
	enum anchors_mode mode = opts->signatures_only ? ANCHORS_SIGNATURES : ANCHORS_BEST;
	const char *flavor = vm->jit ? "jit" : "emu";
	int major = atoi(vm->otp_release);
	const struct layout *own, *found = NULL;
	char failed[sizeof(((struct vm_check *)0)->what)] = "";
	size_t passed = 0;

	if (opts->layout) {
		unsigned bad = layout_try_again(vm, copy, opts->layout, mode);

		snprintf(vm->layout_note, sizeof(vm->layout_note), "layout of OTP %s as asked for",
			 opts->layout->otp);
		return bad ? error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				       "The layout of OTP %s does not fit this VM: %s.",
				       opts->layout->otp, first_failed(vm))
			   : 0;
	}
	own = layout_find(major, flavor);
	if (!opts->no_debuginfo) {
		vm->layout_own = layout_of_debuginfo(vm, own);
		if (vm->layout_own) {
			if (layout_try_again(vm, copy, vm->layout_own, mode) == 0) {
				vm->layout_is_dwarf = true;
				snprintf(vm->layout_note, sizeof(vm->layout_note),
					 "read from debug information, %zu checks passed",
					 vm->n_checks);
				return 0;
			}
			free(vm->layout_own);
			vm->layout_own = NULL;
			vm->layout = NULL;
		}
	}
	if (own) {
		if (layout_try_again(vm, copy, own, mode) == 0) {
			snprintf(vm->layout_note, sizeof(vm->layout_note),
				 "table of OTP %s (%s), %zu checks passed", own->otp, own->flavor,
				 vm->n_checks);
			return 0;
		}
		snprintf(failed, sizeof(failed), "%s", first_failed(vm));
	}
	for (size_t i = 0; i < layout_count(); i++) {
		const struct layout *l = layout_at(i);

		/* The JIT's structures and the emulator's differ in places that
		 * no check looks at: a table of the other flavour would pass. */
		if (l == own || (strcmp(l->flavor, "jit") == 0) != vm->jit ||
		    layout_try(vm, copy, l, mode) != 0)
			continue;
		passed++;
		found = l;
	}
	if (passed == 1 && layout_try(vm, copy, found, mode) == 0) {
		snprintf(vm->layout_note, sizeof(vm->layout_note),
			 "no table of OTP %s that fits; that of OTP %s is the only one that passes "
			 "all %zu checks",
			 vm->otp_release, found->otp, vm->n_checks);
		return 0;
	}
	if (own)
		return error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				 "This VM (OTP %s, erts %s) does not fit the table of OTP %s: %s. "
				 "Install its debug information, or make a table with "
				 "tools/otp-layout.",
				 vm->otp_release, vm->erts_version, own->otp, failed);
	return error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
			 "There is no layout for OTP %s (erts %s), and %s. Install its debug "
			 "information, or make a table with tools/otp-layout.",
			 vm->otp_release, vm->erts_version,
			 passed ? "more than one table of another release fits"
				: "no table of another release fits");
}

/* ---- Opening ----------------------------------------------------------------------- */

int vm_open_opts(struct target *t, const struct mappings *maps, struct images *images,
		 const struct vm_open_opts *opts, struct vm **out, struct error *err)
{
	static const struct vm_open_opts none;
	struct image_copy copy = { .fd = -1 };
	struct vm_banner banner;
	const char *refused;
	struct vm *vm;
	int ret;

	*out = NULL;
	if (!opts)
		opts = &none;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
	vm->target = t;
	vm->maps = maps;
	vm->images = images;
	vm->exe_fd = -1;
	vm->exe = images_exe(images);
	if (!vm->exe) {
		ret = error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				"Process %d shows no executable that could be a BEAM.",
				(int)target_pid(t));
		goto fail;
	}
	ret = image_copy_take(t, maps, vm->exe, &copy, err);
	if (ret)
		goto fail;
	if (vm_banner_read(&copy, &banner) != 0) {
		ret = error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				"Process %d (%s) is not a BEAM: its executable holds no Erlang/OTP "
				"version.",
				(int)target_pid(t), image_name(vm->exe));
		goto fail;
	}
	memcpy(vm->otp_release, banner.release, sizeof(vm->otp_release));
	memcpy(vm->erts_version, banner.erts, sizeof(vm->erts_version));
	vm->jit = banner.jit;
	refused = banner.refused[0] ? banner.refused : refused_by_symbols(vm, &copy);
	if (refused) {
		ret = error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				"This VM (OTP %s) is a special build (%s): its structures differ from "
				"those of every released one.",
				vm->otp_release, refused);
		goto fail;
	}
	ret = layout_choose(vm, &copy, opts, err);
	if (ret)
		goto fail;
	vm->exe_fd = copy.fd;
	copy.fd = -1;
	image_copy_free(&copy);
	*out = vm;
	return 0;
fail:
	image_copy_free(&copy);
	vm_close(vm);
	return ret;
}

int vm_open(struct target *t, const struct mappings *maps, struct images *images, struct vm **out,
	    struct error *err)
{
	return vm_open_opts(t, maps, images, NULL, out, err);
}

void vm_close(struct vm *vm)
{
	if (!vm)
		return;
	names_free(&vm->alloc_names, &vm->n_alloc);
	names_free(&vm->type_names, &vm->n_types);
	if (vm->exe_fd >= 0)
		close(vm->exe_fd);
	free(vm->layout_own);
	free(vm->checks);
	free(vm);
}
