/* Answers for /dev/watchdog0 where there is no such device: loaded into the real wdmd by LD_PRELOAD, so that it runs without
 * one. What it does with the device is appended to the file that WATCHDOG_LOG names, one line each: the second of
 * CLOCK_MONOTONIC and a word (open, timeout, keepalive, stop, close). It takes a timeout of 60 s, as wdmd asks for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))
typedef int open_fn(const char *, int, ...);
typedef int ioctl_fn(int, unsigned long, ...);
typedef int stat_fn(const char *, struct stat *);
typedef int close_fn(int);
typedef ssize_t write_fn(int, const void *, size_t);

static int device = -1;

static void say(const char *word)
{
	struct timespec now;
	char line[64];
	int log = NEXT(open_fn *, "open")(getenv("WATCHDOG_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	clock_gettime(CLOCK_MONOTONIC, &now);
	int length = snprintf(line, sizeof(line), "%ld.%03ld %s\n", now.tv_sec, now.tv_nsec / 1000000, word);
	if (NEXT(write_fn *, "write")(log, line, length) != length)
		abort();
	NEXT(close_fn *, "close")(log);
}

static int is_device(const char *path)
{
	return strcmp(path, "/dev/watchdog0") == 0;
}

int open(const char *path, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	int mode = va_arg(rest, int);
	va_end(rest);
	if (!is_device(path))
		return NEXT(open_fn *, "open")(path, flags, mode);
	say("open");
	device = NEXT(open_fn *, "open")("/dev/null", O_WRONLY | O_CLOEXEC);
	return device;
}

int stat(const char *path, struct stat *found)
{
	return NEXT(stat_fn *, "stat")(is_device(path) ? "/dev/null" : path, found);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list rest;
	va_start(rest, request);
	void *argument = va_arg(rest, void *);
	va_end(rest);
	if (fd != device || ((request >> 8) & 0xff) != 'W')
		return NEXT(ioctl_fn *, "ioctl")(fd, request, argument);
	switch (request & 0xff) {
	case 5:
		say("keepalive");
		return 0;
	case 6:
	case 7:
		say("timeout");
		*(int *)argument = 60;
		return 0;
	default:
		return -1;
	}
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	if (fd == device && length > 0 && *(const char *)bytes == 'V')
		say("stop");
	return NEXT(write_fn *, "write")(fd, bytes, length);
}

int close(int fd)
{
	if (fd == device && fd != -1) {
		device = -1;
		say("close");
	}
	return NEXT(close_fn *, "close")(fd);
}
