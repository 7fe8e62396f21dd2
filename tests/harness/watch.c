/* PID 1 of a container that watches for processes which are not its own: what of the engine comes by, and may it be
 * touched?  Every success is a line; at SIGTERM it says how many strangers it met.  Nothing is written or stopped.
 *
 * "watch alone": its PID namespace is shared with no other container, so the mounts and the network that /proc shows of
 * a stranger are its own.  "watch euid": say the effective user instead (for a set-uid copy).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEPT 256

static struct { int fd, pid; } kept[KEPT]; /* programs of strangers, to be opened for writing when they have ended */
static int kept_count, met, alone;
static volatile sig_atomic_t ending;

static void end(int signal) { (void)signal; ending = 1; }

static void tell(const char *what, int pid) {
    printf("%s of %d\n", what, pid);
    fflush(stdout);
}

static int under(int pid, const char *name, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return open(path, flags | O_CLOEXEC);
}

/* 1: a program of a container's, 0: somebody else's, -1: it does not let us see. fd: the program. */
static int own(int pid, int *fd) {
    char path[64], target[256], *name;
    *fd = under(pid, "exe", O_PATH);
    if (*fd < 0)
        return errno == ENOENT || errno == ESRCH ? 1 : -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    name = strrchr(target, '/');
    return name && (!strcmp(name, "/busybox") || !strcmp(name, "/watch"));
}

static int writable(int fd) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_WRONLY | O_CLOEXEC);
    if (again >= 0)
        close(again);
    return again >= 0;
}

static int secret(int pid) {
    static char bytes[1 << 16];
    int fd = under(pid, "environ", O_RDONLY), found = 0;
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, bytes, sizeof bytes);
    if (got > 0)
        found = memmem(bytes, got, "SECRET_X", 8) != NULL;
    close(fd);
    return found;
}

static int outside(int pid) {
    char path[64], target[256];
    snprintf(path, sizeof path, "/proc/%d/root", pid);
    ssize_t n = readlink(path, target, sizeof target);
    return n > 0 && (n != 1 || target[0] != '/');
}

/* Whether a file of its /proc folder differs from ours, though there is something to read. */
static int strange(int pid, const char *name) {
    static char theirs[1 << 16], ours[1 << 16];
    int fd = under(pid, name, O_RDONLY), mine = under(getpid(), name, O_RDONLY);
    ssize_t n, got = 0, had = 0;
    while (fd >= 0 && (n = read(fd, theirs + got, sizeof theirs - got)) > 0)
        got += n;
    while (mine >= 0 && (n = read(mine, ours + had, sizeof ours - had)) > 0)
        had += n;
    if (fd >= 0)
        close(fd);
    if (mine >= 0)
        close(mine);
    return got > 0 && (got != had || memcmp(theirs, ours, got));
}

static void look(int pid) {
    int fd, again, whose = own(pid, &fd);
    if (secret(pid))
        tell("SECRET in the environment", pid);
    if (whose == 1) {
        if (fd >= 0)
            close(fd);
        return;
    }
    met++;
    if (whose == 0) {
        tell("EXE", pid);
        if (writable(fd))
            tell("WRITABLE EXE", pid);
        if (kept_count < KEPT) {
            kept[kept_count].fd = fd;
            kept[kept_count++].pid = pid;
        } else
            close(fd);
    }
    if (outside(pid))
        tell("ROOT", pid);
    if (alone && strange(pid, "mountinfo"))
        tell("MOUNTS", pid);
    if (alone && strange(pid, "net/if_inet6"))
        tell("NETWORK", pid);
    /* How many descriptors it has anybody who is root may list; where they lead, only who may trace it. */
    int memory = under(pid, "mem", O_RDWR), descriptors = under(pid, "fd/0", O_PATH);
    int seized = ptrace(PTRACE_SEIZE, pid, 0, 0) == 0;
    /* It may have become a program of the container's own in between, which we may well touch. */
    if (own(pid, &again) != 1) {
        if (memory >= 0)
            tell("MEM", pid);
        if (descriptors >= 0)
            tell("FD", pid);
        if (seized)
            tell("PTRACE", pid);
    }
    if (again >= 0)
        close(again);
    if (memory >= 0)
        close(memory);
    if (descriptors >= 0)
        close(descriptors);
}

static void try_again(void) {
    for (int i = 0; i < kept_count; i++)
        if (kept[i].fd >= 0 && kill(kept[i].pid, 0) && errno == ESRCH) {
            if (writable(kept[i].fd))
                tell("WRITABLE EXE afterwards", kept[i].pid);
            close(kept[i].fd);
            kept[i].fd = -1;
        }
}

int main(int argc, char **argv) {
    struct dirent *entry;
    if (argc > 1 && !strcmp(argv[1], "euid")) {
        printf("%d\n", geteuid());
        return 0;
    }
    alone = argc > 1 && !strcmp(argv[1], "alone");
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    tell("WATCHING as", getpid());
    while (!ending) {
        DIR *dir = opendir("/proc");
        while (dir && (entry = readdir(dir))) {
            int pid = atoi(entry->d_name);
            if (pid > 0 && pid != getpid())
                look(pid);
        }
        closedir(dir);
        /* Who is traced is a zombie until its tracer has waited for it. */
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
            ;
        try_again();
    }
    for (int i = 0; i < 50; i++, usleep(10000))
        try_again();
    printf("met %d\n", met);
    return 0;
}
