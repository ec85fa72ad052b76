"""The build of the compiled modules: one set of kernels per instruction set, and the gate.

Everything else is in pyproject.toml. The kernels are one source, made C once and compiled once for
each instruction set the compiler has; which are built is said, and a set that the compiler has but
that fails to compile fails the build.
"""

import multiprocessing
import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Each flag has its reason:
FLAGS = [
    "-O3",  # Python's own flags may say -O2, where some compilers do not vectorise
    "-g0",  # debug information would be most of the wheel
    "-fno-math-errno",  # sqrt and others need not set errno, so they are one instruction
    "-fno-trapping-math",  # a select may compute both sides: without it there are no vector loops
    "-ffp-contract=off",  # a multiply-add is where the source says, or loss and fused loss differ
]
# gcc alone. First, in the place of -O3, what of it makes kernels faster; all of it takes a tenth
# longer to build. Then, with those for x86: else it clears 64 numbers by `rep stos` (in a loop, or
# in an initialiser) and copies them by `rep movs`, which take 70 cycles to begin. The others spare
# a quarter of the build: searches for common and for partial redundancies, and the order of what
# processors order themselves, make no kernel faster.
GCC_FLAGS = [
    *("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fpeel-loops", "-funswitch-loops"),
    "-fno-tree-loop-distribute-patterns",
    *("-fno-gcse", "-fno-tree-pre", "-fno-schedule-insns2"),
]
GCC_X86_FLAGS = [
    f"-m{task}-strategy=vector_loop:8192:noalign,libcall:-1:noalign"
    for task in ("memset", "memcpy")
]
# gcc for x86 from 12 on: copies of known size by the widest vectors there are (clang does so by
# itself). By those of 128 bits, a load of what was copied waits for both halves' stores.
GCC_12_FLAGS = ["-mmove-max=512", "-mstore-max=512"]
# gcc from 13 on, which is where the second, a default, came: else jump threading makes branches of
# selects, and their loops stay scalar (up to 7 times as slow). gcc 12 is up to 9 % slower without.
GCC_13_FLAGS = ["-fno-thread-jumps", "-fstrict-flex-arrays=0"]
ISAS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    # 512-bit vectors, which gcc and clang avoid for the sake of processors before Ice Lake.
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}
INLINE = "inline __attribute__((always_inline, unused))"
# Where Python is built by Microsoft's compiler, which lacks the builtins of gcc and clang, LLVM's
# stands in for it.
MSVC = sysconfig.get_platform().startswith("win")
CLANG_CL = "clang-cl"


class BuildExt(build_ext):
    """The command of setuptools, with clang in the place of Microsoft's compiler."""

    def build_extensions(self) -> None:
        """Build all."""
        if self.compiler.compiler_type == "msvc":
            if not self.compiler.initialized:
                self.compiler.initialize()
            self.compiler.cc = CLANG_CL
        super().build_extensions()


def spelled(flags: list[str]) -> list[str]:
    """The flags as the compiler takes them."""
    return [f"/clang:{flag}" for flag in flags] if MSVC else flags


def compiler_has(flags: list[str]) -> bool:
    """Whether the compiler of extensions accepts these flags."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if MSVC:
        command = [CLANG_CL]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int probe(int x) { return x + 1; }\n")
        done = subprocess.run(
            [*command, *spelled(flags), "-c", str(source), "-o", str(source.with_suffix(".o"))],
            capture_output=True,
            check=False,
        )
    return done.returncode == 0


def of_isa(isa: str, kernels: Path) -> str:
    """A C file that is the kernels' with the name of this instruction set's module."""
    path = kernels.with_stem(isa)
    text = f'#define PyInit_kernels PyInit_{isa}\n#include "{kernels.name}"\n'
    if not path.exists() or path.read_text() != text:  # else all would be compiled again
        path.write_text(text)
    return str(path)


def extensions() -> list[Extension]:
    """The modules that this machine's compiler can build."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sources = ("setup.py", "src/*.h", "fastloss/kernels/*.px[id]")  # of all: built again with them
    depends = [str(path) for pattern in sources for path in Path().glob(pattern)]
    optional = GCC_FLAGS, GCC_X86_FLAGS, GCC_12_FLAGS, GCC_13_FLAGS
    flags = FLAGS + [flag for some in optional if compiler_has(some) for flag in some]
    gate = Extension(
        "fastloss._gate",
        ["fastloss/_gate.pyx"],
        include_dirs=["src", numpy.get_include()],
        extra_compile_args=spelled(flags),
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        depends=depends,
    )
    cpu = Extension(
        "fastloss.kernels._cpu",
        ["fastloss/kernels/_cpu.pyx"],
        define_macros=[("FL_FLAGS", f'"{" ".join(flags)}"')],
        extra_compile_args=spelled(["-g0"]),
        depends=depends,
    )
    kernels, *modules = cythonize(
        [Extension("fastloss.kernels.kernels", ["fastloss/kernels/kernels.pyx"]), gate, cpu],
        # Side by side, here where a process is a copy: another would run this file again.
        nthreads=os.cpu_count() if multiprocessing.get_start_method() == "fork" else 0,
        build_dir="build",
        compiler_directives=DIRECTIVES,
    )
    for isa, march in ISAS.items():
        if isa != "baseline" and not x86:
            continue
        if march and not compiler_has(march):
            print(f"fastloss: the compiler lacks {' '.join(march)}: {isa} is not built")
            continue
        print(f"fastloss: building the kernels for {isa}")
        modules.append(
            Extension(
                f"fastloss.kernels.{isa}",
                [of_isa(isa, Path(*kernels.sources))],
                include_dirs=["src"],
                extra_compile_args=spelled([*flags, *march]),
                define_macros=[("CYTHON_INLINE", INLINE)],
                depends=[*depends, *kernels.sources],
            )
        )
    return modules


setup(
    ext_modules=extensions(),
    # All at once on two CPUs too, where the third would wait for the first to end.
    cmdclass={"build_ext": BuildExt},
    options={"build_ext": {"parallel": max(len(ISAS), os.cpu_count() or 1)}},
)
