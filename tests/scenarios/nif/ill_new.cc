/* C++'s way to take memory, for ill_nif.c: operator new in a constructor's place. */
#include <cstddef>
#include <new>

struct piece {
	char bytes[1];
};

extern "C" void *ill_new(std::size_t bytes)
{
	return ::operator new[](bytes, std::nothrow);
}
