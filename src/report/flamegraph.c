/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flame graphs as SVG.
 *
 *	    +-----+
 *	    | e   |           what was running, or took memory
 *	+---+-----+--+----+
 *	| c          | d  |   called by
 *	+------------+----+
 *	| a               |   processes and thread roles
 *	+-----------------+
 *
 * A box's width is the share of the weight that has it on the stack; order from
 * left to right means nothing (largest first). The picture is complete without
 * JavaScript: every box that is wide enough for text shows its name, every box
 * has a <title> that browsers show and screen readers read. With JavaScript a
 * click makes a box fill the width, and a search colours what matches.
 *
 * With a base to compare with, a box is as wide as the larger of both weights, so
 * that what came and what went are both there; its colour says how much of it that
 * is: red came, blue went.
 *
 * Only positive weights have a width. Memory that stacks gave back is in the
 * numbers and named in the second line, and not in the picture.
 *
 * Boxes narrower than a fifth of a pixel are left out, and rows above the 600th,
 * which bounds the size of the document: at most 6,000 boxes a row.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "report/profile_report.h"
#include "report/xml.h"

#define WIDTH	 1200.0
#define MARGIN	 10.0
#define ROW	 17.0
#define TOP	 102.0 /* title, numbers, legend */
#define BOTTOM	 34.0  /* details */
#define CHAR	 6.7   /* pixels of one character at 11 px, and a little */
#define NARROW	 0.2   /* pixels */
#define ROWS_MAX 600u
#define TEXT_MAX 4400

/* Fill colours by kind: pale enough for black text (contrast above 7:1), apart
 * from each other also for colour-blind eyes by their lightness. */
static const struct {
	enum frame_kind kind;
	const char *class, *colour, *legend;
} kinds[] = {
	{ FRAME_LABEL, "l", "#d9dde3", "process or thread" },
	{ FRAME_ERLANG, "e", "#ffc27a", "Erlang" },
	{ FRAME_GLUE, "g", "#ffe9a3", "JIT glue" },
	{ FRAME_ERTS, "v", "#a9d1f7", "ERTS" },
	{ FRAME_NIF, "n", "#ff9c8f", "NIF or driver" },
	{ FRAME_LIBC, "c", "#c3e6b0", "libc" },
	{ FRAME_LIBRARY, "b", "#8fd3c4", "library" },
	{ FRAME_KERNEL, "k", "#d8c2f0", "kernel" },
	{ FRAME_NATIVE, "u", "#f4f4f4", "unknown" },
	{ FRAME_CUT, "x", "#e8e8e8", "cut, thinned, repeated, joined" },
};

#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Of a difference: shares of the box's width that came (or, below 0, went). */
static const struct {
	double least; /* of the absolute share */
	const char *class, *colour, *legend;
} differences[] = {
	{ 0.5, "d3", "#7fb3dc", "went" }, { 0.2, "d2", "#a9cfe6", NULL },
	{ 0.02, "d1", "#d6e8f3", NULL },  { 0, "d0", "#f4f4f4", "the same" },
	{ 0.02, "u1", "#fddfd3", NULL },  { 0.2, "u2", "#f9bda8", NULL },
	{ 0.5, "u3", "#f4917d", "came" },
};

#define N_DIFFERENCES (sizeof(differences) / sizeof(differences[0]))
#define SAME	      3

static size_t kind_index(enum frame_kind kind)
{
	size_t i;

	if (kind == FRAME_REPEAT || kind == FRAME_JOINED)
		kind = FRAME_CUT;
	for (i = 0; i < N_KINDS - 1; i++)
		if (kinds[i].kind == kind)
			break;
	return i;
}

static size_t difference_index(const struct report_node *n)
{
	double a = (double)n->base_total, b = (double)n->total;
	double larger = a > b ? a : b, share = larger > 0 ? (b - a) / larger : 0;
	size_t i;

	if (share < 0) {
		for (i = 0; i < SAME; i++)
			if (-share >= differences[i].least)
				return i;
	} else {
		for (i = N_DIFFERENCES - 1; i > SAME; i--)
			if (share >= differences[i].least)
				return i;
	}
	return SAME;
}

/* Bytes of the first `chars` characters. */
static size_t utf8_prefix(const char *text, size_t chars)
{
	size_t i = 0;

	while (text[i] && chars--) {
		i++;
		while (((unsigned char)text[i] & 0xc0) == 0x80)
			i++;
	}
	return i;
}

static size_t utf8_length(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* The part of a name that fits into `width` pixels; nothing if that says little. */
static void put_fitting(FILE *to, const char *text, double width)
{
	size_t room = width < 4 * CHAR ? 0 : (size_t)((width - 6) / CHAR), have = utf8_length(text);

	if (have <= room) {
		xml_string(to, text);
	} else if (room >= 4) {
		xml_text(to, text, utf8_prefix(text, room - 2));
		fputs("..", to);
	}
}

/* ---- the page around ------------------------------------------------------ */

static const char style[] =
	".fg text{font:11px monospace;fill:#111}"
	".fg text.h{font:bold 16px sans-serif}.fg text.s,.fg text.i{font:12px sans-serif}"
	".fg text.a{font:12px sans-serif;fill:#0b5394;text-decoration:underline;cursor:pointer}"
	".fg rect{stroke:#fff;stroke-width:.6}"
	".fg rect.bg{fill:#fcfcfd;stroke:none}"
	".fg g.f{cursor:pointer}.fg g.f:hover rect{stroke:#111;stroke-width:1.2}"
	".fg g.f text{pointer-events:none}"
	".fg g.o rect{opacity:.45}.fg g.m rect{fill:#e3008c}.fg g.m text{fill:#fff}";

/* Boxes know nothing of each other but their place: data-x and data-w are shares
 * of the whole width, data-d the row. So zooming is arithmetic. */
static const char script[] =
	"(function(){'use strict';"
	"var svg=document.currentScript?document.currentScript.ownerSVGElement:"
	"document.documentElement;"
	"var G=[].slice.call(svg.querySelectorAll('g.f')),W=+svg.dataset.w,M=+svg.dataset.m,"
	"C=+svg.dataset.c,info=svg.querySelector('.info'),found=svg.querySelector('.found'),"
	"reset=svg.querySelector('.reset'),alone=svg.dataset.n==='0';"
	"var F=G.map(function(g){var t=g.querySelector('title').textContent;"
	"return{g:g,r:g.querySelector('rect'),t:g.querySelector('text'),x:+g.dataset.x,"
	"w:+g.dataset.w,d:+g.dataset.d,n:t.slice(0,t.lastIndexOf(' (')),full:t};});"
	"var zx=0,zw=1,zd=-1,E=1e-9;"
	"function fit(s,w){var room=w<4*C?0:Math.floor((w-6)/C),a=Array.from(s);"
	"return a.length<=room?s:room>=4?a.slice(0,room-2).join('')+'..':'';}"
	"function draw(){F.forEach(function(f){"
	"var inside=f.x>=zx-E&&f.x+f.w<=zx+zw+E,above=f.d<=zd&&f.x<=zx+E&&f.x+f.w>=zx+zw-E,x,w;"
	"if(above&&f.d<zd||above&&!inside){x=M;w=W;}"
	"else if(inside){x=M+(f.x-zx)/zw*W;w=f.w/zw*W;}"
	"else{f.g.style.display='none';return;}"
	"f.g.style.display='';f.g.classList.toggle('o',f.d<zd);"
	"f.r.setAttribute('x',x);f.r.setAttribute('width',w);"
	"f.t.setAttribute('x',x+3);f.t.textContent=fit(f.n,w);});"
	"reset.style.display=zd<0?'none':'';}"
	"function zoom(f){if(f){zx=f.x;zw=f.w;zd=f.d;}else{zx=0;zw=1;zd=-1;}draw();}"
	"function search(){var q=window.prompt('Names that contain (empty: none):','');"
	"if(q===null)return;q=q.toLowerCase();var hit=[],sum=0,end=0;"
	"F.forEach(function(f){var m=q!==''&&f.n.toLowerCase().indexOf(q)>=0;"
	"f.g.classList.toggle('m',m);if(m)hit.push(f);});"
	"hit.sort(function(a,b){return a.x-b.x||b.w-a.w;});"
	"hit.forEach(function(f){var l=Math.max(f.x,end),r=f.x+f.w;if(r>l){sum+=r-l;end=r;}});"
	"found.textContent=q===''?'':hit.length+' boxes match, '+(100*sum).toFixed(1)+'% of the width';}"
	"G.forEach(function(g,i){g.addEventListener('click',function(){zoom(F[i]);});"
	"g.addEventListener('mouseenter',function(){info.textContent=F[i].full;});"
	"g.addEventListener('mouseleave',function(){info.textContent='';});"
	"g.addEventListener('keydown',function(e){if(e.key==='Enter'||e.key===' '){"
	"e.preventDefault();zoom(F[i]);}});"
	"g.addEventListener('focus',function(){info.textContent=F[i].full;});});"
	"function button(el,fn){el.style.display='';el.addEventListener('click',fn);"
	"el.addEventListener('keydown',function(e){if(e.key==='Enter'||e.key===' '){"
	"e.preventDefault();fn();}});}"
	"button(svg.querySelector('.search'),search);button(reset,function(){zoom(null);});"
	"document.addEventListener('keydown',function(e){if(e.key==='Escape')zoom(null);"
	"else if(alone&&(e.ctrlKey||e.metaKey)&&e.key==='f'){e.preventDefault();search();}});"
	"draw();})();";

static double put_key(FILE *to, double x, const char *class, const char *text)
{
	fprintf(to,
		"<rect class=\"%s\" x=\"%.1f\" y=\"74\" width=\"14\" height=\"14\" "
		"style=\"stroke:#777\"/>",
		class, x);
	if (!text)
		return x + 16;
	fprintf(to, "<text class=\"s\" x=\"%.1f\" y=\"85\">%s</text>", x + 19, text);
	return x + 38 + 7.0 * (double)strlen(text);
}

static void put_legend(FILE *to, const struct profile_report *r)
{
	bool used[N_KINDS] = { false };
	double x = MARGIN;
	size_t i;

	fputs("<g aria-label=\"Legend\">", to);
	for (i = 1; i < r->n_nodes; i++)
		if (r->nodes[i].drawn)
			used[kind_index(r->names[r->nodes[i].name].kind)] = true;
	for (i = 0; i < N_KINDS && !r->has_base; i++)
		if (used[i])
			x = put_key(to, x, kinds[i].class, kinds[i].legend);
	for (i = 0; i < N_DIFFERENCES && r->has_base; i++)
		x = put_key(to, x, differences[i].class, differences[i].legend);
	fputs("</g>\n", to);
}

static void put_difference(FILE *to, const struct profile_report *r)
{
	char a[32], b[32];

	fprintf(to, "%s before, ", weight_format(a, sizeof(a), r->profile, r->base_total));
	fprintf(to, "%s after; width is the larger of both, in %s",
		weight_format(b, sizeof(b), r->profile, r->total), r->profile->unit);
}

/* The second line: how much, in what; the third: what is not in the picture. */
static void put_numbers(FILE *to, const struct profile_report *r)
{
	const struct profile *p = r->profile;
	char total[32], events[160];

	fprintf(to, "%s%s in %zu different stacks, width is %s; %s",
		weight_format(total, sizeof(total), p, r->total),
		r->gross			 ? " (gross)"
		: strcmp(p->kind, "growth") == 0 ? " net"
						 : "",
		r->n_stacks, p->unit, events_text(events, sizeof(events), r));
}

static void put_missing(FILE *to, const struct profile_report *r, uint64_t narrow)
{
	const struct profile *p = r->profile;
	char weight[32];

	if (r->negative)
		fprintf(to, "not drawn: %s given back; ",
			weight_format(weight, sizeof(weight), p, r->negative));
	if (p->without_stack)
		fprintf(to, "%s without a stack; ",
			weight_format(weight, sizeof(weight), p, p->without_stack));
	if (p->lost_stacks || p->lost_events)
		fprintf(to, "lost: %" PRIu64 " stacks, %" PRIu64 " events; ", p->lost_stacks,
			p->lost_events);
	fprintf(to, "%" PRIu64 " boxes too narrow to draw", narrow);
}

/* ---- boxes ---------------------------------------------------------------- */

struct drawing {
	FILE *to; /* NULL: only count */
	const struct profile_report *r;
	double scale; /* pixels for one unit of weight */
	double height;
	uint64_t narrow;
	unsigned rows;
};

static void put_box(struct drawing *d, uint32_t node, double x, unsigned depth)
{
	const struct profile_report *r = d->r;
	const struct report_node *n = &r->nodes[node];
	const struct report_name *name = &r->names[n->name];
	const double w = (double)n->drawn * d->scale;
	const double y = r->invert ? TOP + depth * ROW : d->height - BOTTOM - (depth + 1) * ROW;
	const double all = (double)r->nodes[0].drawn;
	char weight[32];

	fprintf(d->to,
		"<g class=\"f\" tabindex=\"-1\" data-x=\"%.9f\" data-w=\"%.9f\" data-d=\"%u\">"
		"<title>",
		(x - MARGIN) / (WIDTH - 2 * MARGIN), w / (WIDTH - 2 * MARGIN), depth);
	xml_string(d->to, name->text);
	if (r->has_base)
		fprintf(d->to, " (%s before, ",
			weight_format(weight, sizeof(weight), r->profile, n->base_total));
	fprintf(d->to,
		"%s%s%s, %.2f%%, %s)</title><rect class=\"%s\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" "
		"height=\"%.1f\" rx=\"1\"/><text x=\"%.2f\" y=\"%.1f\">",
		r->has_base ? "" : " (",
		weight_format(weight, sizeof(weight), r->profile, n->total),
		r->has_base ? " after" : "", 100.0 * (double)n->drawn / all,
		frame_kind_name(name->kind),
		r->has_base ? differences[difference_index(n)].class : kinds[kind_index(name->kind)].class,
		x, y, w, ROW - 1, x + 3, y + 12);
	put_fitting(d->to, name->text, w);
	fputs("</text></g>\n", d->to);
}

/* All boxes above `node`, depth first, without recursion: the stack is the path
 * from the root, which the nodes hold themselves. */
static void walk(struct drawing *d)
{
	const struct profile_report *r = d->r;
	double *left = calloc((size_t)r->depth + 2, sizeof(*left));
	uint32_t at = r->nodes[0].first_child;
	unsigned depth = 0;

	if (!left)
		return;
	left[0] = MARGIN;
	while (at) {
		const double w = (double)r->nodes[at].drawn * d->scale;
		bool descend = false;

		if (w >= NARROW && depth < ROWS_MAX) {
			if (d->to)
				put_box(d, at, left[depth], depth);
			if (depth + 1 > d->rows)
				d->rows = depth + 1;
			descend = r->nodes[at].first_child != 0;
		} else if (r->nodes[at].drawn) {
			d->narrow++;
		}
		if (descend) {
			left[depth + 1] = left[depth];
			depth++;
			at = r->nodes[at].first_child;
			continue;
		}
		/* to the next on this row, or on one below */
		while (at) {
			left[depth] += (double)r->nodes[at].drawn * d->scale;
			if (r->nodes[at].next_sibling) {
				at = r->nodes[at].next_sibling;
				break;
			}
			at = r->nodes[at].parent;
			if (at)
				depth--;
		}
	}
	free(left);
}

void profile_flamegraph(FILE *to, const struct profile_report *r, unsigned number)
{
	struct drawing d = { .r = r };
	size_t i;

	if (r->nodes[0].drawn)
		d.scale = (WIDTH - 2 * MARGIN) / (double)r->nodes[0].drawn;
	walk(&d); /* how many rows? */
	d.height = TOP + (d.rows ? d.rows : 1) * ROW + BOTTOM;
	if (!number)
		fputs("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"no\"?>\n", to);
	fprintf(to,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"fg\" role=\"img\" "
		"aria-labelledby=\"title%u numbers%u\" viewBox=\"0 0 %.0f %.0f\" width=\"100%%\" "
		"data-w=\"%.0f\" data-m=\"%.0f\" data-c=\"%.1f\" data-n=\"%u\">\n",
		number, number, WIDTH, d.height, WIDTH - 2 * MARGIN, MARGIN, CHAR, number);
	if (number < 2) { /* one page has one style sheet */
		fprintf(to, "<style>%s", style);
		for (i = 0; i < N_KINDS; i++)
			fprintf(to, ".fg rect.%s{fill:%s}", kinds[i].class, kinds[i].colour);
		for (i = 0; i < N_DIFFERENCES; i++)
			fprintf(to, ".fg rect.%s{fill:%s}", differences[i].class,
				differences[i].colour);
		fputs("</style>\n", to);
	}
	fprintf(to,
		"<rect class=\"bg\" width=\"%.0f\" height=\"%.0f\"/>\n"
		"<text class=\"h\" id=\"title%u\" x=\"%.0f\" y=\"24\">",
		WIDTH, d.height, number, MARGIN);
	xml_string(to, r->title);
	fprintf(to, "</text>\n<text class=\"s\" id=\"numbers%u\" x=\"%.0f\" y=\"44\">", number,
		MARGIN);
	if (r->has_base)
		put_difference(to, r);
	else
		put_numbers(to, r);
	fprintf(to, "</text>\n<text class=\"s\" x=\"%.0f\" y=\"62\">", MARGIN);
	put_missing(to, r, d.narrow);
	fputs("</text>\n", to);
	put_legend(to, r);
	fprintf(to,
		"<text class=\"a reset\" role=\"button\" tabindex=\"0\" x=\"%.0f\" y=\"24\" "
		"text-anchor=\"end\" style=\"display:none\">Reset zoom</text>\n"
		"<text class=\"a search\" role=\"button\" tabindex=\"0\" x=\"%.0f\" y=\"24\" "
		"text-anchor=\"end\" style=\"display:none\">Search</text>\n"
		"<text class=\"i found\" x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\"></text>\n"
		"<text class=\"i info\" x=\"%.0f\" y=\"%.0f\"></text>\n",
		WIDTH - MARGIN - 60, WIDTH - MARGIN, WIDTH - MARGIN, d.height - 12, MARGIN,
		d.height - 12);
	d.to = to;
	d.narrow = 0;
	walk(&d);
	if (!d.rows)
		fprintf(to,
			"<text class=\"s\" x=\"%.0f\" y=\"%.0f\">There is nothing to draw.</text>\n",
			MARGIN, TOP + 12);
	fprintf(to, "<script><![CDATA[%s]]></script>\n</svg>\n", script);
}
