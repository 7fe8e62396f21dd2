/* A library that an image puts where one of the host's would be looked for: whoever loads it leaves /MARK. */
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

__attribute__((constructor)) static void mark(void) { call(2 /* open */, (long)"/MARK", 0101 /* O_CREAT | O_WRONLY */, 0644); }
