/* Preloaded: the wall clock of a process, so many seconds ahead as the file $CLOCK_OFFSET says (a long in host byte order). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long offset(void)
{
	static volatile long *shared;
	const char *path = getenv("CLOCK_OFFSET");

	if (!shared && path) {
		int file = open(path, O_RDONLY | O_CLOEXEC);
		void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);

		close(file);
		if (page != MAP_FAILED)
			shared = page;
	}
	return shared ? *shared : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	int error = syscall(SYS_clock_gettime, clock, time);

	if (!error && clock == CLOCK_REALTIME)
		time->tv_sec += offset();
	return error;
}
