/* What a container can see and do, asked of the kernel from inside and said as one JSON.
 *
 * Static, so that it runs in any image (tests/harness/probe.py compiles and reads it).  Every system call that it
 * sweeps over gets -1 for each argument, in a child of its own: where nothing filters it the kernel refuses the
 * arguments, so a call that is let through has no effect.  Every number is asked in three forms: the 64-bit entry, the
 * 32-bit entry (int 0x80) and the x32 numbers of the 64-bit entry.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define X32 0x40000000L
#define UNKNOWN 2000 /* said of a call whose child ended without an answer: 2000 + the wait status' signal */

static void text(const char *bytes, size_t length) {
    putchar('"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = bytes[i];
        if (c == '"' || c == '\\' || c < 32 || c > 126)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void string(const char *s) { text(s, strlen(s)); }

static int comma_;
static void comma(void) {
    if (comma_)
        fputs(",\n", stdout);
    comma_ = 1;
}
static void key(const char *name) {
    comma();
    string(name);
    putchar(':');
}
static void open_(const char *name) {
    key(name);
    putchar('{');
    comma_ = 0;
}
static void close_(void) {
    putchar('}');
    comma_ = 1;
}

/* ---- files and links ---- */

static void file(const char *path) {
    static char bytes[1 << 16];
    size_t length = 0;
    ssize_t part = 0;
    key(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        printf("%d", errno);
        return;
    }
    while (length < sizeof bytes && (part = read(fd, bytes + length, sizeof bytes - length)) > 0)
        length += part;
    if (part < 0)
        printf("%d", errno);
    else
        text(bytes, length);
    close(fd);
}

static void node(const char *label, const char *path) {
    struct stat s;
    char target[4096];
    key(label);
    if (lstat(path, &s)) {
        printf("%d", errno);
        return;
    }
    const char *kind = S_ISDIR(s.st_mode) ? "dir" : S_ISLNK(s.st_mode) ? "link" : S_ISCHR(s.st_mode) ? "c"
                     : S_ISBLK(s.st_mode) ? "b" : S_ISREG(s.st_mode) ? "file" : "other";
    if (S_ISLNK(s.st_mode)) {
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = 0;
        printf("\"-> ");
        for (char *c = target; *c; c++)
            putchar(*c == '"' || *c == '\\' ? '?' : *c);
        printf("\"");
    } else if (S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode))
        printf("\"%s %u:%u %04o %u:%u\"", kind, major(s.st_rdev), minor(s.st_rdev), s.st_mode & 07777, s.st_uid, s.st_gid);
    else
        printf("\"%s %04o %u:%u\"", kind, s.st_mode & 07777, s.st_uid, s.st_gid);
}

static void listing(const char *name, const char *folder) {
    char path[8192];
    struct dirent *entry;
    open_(name);
    DIR *dir = opendir(folder);
    while (dir && (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (!strcmp(name, "descriptors") && atoi(entry->d_name) == dirfd(dir))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        node(entry->d_name, path);
    }
    if (dir)
        closedir(dir);
    close_();
}

/* A path that Docker hides or makes read-only: what is there, what can be read, and whether it can be written. */
static void hidden(const char *path) {
    struct stat s;
    char inside[4200], byte;
    key(path);
    if (lstat(path, &s)) {
        string("absent");
        return;
    }
    if (S_ISDIR(s.st_mode)) {
        DIR *dir = opendir(path);
        int entries = -2;
        while (dir && readdir(dir))
            entries++;
        if (dir)
            closedir(dir);
        snprintf(inside, sizeof inside, "%s/pierhead-probe", path);
        int error = mkdir(inside, 0700) ? errno : 0;
        if (!error)
            rmdir(inside);
        printf("\"dir %s, mkdir %s\"", entries > 0 ? "with entries" : "empty", strerrorname_np(error));
        return;
    }
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), error = errno;
    ssize_t got = fd < 0 ? -1 : read(fd, &byte, 1);
    const char *reads = fd < 0 ? strerrorname_np(error) : got < 0 ? strerrorname_np(errno) : got ? "bytes" : "nothing";
    if (fd >= 0)
        close(fd);
    fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    error = fd < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (S_ISCHR(s.st_mode))
        printf("\"c %u:%u, reads %s\"", major(s.st_rdev), minor(s.st_rdev), reads);
    else
        printf("\"file, reads %s, opens for writing %s\"", reads, error ? strerrorname_np(error) : "0");
}

static void unmount(const char *path) {
    struct stat s;
    if (lstat(path, &s))
        return;
    key(path);
    string(umount2(path, 2 /* MNT_DETACH */) ? strerrorname_np(errno) : "0");
}

static void opens(const char *label, const char *path, int flags) {
    key(label);
    int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    string(fd < 0 ? strerrorname_np(errno) : "0");
    if (fd >= 0)
        close(fd);
}

static void makes(const char *label, mode_t mode, unsigned major_, unsigned minor_) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/probe.%d", getpid());
    key(label);
    if (mknod(path, mode | 0666, makedev(major_, minor_))) {
        printf("\"mknod %s\"", strerrorname_np(errno));
        return;
    }
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    printf("\"open %s\"", fd < 0 ? strerrorname_np(errno) : "0");
    if (fd >= 0)
        close(fd);
    unlink(path);
}

/* ---- system calls ---- */

static long entry32(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    /* The sixth argument is in ebp, which the compiler may want for itself. */
    __asm__ volatile("push %%rbp\n\tmov %[f], %%ebp\n\tint $0x80\n\tpop %%rbp"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "r"((int)f)
                     : "memory", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "cc");
    return (int)result;
}

static long entry64(long number, long a, long b, long c, long d, long e, long f) {
    long result = syscall(number, a, b, c, d, e, f);
    return result < 0 ? -errno : result;
}

static int *shared; /* the answer of a child */

static int ask(int wide, long number, long a, long b, long c, long d, long e, long f) {
    int status;
    *shared = -1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        exit(97);
    if (!pid) {
        alarm(5);
        long result = wide ? entry64(number, a, b, c, d, e, f) : entry32(number, a, b, c, d, e, f);
        *shared = result < 0 && result > -4096 ? -result : 0;
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid)
        exit(98);
    if (*shared >= 0)
        return *shared;
    return UNKNOWN + (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

/* Not asked: what sleeps for ever, makes processes, ends terminals, or costs the host's disks their time. */
static const int skipped64[] = {SYS_pause, SYS_fork, SYS_vfork, SYS_sync, SYS_vhangup, SYS_kill, SYS_tkill, SYS_tgkill, -1};
static const int skipped32[] = {29 /* pause */, 72 /* sigsuspend */, 2 /* fork */, 190 /* vfork */, 36 /* sync */,
                                111 /* vhangup */, 37 /* kill */, 238 /* tkill */, 270 /* tgkill */, -1};

static int in(const int *list, int number) {
    for (; *list >= 0; list++)
        if (*list == number)
            return 1;
    return 0;
}

static void sweep(const char *name, int wide, long bit, int last, const int *skipped) {
    open_(name);
    for (int number = 0; number <= last; number++) {
        if (in(skipped, number))
            continue;
        char label[16];
        snprintf(label, sizeof label, "%d", number);
        key(label);
        printf("%d", ask(wide, number | bit, -1, -1, -1, -1, -1, -1));
    }
    close_();
}

static void call(const char *label, int wide, long number, long a, long b, long c) {
    key(label);
    int error = ask(wide, number, a, b, c, 0, 0, 0);
    string(!error ? "0" : error < UNKNOWN ? strerrorname_np(error) : "ended");
}

static void calls(void) {
    static unsigned vsock[] = {40, 1, 0}, alg[] = {38, 5, 0}, inet[] = {2, 1, 0}; /* below 4 GiB: not position independent */
    open_("calls");
    call("socket(AF_UNIX)", 1, SYS_socket, 1, 1, 0);
    call("socket(AF_INET)", 1, SYS_socket, 2, 1, 0);
    call("socket(AF_NETLINK)", 1, SYS_socket, 16, 3, 0);
    call("socket(AF_PACKET)", 1, SYS_socket, 17, 3, 0);
    call("socket(AF_ALG)", 1, SYS_socket, 38, 5, 0);
    call("socket(AF_ALG | 1<<32)", 1, SYS_socket, 38 | 1L << 32, 5, 0);
    call("socket(AF_ALG | 0xdead<<32)", 1, SYS_socket, 38 | 0xdeadL << 32, 5, 0);
    call("socket(AF_VSOCK)", 1, SYS_socket, 40, 1, 0);
    call("socket(AF_VSOCK | 1<<32)", 1, SYS_socket, 40 | 1L << 32, 1, 0);
    call("socket(AF_VSOCK | 0xdead<<32)", 1, SYS_socket, 40 | 0xdeadL << 32, 1, 0);
    call("socket(AF_ALG), int 0x80", 0, 359, 38, 5, 0);
    call("socket(AF_VSOCK), int 0x80", 0, 359, 40, 1, 0);
    call("socket(AF_INET), int 0x80", 0, 359, 2, 1, 0);
    call("socket(AF_ALG), x32", 1, X32 | SYS_socket, 38, 5, 0);
    call("socket(AF_VSOCK), x32", 1, X32 | SYS_socket, 40, 1, 0);
    call("socketcall(SOCKET, AF_ALG), int 0x80", 0, 102, 1, (long)alg, 0);
    call("socketcall(SOCKET, AF_VSOCK), int 0x80", 0, 102, 1, (long)vsock, 0);
    call("socketcall(SOCKET, AF_INET), int 0x80", 0, 102, 1, (long)inet, 0);
    static const struct { const char *name; long flag; } kinds[] = {
        {"CLONE_NEWNS", 0x20000},       {"CLONE_NEWCGROUP", 0x2000000}, {"CLONE_NEWUTS", 0x4000000},
        {"CLONE_NEWIPC", 0x8000000},    {"CLONE_NEWUSER", 0x10000000},  {"CLONE_NEWPID", 0x20000000},
        {"CLONE_NEWNET", 0x40000000}};
    char label[64];
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        /* CLONE_SIGHAND without CLONE_VM is refused by the kernel: nothing is made where the filter lets it through. */
        snprintf(label, sizeof label, "clone(%s)", kinds[i].name);
        call(label, 1, SYS_clone, kinds[i].flag | 0x800, 0, 0);
        snprintf(label, sizeof label, "clone(%s), int 0x80", kinds[i].name);
        call(label, 0, 120, kinds[i].flag | 0x800, 0, 0);
    }
    call("clone(CLONE_SIGHAND)", 1, SYS_clone, 0x800, 0, 0);
    call("personality(0)", 1, SYS_personality, 0, 0, 0);
    call("personality(PER_LINUX32)", 1, SYS_personality, 8, 0, 0);
    call("personality(UNAME26)", 1, SYS_personality, 0x20000, 0, 0);
    call("personality(query)", 1, SYS_personality, 0xffffffff, 0, 0);
    call("personality(ADDR_NO_RANDOMIZE)", 1, SYS_personality, 0x40000, 0, 0);
    call("personality(READ_IMPLIES_EXEC)", 1, SYS_personality, 0x400000, 0, 0);
    call("clone3(small)", 1, SYS_clone3, 0, 0, 0);
    close_();
}

static void keyring(void) {
    char described[256] = "";
    long length = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, described, sizeof described - 1);
    key("keyring");
    string(length < 0 ? strerrorname_np(errno) : described);
}

int main(int argc, char **argv, char **environment) {
    static const char *const files[] = {
        "/proc/self/status", "/proc/self/mountinfo", "/proc/self/limits", "/proc/self/oom_score_adj",
        "/proc/self/cgroup", "/proc/self/uid_map", "/proc/self/attr/current", "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/disable_ipv6",
        "/proc/sys/net/ipv6/conf/default/disable_ipv6", "/proc/sys/kernel/shmmni", "/proc/sys/fs/mqueue/queues_max",
        "/sys/fs/cgroup/devices/devices.list", "/proc/sys/kernel/core_pattern", NULL};
    static const char *const paths[] = {
        "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
        "/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle", "/proc/bus", "/proc/fs",
        "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
        "/proc/sys/net/ipv4/ip_forward", "/proc/irq/default_smp_affinity", "/proc/kmsg", "/proc/kallsyms",
        "/sys/kernel/uevent_helper", "/sys/kernel", "/sys/fs/cgroup", "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/notify_on_release", "/sys/fs/cgroup/cgroup.procs", "/dev/shm", "/dev/mqueue", NULL};
    char buffer[4096];

    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    putchar('{');
    listing("descriptors", "/proc/self/fd"); /* first: nothing of ours is open yet */
    open_("files");
    for (int i = 0; files[i]; i++)
        file(files[i]);
    close_();
    listing("dev", "/dev");
    listing("dev/pts", "/dev/pts");
    listing("dev/shm", "/dev/shm");
    listing("dev/mqueue", "/dev/mqueue");
    listing("namespaces", "/proc/self/ns");
    listing("namespaces of 1", "/proc/1/ns");
    open_("hidden");
    for (int i = 0; paths[i]; i++)
        hidden(paths[i]);
    close_();
    open_("opens");
    opens("/dev/tty", "/dev/tty", O_RDWR);
    opens("/dev/console", "/dev/console", O_RDWR);
    opens("/dev/ptmx", "/dev/ptmx", O_RDWR);
    opens("/dev/full", "/dev/full", O_RDONLY);
    opens("/proc/1/mem", "/proc/1/mem", O_WRONLY);
    opens("/proc/1/exe", "/proc/1/exe", O_WRONLY);
    opens("/proc/self/exe", "/proc/self/exe", O_WRONLY);
    makes("block 8:0", S_IFBLK, 8, 0);
    makes("char 1:1 (mem)", S_IFCHR, 1, 1);
    makes("char 1:11 (kmsg)", S_IFCHR, 1, 11);
    makes("char 10:229 (fuse)", S_IFCHR, 10, 229);
    makes("char 10:200 (tun)", S_IFCHR, 10, 200);
    makes("char 5:1 (console)", S_IFCHR, 5, 1);
    makes("char 1:3 (null)", S_IFCHR, 1, 3);
    close_();
    open_("environment");
    for (char **one = environment; *one; one++) {
        char *value = strchr(*one, '=');
        if (!value)
            continue;
        *value = 0;
        key(*one);
        string(value + 1);
    }
    close_();
    open_("process");
    key("pid"); printf("%d", getpid());
    key("leads its session"); string(getsid(0) == getpid() ? "yes" : "no");
    key("leads its group"); string(getpgrp() == getpid() ? "yes" : "no");
    key("working directory"); string(syscall(SYS_getcwd, buffer, sizeof buffer) > 0 ? buffer : strerrorname_np(errno));
    key("priority"); printf("%d", 20 - (int)syscall(SYS_getpriority, 0, 0));
    key("arguments"); printf("%d", argc);
    close_();
    keyring();
    calls();
    sweep("64-bit", 1, 0, 475, skipped64);
    sweep("32-bit", 0, 0, 475, skipped32);
    sweep("x32", 1, X32, 547, skipped64);
    /* Last, for where it is allowed it changes what there is to see. */
    open_("unmounts");
    for (int i = 0; paths[i]; i++)
        unmount(paths[i]);
    unmount("/proc");
    unmount("/sys");
    close_();
    puts("}");
    (void)argv;
    return 0;
}
