"""What the processor and the operating system can run, and what the modules were built with."""

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(_M_X64)
    /* libgcc's and compiler-rt's tests include the operating system's part (xgetbv). */
    static int fl_supports(int level) {
        __builtin_cpu_init();
        if (level >= 1 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")))
            return 0;
        if (level >= 2 && !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
                && __builtin_cpu_supports("avx512vl")))
            return 0;
        return 1;
    }
    #else
    static int fl_supports(int level) { return level == 0; }
    #endif
    #ifndef FL_FLAGS
    #define FL_FLAGS ""
    #endif
    #ifdef __clang__
    #define FL_COMPILER __VERSION__
    #else
    #define FL_COMPILER "gcc " __VERSION__
    #endif
    """
    int fl_supports(int level)
    const char* FL_FLAGS
    const char* FL_COMPILER


def supports(str isa) -> bool:
    """Whether this machine runs the instruction set."""
    return fl_supports(("baseline", "avx2", "avx512").index(isa)) != 0


def build() -> dict:
    """The compiler and the flags of the kernels."""
    return {"compiler": FL_COMPILER.decode(), "flags": FL_FLAGS.decode()}
