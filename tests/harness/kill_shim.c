/* Loaded before libc (LD_PRELOAD), it sees every operation on files under one folder, numbers and logs them, and at a
 * chosen number kills its process (SIGKILL) or reports an error. See kill_harness.py, which compiles, arms and reads it.
 *
 * libc's calls are made as system calls, so nothing below is itself seen. What else stays unseen: writes through a
 * mapping, those that stdio makes inside libc, and system calls made past libc. Of these a training run makes one:
 * safetensors renames its finished file so. The state before it is that after the last write, the state after it that
 * before the next operation, so a sweep over all operations meets both. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN, CREATE, WRITE, FSYNC, RENAME, DELETE, MKDIR, TRUNCATE, LINK };
static const char *const KIND[] = {"open", "create", "write", "fsync", "rename", "delete", "mkdir", "truncate", "link"};
enum when { BEFORE, MIDDLE, AFTER };
enum verdict { PASS, FAIL, DIE_IN_THE_MIDDLE, DIE_AFTER };

static char root[PATH_MAX];
static size_t root_length; /* 0: nothing is watched */
static int log_fd = -1;
static long count;
static long kill_at;
static enum when kill_when;
static long fail_from, fail_times;
static unsigned fail_kinds;
static int fail_error;
static char fail_path[NAME_MAX];
static long clock_from, clock_shift;

void shim_watch(const char *folder, int log) {
    strncpy(root, folder, sizeof root - 1);
    log_fd = log;
    root_length = strlen(root);
}

void shim_kill(long number, int when) {
    kill_at = number;
    kill_when = when;
}

/* From operation `number` on, the next `times` operations of the kinds whose bits are set, on files with `part` in their
 * path, fail. */
void shim_fail(long number, unsigned kinds, long times, int error, const char *part) {
    strncpy(fail_path, part, sizeof fail_path - 1);
    fail_from = number;
    fail_kinds = kinds;
    fail_times = times;
    fail_error = error;
}

/* From operation `number` on, the time of day is so many seconds later. */
void shim_shift_clock(long number, long seconds) {
    clock_from = number;
    clock_shift = seconds;
}

static void die(void) {
    syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

/* The path below the root, "." for the root itself, NULL for any other place. */
static const char *below_root(int dirfd, const char *path, char *whole) {
    if (!root_length || !path)
        return NULL;
    size_t used = 0;
    if (path[0] != '/') {
        char link[64] = "/proc/self/cwd";
        if (dirfd != AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        long got = syscall(SYS_readlinkat, AT_FDCWD, link, whole, PATH_MAX - 1);
        if (got < 0)
            return NULL;
        used = got;
        while (path[0] == '.' && path[1] == '/')
            path += 2;
        if (strcmp(path, ".") && path[0])
            whole[used++] = '/';
        else
            path = "";
    }
    if (used + strlen(path) >= PATH_MAX)
        return NULL;
    strcpy(whole + used, path);
    if (strncmp(whole, root, root_length))
        return NULL;
    if (whole[root_length] == '/')
        return whole[root_length + 1] ? whole + root_length + 1 : ".";
    return whole[root_length] ? NULL : ".";
}

static const char *of_descriptor(int fd, char *whole) { return below_root(fd, "", whole); }

static enum verdict judge(enum kind kind, const char *path, const char *to, size_t size) {
    if (!path)
        return PASS;
    int before = errno;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    char line[2 * PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%zu\n", number, KIND[kind], path, to ? to : "", size);
    if (log_fd >= 0)
        syscall(SYS_write, log_fd, line, length);
    errno = before;
    if (number == kill_at) {
        if (kill_when == BEFORE)
            die();
        return kill_when == MIDDLE ? DIE_IN_THE_MIDDLE : DIE_AFTER;
    }
    if (fail_from && number >= fail_from && fail_times > 0 && (fail_kinds >> kind & 1) && strstr(path, fail_path)) {
        fail_times--;
        return FAIL;
    }
    return PASS;
}

static long failed(void) {
    errno = fail_error;
    return -1;
}

/* For everything that is either done or not; only a write has a middle. */
#define DONE_OR_NOT(kind, path, to, call)                                                                              \
    do {                                                                                                               \
        enum verdict verdict = judge(kind, path, to, 0);                                                               \
        if (verdict == FAIL)                                                                                           \
            return failed();                                                                                           \
        long result = (call);                                                                                          \
        if (verdict != PASS)                                                                                           \
            die();                                                                                                     \
        return result;                                                                                                 \
    } while (0)

/* `half` writes the first half of the bytes; a disk fills up in the middle of a write too. */
#define WRITTEN(fd, size, call, half)                                                                                  \
    do {                                                                                                               \
        char whole[PATH_MAX];                                                                                          \
        enum verdict verdict = judge(WRITE, of_descriptor(fd, whole), NULL, size);                                     \
        if (verdict == FAIL || verdict == DIE_IN_THE_MIDDLE) {                                                         \
            half;                                                                                                      \
            if (verdict == DIE_IN_THE_MIDDLE)                                                                          \
                die();                                                                                                 \
            return failed();                                                                                           \
        }                                                                                                              \
        long result = (call);                                                                                          \
        if (verdict != PASS)                                                                                           \
            die();                                                                                                     \
        return result;                                                                                                 \
    } while (0)

static int open_below(int dirfd, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    DONE_OR_NOT(writes ? CREATE : OPEN, below_root(dirfd, path, whole), NULL,
                syscall(SYS_openat, dirfd, path, flags, mode));
}

#define MODE_OF(last)                                                                                                  \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_below(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_below(AT_FDCWD, path, flags, mode);
}
int openat(int dirfd, const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_below(dirfd, path, flags, mode);
}
int openat64(int dirfd, const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_below(dirfd, path, flags, mode);
}
int __open_2(const char *path, int flags) { return open_below(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_below(AT_FDCWD, path, flags, 0); }
int __openat_2(int dirfd, const char *path, int flags) { return open_below(dirfd, path, flags, 0); }
int __openat64_2(int dirfd, const char *path, int flags) { return open_below(dirfd, path, flags, 0); }
int creat(const char *path, mode_t mode) { return open_below(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_below(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static FILE *fopen_below(const char *name, const char *path, const char *mode) {
    char whole[PATH_MAX];
    FILE *(*libc)(const char *, const char *) = dlsym(RTLD_NEXT, name);
    enum verdict verdict = judge(strpbrk(mode, "wa+") ? CREATE : OPEN, below_root(AT_FDCWD, path, whole), NULL, 0);
    if (verdict == FAIL) {
        failed();
        return NULL;
    }
    FILE *file = libc(path, mode);
    if (verdict != PASS)
        die();
    return file;
}
FILE *fopen(const char *path, const char *mode) { return fopen_below("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fopen_below("fopen64", path, mode); }

ssize_t write(int fd, const void *bytes, size_t size) {
    WRITTEN(fd, size, syscall(SYS_write, fd, bytes, size), syscall(SYS_write, fd, bytes, size / 2));
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    WRITTEN(fd, size, syscall(SYS_pwrite64, fd, bytes, size, at), syscall(SYS_pwrite64, fd, bytes, size / 2, at));
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    WRITTEN(fd, size, syscall(SYS_pwrite64, fd, bytes, size, at), syscall(SYS_pwrite64, fd, bytes, size / 2, at));
}
static void write_half(int fd, const struct iovec *parts, int number, size_t left) {
    for (int i = 0; i < number && left; i++) {
        size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
        syscall(SYS_write, fd, parts[i].iov_base, size);
        left -= size;
    }
}
ssize_t writev(int fd, const struct iovec *parts, int number) {
    size_t size = 0;
    for (int i = 0; i < number; i++)
        size += parts[i].iov_len;
    WRITTEN(fd, size, syscall(SYS_writev, fd, parts, number), write_half(fd, parts, number, size / 2));
}
/* A copy asks for more than the file has. */
static size_t at_most(int from, size_t size) {
    struct stat status;
    return fstat(from, &status) == 0 && (size_t)status.st_size < size ? (size_t)status.st_size : size;
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    size = at_most(from, size);
    WRITTEN(to, size, syscall(SYS_sendfile, to, from, at, size), syscall(SYS_sendfile, to, from, at, size / 2));
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    size = at_most(from, size);
    WRITTEN(to, size, syscall(SYS_sendfile, to, from, at, size), syscall(SYS_sendfile, to, from, at, size / 2));
}
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    size = at_most(from, size);
    WRITTEN(to, size, syscall(SYS_copy_file_range, from, at, to, there, size, flags),
            syscall(SYS_copy_file_range, from, at, to, there, size / 2, flags));
}

int fsync(int fd) {
    char whole[PATH_MAX];
    DONE_OR_NOT(FSYNC, of_descriptor(fd, whole), NULL, syscall(SYS_fsync, fd));
}
int fdatasync(int fd) {
    char whole[PATH_MAX];
    DONE_OR_NOT(FSYNC, of_descriptor(fd, whole), NULL, syscall(SYS_fdatasync, fd));
}
int ftruncate(int fd, off_t size) {
    char whole[PATH_MAX];
    DONE_OR_NOT(TRUNCATE, of_descriptor(fd, whole), NULL, syscall(SYS_ftruncate, fd, size));
}
int ftruncate64(int fd, off64_t size) {
    char whole[PATH_MAX];
    DONE_OR_NOT(TRUNCATE, of_descriptor(fd, whole), NULL, syscall(SYS_ftruncate, fd, size));
}

int renameat2(int old_dir, const char *old, int new_dir, const char *new, unsigned flags) {
    char from[PATH_MAX], to[PATH_MAX];
    const char *old_path = below_root(old_dir, old, from), *new_path = below_root(new_dir, new, to);
    DONE_OR_NOT(RENAME, old_path ? old_path : new_path, new_path,
                syscall(SYS_renameat2, old_dir, old, new_dir, new, flags));
}
int renameat(int old_dir, const char *old, int new_dir, const char *new) {
    return renameat2(old_dir, old, new_dir, new, 0);
}
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int dirfd, const char *path, int flags) {
    char whole[PATH_MAX];
    DONE_OR_NOT(DELETE, below_root(dirfd, path, whole), NULL, syscall(SYS_unlinkat, dirfd, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dirfd, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    DONE_OR_NOT(MKDIR, below_root(dirfd, path, whole), NULL, syscall(SYS_mkdirat, dirfd, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int old_dir, const char *old, int new_dir, const char *new, int flags) {
    char whole[PATH_MAX];
    DONE_OR_NOT(LINK, below_root(new_dir, new, whole), NULL, syscall(SYS_linkat, old_dir, old, new_dir, new, flags));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
int symlinkat(const char *target, int dirfd, const char *path) {
    char whole[PATH_MAX];
    DONE_OR_NOT(LINK, below_root(dirfd, path, whole), NULL, syscall(SYS_symlinkat, target, dirfd, path));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

static long shift(void) { return clock_from && count >= clock_from ? clock_shift : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, now, zone);
    if (!result)
        now->tv_sec += shift();
    return result;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}
