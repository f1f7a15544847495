/* SPDX-License-Identifier: Apache-2.0 */
/*
 * otp-layout: writes the layout tables of src/erts/layouts.
 *
 *	otp-layout probe FILE
 *		prints C code for the end of a copy of ERTS's source file FILE: one constant for
 *		each macro of layout_fields.def that the file can see.
 *	otp-layout table [options] OBJECT
 *		reads types from the debug information of OBJECT and constants from its data, and
 *		prints a table as C code.
 *	otp-layout show OBJECT
 *		the same values, one "name offset size" or "name value" a line, for comparisons.
 *
 * generate.sh drives it: README.md in this directory tells how a table comes about.
 */
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <gelf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "erts/layout.h"
#include "erts/layout_dwarf.h"

#define CONST_PREFIX "beamray_const_"

struct options {
	struct layout identity; /* the members that are no measurements */
	const char *symbol;	/* name of the variable to print */
	const char *command;	/* how to make the table again, for its header */
	bool verbose;
};

static int probe_print(const char *file)
{
	const struct layout_item *item;

	printf("\n");
	for (size_t i = 0; (item = layout_item(i)) != NULL; i++) {
		const char *paths = item->paths;
		const char *directive = "#if";

		if (item->kind != LAYOUT_KIND_CONST)
			continue;
		while (*paths) {
			int length = (int)strcspn(paths, "|");
			int name_length = (int)strcspn(paths, "|@");
			const char *at = paths + name_length + 1;
			int at_length = length - name_length - 1;

			if (name_length == length || ((int)strlen(file) == at_length &&
						      strncmp(at, file, (size_t)at_length) == 0)) {
				printf("%s defined(%.*s)\n", directive, name_length, paths);
				printf("static const long long " CONST_PREFIX
				       "%s __attribute__((used)) = (long long)(%.*s);\n",
				       item->name, name_length, paths);
				directive = "#elif";
			}
			paths += length + (paths[length] == '|');
		}
		if (strcmp(directive, "#elif") == 0)
			printf("#endif\n");
	}
	return 0;
}

static const struct layout_item *const_item(const char *name)
{
	const struct layout_item *item;

	for (size_t i = 0; (item = layout_item(i)) != NULL; i++) {
		if (item->kind == LAYOUT_KIND_CONST && strcmp(item->name, name) == 0)
			return item;
	}
	return NULL;
}

/* Reads one 8-byte constant at a symbol of a relocatable object. */
static bool symbol_value(Elf *elf, const GElf_Sym *symbol, int64_t *value)
{
	Elf_Scn *section = elf_getscn(elf, symbol->st_shndx);
	Elf_Data *data = section ? elf_rawdata(section, NULL) : NULL;

	if (!data || !data->d_buf || symbol->st_size != sizeof(*value) ||
	    data->d_size < sizeof(*value) || symbol->st_value > data->d_size - sizeof(*value)) {
		/* .bss has no bytes: a constant that is 0. */
		GElf_Shdr header;

		if (!section || !gelf_getshdr(section, &header) || header.sh_type != SHT_NOBITS)
			return false;
		*value = 0;
		return true;
	}
	memcpy(value, (const char *)data->d_buf + symbol->st_value, sizeof(*value));
	return true;
}

/* Constants of the probe override enumerators; the same macro must mean the same everywhere. */
static int consts_read(const char *path, struct layout *l)
{
	bool *seen = calloc(layout_item_count(), sizeof(*seen));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf *elf = fd < 0 ? NULL : elf_begin(fd, ELF_C_READ, NULL);
	Elf_Scn *section = NULL;
	int err = 0;

	if (!elf || !seen) {
		fprintf(stderr, "otp-layout: cannot read %s\n", path);
		err = -EIO;
		goto out;
	}
	while ((section = elf_nextscn(elf, section)) != NULL) {
		GElf_Shdr header;
		Elf_Data *data;

		if (!gelf_getshdr(section, &header) || header.sh_type != SHT_SYMTAB)
			continue;
		data = elf_getdata(section, NULL);
		for (size_t i = 0; data && i < header.sh_size / header.sh_entsize; i++) {
			const struct layout_item *item;
			const char *name;
			GElf_Sym symbol;
			int64_t value;
			int64_t known;

			if (!gelf_getsym(data, (int)i, &symbol))
				continue;
			name = elf_strptr(elf, header.sh_link, symbol.st_name);
			if (!name || strncmp(name, CONST_PREFIX, strlen(CONST_PREFIX)) != 0)
				continue;
			item = const_item(name + strlen(CONST_PREFIX));
			if (!item || !symbol_value(elf, &symbol, &value)) {
				fprintf(stderr, "otp-layout: cannot read %s\n", name);
				err = -EIO;
				continue;
			}
			known = layout_item_const(l, item);
			for (size_t j = 0; j < layout_item_count(); j++) {
				if (layout_item(j) != item)
					continue;
				if (seen[j] && known != value) {
					fprintf(stderr,
						"otp-layout: %s differs between source files\n",
						item->paths);
					err = -EINVAL;
				}
				seen[j] = true;
			}
			memcpy((char *)l + item->member, &value, sizeof(value));
		}
	}
out:
	if (elf)
		elf_end(elf);
	if (fd >= 0)
		close(fd);
	free(seen);
	return err;
}

static void problem_print(const struct layout_item *item, enum layout_problem problem, void *ctx)
{
	static const char *const words[] = {
		[LAYOUT_PROBLEM_TYPE_MISSING] = "no such type",
		[LAYOUT_PROBLEM_FIELD_MISSING] = "no such field",
		[LAYOUT_PROBLEM_FIELD_BITS] = "a bit-field",
		[LAYOUT_PROBLEM_TYPE_AMBIGUOUS] = "several types of that name",
	};
	const struct options *options = ctx;

	/* Constants are told of once macros are known too. */
	if (options->verbose && problem != LAYOUT_PROBLEM_CONST_MISSING)
		fprintf(stderr, "%s (\"%s\"): %s\n", item->name, item->paths, words[problem]);
}

static const Dwfl_Callbacks dwfl_callbacks = {
	.find_elf = dwfl_build_id_find_elf,
	.find_debuginfo = dwfl_standard_find_debuginfo,
	.section_address = dwfl_offline_section_address,
};

static int object_read(const char *path, struct options *options, struct layout *out)
{
	Dwfl *dwfl = dwfl_begin(&dwfl_callbacks);
	Dwfl_Module *module;
	const struct layout_item *item;
	Dwarf_Addr bias;
	Dwarf *dw;
	int err = -EIO;

	if (!dwfl)
		return -ENOMEM;
	module = dwfl_report_offline(dwfl, path, path, -1);
	dwfl_report_end(dwfl, NULL, NULL);
	dw = module ? dwfl_module_getdwarf(module, &bias) : NULL;
	if (!dw) {
		fprintf(stderr, "otp-layout: %s: %s\n", path, dwfl_errmsg(-1));
		goto out;
	}
	err = layout_from_dwarf(dw, NULL, out, problem_print, options);
	if (err) {
		fprintf(stderr, "otp-layout: %s: %s\n", path,
			err == -ENOENT ? "describes no ERTS" : strerror(-err));
		goto out;
	}
	out->otp = options->identity.otp;
	out->otp_major = options->identity.otp_major;
	out->erts_vsn = options->identity.erts_vsn;
	out->arch = options->identity.arch;
	out->flavor = options->identity.flavor;
	out->source = options->identity.source;
	err = consts_read(path, out);
	for (size_t i = 0; options->verbose && (item = layout_item(i)) != NULL; i++) {
		if (item->kind == LAYOUT_KIND_CONST &&
		    layout_item_const(out, item) == LAYOUT_NO_CONST)
			fprintf(stderr, "%s (\"%s\"): no such constant\n", item->name, item->paths);
	}
out:
	dwfl_end(dwfl);
	return err;
}

/* Masks and flags read better in hexadecimal, counts in decimal. */
static void const_print(int64_t value)
{
	if (value == LAYOUT_NO_CONST)
		printf("LAYOUT_NO_CONST");
	else if (value < 0)
		printf("(int64_t)UINT64_C(0x%" PRIx64 ")", (uint64_t)value);
	else if (value > INT32_MAX)
		printf("INT64_C(0x%" PRIx64 ")", (uint64_t)value);
	else if (value > 9999)
		printf("0x%" PRIx64, (uint64_t)value);
	else
		printf("%" PRId64, value);
}

static void table_print(const struct layout *l, const struct options *options)
{
	enum layout_kind previous = LAYOUT_KIND_TYPE;
	const struct layout_item *item;

	printf("/* SPDX-License-Identifier: Apache-2.0 */\n"
	       "/*\n"
	       " * Where ERTS keeps things: OTP %s (ERTS %s), %s, flavour %s.\n"
	       " *\n"
	       " * Measured: %s.\n"
	       " *\n"
	       " * Generated by tools/otp-layout, do not edit. To make it again:\n"
	       " *\t%s\n"
	       " */\n"
	       "#include \"erts/layouts/tables.h\"\n\n"
	       "const struct layout %s = {\n",
	       l->otp, l->erts_vsn, l->arch, l->flavor, l->source, options->command,
	       options->symbol);
	printf("\t.otp = \"%s\",\n\t.otp_major = %d,\n\t.erts_vsn = \"%s\",\n\t.arch = \"%s\",\n"
	       "\t.flavor = \"%s\",\n\t.source = \"%s\",\n\t.list_id = 0x%08" PRIx32 ",\n",
	       l->otp, l->otp_major, l->erts_vsn, l->arch, l->flavor, l->source, l->list_id);
	for (size_t i = 0; (item = layout_item(i)) != NULL; i++) {
		struct layout_field field = layout_item_field(l, item);

		if (item->kind == LAYOUT_KIND_TYPE ||
		    (item->kind == LAYOUT_KIND_CONST && previous != LAYOUT_KIND_CONST))
			printf("\n");
		previous = item->kind;
		printf("\t.%s = ", item->name);
		switch (item->kind) {
		case LAYOUT_KIND_TYPE:
			printf("%" PRIu32, field.size);
			break;
		case LAYOUT_KIND_FIELD:
			if (layout_has(field))
				printf("{%" PRId32 ", %" PRIu32 "}", field.offset, field.size);
			else
				printf("LAYOUT_NO_FIELD");
			break;
		case LAYOUT_KIND_LENGTH:
		case LAYOUT_KIND_CONST:
			const_print(layout_item_const(l, item));
			break;
		}
		printf(",\n");
	}
	printf("};\n");
}

static void layout_print(const struct layout *l)
{
	const struct layout_item *item;

	for (size_t i = 0; (item = layout_item(i)) != NULL; i++) {
		struct layout_field field = layout_item_field(l, item);
		int64_t value = layout_item_const(l, item);

		if (item->kind == LAYOUT_KIND_TYPE || item->kind == LAYOUT_KIND_FIELD)
			printf("%s %" PRId32 " %" PRIu32 "\n", item->name, field.offset,
			       field.size);
		else if (value == LAYOUT_NO_CONST)
			printf("%s none\n", item->name);
		else
			printf("%s %" PRId64 "\n", item->name, value);
	}
}

static void usage(FILE *to)
{
	fprintf(to, "usage: otp-layout probe FILE\n"
		    "       otp-layout show [-v] OBJECT\n"
		    "       otp-layout table [-v] [options] OBJECT\n"
		    "  -v, --verbose     say on stderr what was not found\n"
		    "  --otp VERSION     release, e.g. 27.3.4.1\n"
		    "  --erts VERSION    version of ERTS\n"
		    "  --arch ARCH       e.g. x86_64\n"
		    "  --flavor FLAVOR   jit or emu\n"
		    "  --source TEXT     what was measured\n"
		    "  --symbol NAME     name of the table's variable\n"
		    "  --command TEXT    how to make the table again\n");
}

int main(int argc, char **argv)
{
	enum { OPT_OTP = 256, OPT_ERTS, OPT_ARCH, OPT_FLAVOR, OPT_SOURCE, OPT_SYMBOL, OPT_COMMAND };
	static const struct option long_options[] = {
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ "otp", required_argument, NULL, OPT_OTP },
		{ "erts", required_argument, NULL, OPT_ERTS },
		{ "arch", required_argument, NULL, OPT_ARCH },
		{ "flavor", required_argument, NULL, OPT_FLAVOR },
		{ "source", required_argument, NULL, OPT_SOURCE },
		{ "symbol", required_argument, NULL, OPT_SYMBOL },
		{ "command", required_argument, NULL, OPT_COMMAND },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = {
		.identity = { .otp = "", .erts_vsn = "", .arch = "", .flavor = "", .source = "" },
		.symbol = "layout_of_object",
		.command = "tools/otp-layout/generate.sh",
	};
	struct layout l;
	const char *command;
	int c;

	while ((c = getopt_long(argc, argv, "vh", long_options, NULL)) != -1) {
		switch (c) {
		case 'v':
			options.verbose = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		case OPT_OTP:
			options.identity.otp = optarg;
			options.identity.otp_major = atoi(optarg);
			break;
		case OPT_ERTS:
			options.identity.erts_vsn = optarg;
			break;
		case OPT_ARCH:
			options.identity.arch = optarg;
			break;
		case OPT_FLAVOR:
			options.identity.flavor = optarg;
			break;
		case OPT_SOURCE:
			options.identity.source = optarg;
			break;
		case OPT_SYMBOL:
			options.symbol = optarg;
			break;
		case OPT_COMMAND:
			options.command = optarg;
			break;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (argc - optind != 2) {
		usage(stderr);
		return 2;
	}
	command = argv[optind];
	if (strcmp(command, "probe") == 0)
		return probe_print(argv[optind + 1]);
	if (strcmp(command, "table") != 0 && strcmp(command, "show") != 0) {
		usage(stderr);
		return 2;
	}
	elf_version(EV_CURRENT);
	if (object_read(argv[optind + 1], &options, &l) != 0)
		return 1;
	if (strcmp(command, "table") == 0)
		table_print(&l, &options);
	else
		layout_print(&l);
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
