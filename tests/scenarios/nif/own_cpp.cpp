/*
 * A NIF in C++: classes with virtual functions, standard containers, some of both
 * lost. See own_c.c.
 */
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <cstdlib>
#include <cstring>

#include <erl_nif.h>

#include "truth.h"

#define LIBRARY "own_cpp.so"

/* Whether what is allocated now will be lost. */
static int losing;

template <class T> struct noting {
	typedef T value_type;

	noting() = default;
	template <class U> noting(const noting<U> &)
	{
	}
	T *allocate(size_t n)
	{
		return static_cast<T *>(truth_note(malloc(n * sizeof(T)), n * sizeof(T), losing));
	}
	void deallocate(T *p, size_t)
	{
		truth_forget(p);
		free(p);
	}
	template <class U> bool operator==(const noting<U> &) const
	{
		return true;
	}
	template <class U> bool operator!=(const noting<U> &) const
	{
		return false;
	}
};

typedef std::basic_string<char, std::char_traits<char>, noting<char>> text;

struct shape {
	virtual ~shape() = default;
	virtual double area() const = 0;
	void *operator new(size_t n)
	{
		return truth_note(malloc(n), n, losing);
	}
	void operator delete(void *p)
	{
		truth_forget(p);
		free(p);
	}
	text name;
};

struct square : shape {
	double side = 1;
	double area() const override
	{
		return side * side;
	}
};

struct polygon : shape {
	std::vector<double, noting<double>> points;
	shape *twin = nullptr;
	double area() const override
	{
		return double(points.size());
	}
};

typedef std::map<int, shape *, std::less<int>, noting<std::pair<const int, shape *>>> by_number;
typedef std::unordered_map<int, text, std::hash<int>, std::equal_to<int>,
			   noting<std::pair<const int, text>>>
	by_hash;

struct world {
	by_number shapes;
	by_hash texts;
	std::vector<text, noting<text>> names;
	void *operator new(size_t n)
	{
		return truth_note(malloc(n), n, losing);
	}
	void operator delete(void *p)
	{
		free(p);
	}
};

static world *the_world;

/*
 * Objects in recycled memory: the place that they do not fill holds what the last user left.
 * Most of that is memory of this library, as its leftovers would be; some is another's.
 */
struct relic {
	virtual ~relic() = default;
	virtual int kind() const
	{
		return 1;
	}
	void *operator new(size_t n)
	{
		return truth_note(malloc(n), n, losing);
	}
	void operator delete(void *p)
	{
		free(p);
	}
	relic *next = nullptr;
	void *unfilled[4];
	char more[1000];
};

static relic *relics;

static __attribute__((noinline)) world *build(unsigned long n)
{
	world *w = new world;

	for (unsigned long i = 0; i < n; i++) {
		shape *s;

		if (i % 2) {
			polygon *p = new polygon;

			p->points.resize(3 + i % 20);
			p->twin = i > 2 ? w->shapes[int(i) - 2] : nullptr;
			s = p;
		} else {
			s = new square;
		}
		s->name = text(5 + i % 60, 'x');
		w->shapes[int(i)] = s;
		w->texts[int(i)] = text(30 + i % 300, 'y');
		w->names.push_back(text(i % 100, 'z'));
	}
	return w;
}

static ERL_NIF_TERM nif_make(ErlNifEnv *env, int, const ERL_NIF_TERM argv[])
{
	unsigned long n;

	if (!truth_number(env, argv[0], &n) || the_world)
		return enif_make_badarg(env);
	losing = 0;
	the_world = build(n);
	truth_wipe();
	return enif_make_atom(env, "ok");
}

static ERL_NIF_TERM nif_leak(ErlNifEnv *env, int, const ERL_NIF_TERM argv[])
{
	unsigned long n;

	if (!truth_number(env, argv[0], &n))
		return enif_make_badarg(env);
	losing = 1;
	(void)build(n);
	losing = 0;
	truth_wipe();
	return enif_make_atom(env, "ok");
}

static ERL_NIF_TERM nif_relic(ErlNifEnv *env, int, const ERL_NIF_TERM argv[])
{
	ErlNifUInt64 address;

	if (!enif_get_uint64(env, argv[0], &address) || !the_world)
		return enif_make_badarg(env);
	losing = 0;
	for (int i = 0; i < 20; i++) {
		relic *r = new relic;

		memset(r->unfilled, 0, sizeof(r->unfilled));
		memset(r->more, 0x44, sizeof(r->more));
		if (i == 0)
			r->unfilled[2] = reinterpret_cast<void *>(address);
		else if (i < 3)
			r->unfilled[2] = the_world->shapes[i];
		r->next = relics;
		relics = r;
	}
	return enif_make_atom(env, "ok");
}

static ERL_NIF_TERM nif_dump(ErlNifEnv *env, int, const ERL_NIF_TERM argv[])
{
	char name[1024];

	if (enif_get_string(env, argv[0], name, sizeof(name), ERL_NIF_LATIN1) <= 0 ||
	    truth_dump(name, LIBRARY))
		return enif_make_badarg(env);
	return enif_make_atom(env, "ok");
}

static int load(ErlNifEnv *, void **, ERL_NIF_TERM)
{
	return truth_open();
}

static ErlNifFunc functions[] = {
	{ "make", 1, nif_make, 0 },
	{ "leak", 1, nif_leak, 0 },
	{ "dump", 1, nif_dump, 0 },
	{ "relic", 1, nif_relic, 0 },
};

ERL_NIF_INIT(own_cpp, functions, load, NULL, NULL, NULL)
