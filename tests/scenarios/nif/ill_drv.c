/*
 * A linked-in driver that leaks. port_control(Port, Way, <<Count:32, Size:32>>) takes
 * so many pieces and answers with the bytes that this way has taken, as <<Bytes:64>>.
 */
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <erl_driver.h>

enum way { BY_ALLOC, BY_BINARY, BY_MALLOC, WAYS };

static int64_t held[WAYS];

__attribute__((noinline, noclone)) static void drv_by_alloc(size_t bytes)
{
	void *p = driver_alloc(bytes);

	if (!p)
		return;
	memset(p, 0x51, bytes);
	held[BY_ALLOC] += (int64_t)bytes;
}

__attribute__((noinline, noclone)) static void drv_by_binary(size_t bytes)
{
	ErlDrvBinary *b = driver_alloc_binary((ErlDrvSizeT)bytes);

	if (!b)
		return;
	memset(b->orig_bytes, 0x52, bytes);
	held[BY_BINARY] += (int64_t)bytes;
}

__attribute__((noinline, noclone)) static void drv_by_malloc(size_t bytes)
{
	void *p = malloc(bytes);

	if (!p)
		return;
	memset(p, 0x53, bytes);
	held[BY_MALLOC] += (int64_t)malloc_usable_size(p) + 8;
}

static ErlDrvData start(ErlDrvPort port, char *command)
{
	(void)command;
	set_port_control_flags(port, PORT_CONTROL_FLAG_BINARY);
	return (ErlDrvData)port;
}

static uint32_t word(const char *b)
{
	const unsigned char *u = (const unsigned char *)b;

	return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

static ErlDrvSSizeT control(ErlDrvData data, unsigned int way, char *buf, ErlDrvSizeT len,
			    char **out, ErlDrvSizeT size)
{
	ErlDrvBinary *answer;
	uint32_t count, i;

	(void)data;
	(void)size;
	if (way >= WAYS || len != 8)
		return -1;
	count = word(buf);
	for (i = 0; i < count; i++) {
		if (way == BY_ALLOC)
			drv_by_alloc(word(buf + 4));
		else if (way == BY_BINARY)
			drv_by_binary(word(buf + 4));
		else
			drv_by_malloc(word(buf + 4));
	}
	answer = driver_alloc_binary(8);
	if (!answer)
		return -1;
	for (i = 0; i < 8; i++)
		answer->orig_bytes[i] = (char)(held[way] >> (56 - 8 * i));
	*out = (char *)answer;
	return 8;
}

static ErlDrvEntry entry = {
	.start = start,
	.driver_name = "ill_drv",
	.control = control,
	.extended_marker = ERL_DRV_EXTENDED_MARKER,
	.major_version = ERL_DRV_EXTENDED_MAJOR_VERSION,
	.minor_version = ERL_DRV_EXTENDED_MINOR_VERSION,
};

DRIVER_INIT(ill_drv)
{
	return &entry;
}
