/* Makes writing slow, and fail now and then, for the process it is preloaded into.

   What is written below $SLOW_DISK takes $SLOW_DISK_MICROSECONDS more a call. While the file
   $SLOW_DISK_FAILS exists, one such call in $SLOW_DISK_FAILS_ONE_IN fails, as it does when a server
   is out of reach. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(const char *path) {
    static unsigned calls;
    const char *disk = getenv("SLOW_DISK");
    if (!disk || strncmp(path, disk, strlen(disk))) return 0;
    usleep(atoi(getenv("SLOW_DISK_MICROSECONDS")));
    if (access(getenv("SLOW_DISK_FAILS"), F_OK)) return 0;
    if (__sync_add_and_fetch(&calls, 1) % atoi(getenv("SLOW_DISK_FAILS_ONE_IN"))) return 0;
    errno = EIO;
    return 1;
}

static int fails_of(int file) {
    char link[64], path[PATH_MAX] = "";
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) < 0) errno = before;
    return fails(path);
}

#define REAL(result, name, types) ((result(*) types)dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size) {
    if (fails_of(file)) return -1;
    return REAL(ssize_t, write, (int, const void *, size_t))(file, data, size);
}

int fsync(int file) {
    return fails_of(file) ? -1 : REAL(int, fsync, (int))(file);
}

int rename(const char *from, const char *to) {
    return fails(to) ? -1 : REAL(int, rename, (const char *, const char *))(from, to);
}

int mkdir(const char *path, mode_t mode) {
    return fails(path) ? -1 : REAL(int, mkdir, (const char *, mode_t))(path, mode);
}
