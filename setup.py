"""Compiles the core (regrnn/kernels/src) once for each instruction set; the rest of the package is in pyproject.toml.

The libraries are built without torch's or Python's headers, so that a wheel is tied to no version of either. Where they
cannot be compiled, the package installs without them and computes with torch's kernels. Environment: `CXX` names the
compiler, `CXXFLAGS` is added to its flags, `REGRNN_REQUIRE_CORE=1` makes a core that cannot be compiled an error.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("regrnn/kernels/src")
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-exceptions"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
# The name, the floats in a vector, and what the compiler may assume of the processor. The one that fits is chosen at
# run time: nothing here may depend on the machine that compiles.
INSTRUCTION_SETS = [("baseline", 4, "")]  # SSE2, NEON: what every processor of the architecture has
if platform.machine() in ("x86_64", "AMD64"):
    AVX512 = "-mprfchw -mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma -mbmi -mprefer-vector-width=512"
    BFLOAT16 = f"{AVX512} -mavx512bf16 -DREGRNN_BFLOAT16"
    INSTRUCTION_SETS += [("avx2", 8, "-mprfchw -mavx2 -mfma -mbmi"), ("avx512", 16, AVX512)]
    # Their products round to bfloat16. Left out where the compiler is too old for them.
    INSTRUCTION_SETS += [("avx512bf16", 16, f"{BFLOAT16}=1"), ("amx", 16, f"{BFLOAT16}=2 -mamx-tile -mamx-bf16")]
OPTIONAL = ("avx512bf16", "amx")

WITHOUT = """
regrnn: warning: its compiled core cannot be built, so it will compute with torch's kernels, which are slower.
  Reason: {reason}
  To have the core, install a C++17 compiler (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++;
  macOS: xcode-select --install) or name one in CXX; then install again, with pip's --no-cache-dir --force-reinstall.
  `regrnn doctor` says which of the two runs.
"""


class CannotCompile(Exception):
    pass


def compiler() -> list[str]:
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    names = ("c++", "g++", "clang++")
    for name in names:
        if shutil.which(name):
            return [name]
    raise CannotCompile(f"there is no C++ compiler: none of {', '.join(names)} is on PATH")


def compile_into(folder: Path) -> None:
    """Leaves _NAME.so for each instruction set. Raises CannotCompile."""
    base = [*compiler(), *FLAGS]
    # The core needs nothing of the C++ library at run time; this leaves it out where the compiler would name it anyway.
    if sys.platform == "linux":
        base += ["-Wl,--as-needed"]
    probe = folder / "probe.cpp"

    def compiles(flags: list[str]) -> bool:
        return subprocess.run([*base, *flags, probe, "-o", folder / "probe.so"], capture_output=True).returncode == 0

    try:
        probe.write_text("#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n")
        if compiles(["-fopenmp"]):
            base += ["-fopenmp"]
        else:
            print("regrnn: the compiler has no OpenMP: the core will run on one thread", file=sys.stderr)
        probe.write_text("#include <immintrin.h>\nint one() { return 1; }\n")
        running = []
        for name, floats, flags in INSTRUCTION_SETS:
            if name in OPTIONAL and not compiles(flags.split()):
                print(f"regrnn: the compiler does not know {name}: there will be no products in bfloat16 with it")
                continue
            command = [*base, *flags.split(), f"-DREGRNN_ISA={name}", f"-DREGRNN_VECTOR={floats}"]
            command += shlex.split(os.environ.get("CXXFLAGS", ""))
            command += [str(SOURCES / "core.cpp"), "-o", str(folder / f"_{name}.so")]
            print(shlex.join(command), flush=True)
            running.append((name, subprocess.Popen(command)))
    except OSError as error:
        raise CannotCompile(f"the compiler does not start: {error}") from None
    # All of them are waited for, then all must be there: which one is loaded is decided by the processor alone.
    if failed := [name for name, process in running if process.wait() != 0]:
        raise CannotCompile(f"the compiler failed on {', '.join(failed)}: see its messages above")


class BuildCore(build_ext):
    """All libraries or, after a warning, none."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def run(self) -> None:
        # What an earlier build left must not be shipped if this one fails.
        for path in (*self.get_outputs(), *self.get_output_mapping().values()):
            Path(path).unlink(missing_ok=True)
        super().run()

    def build_extensions(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                compile_into(Path(folder))
            except CannotCompile as error:
                if os.environ.get("REGRNN_REQUIRE_CORE") == "1":
                    raise SystemExit(f"regrnn: error: its core cannot be compiled: {error}") from None
                print(WITHOUT.format(reason=error), file=sys.stderr)
                return
            for extension in self.extensions:
                target = Path(self.get_ext_fullpath(extension.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                if (made := Path(folder) / target.name).exists():
                    shutil.move(made, target)


class Wheel(bdist_wheel):
    """Tagged for any Python of the platform, and for any platform where there is no core in it."""

    def get_tag(self) -> tuple[str, str, str]:
        self.root_is_pure = not any(map(os.path.exists, self.get_finalized_command("build_ext").get_outputs()))
        # A Python for two architectures does not make the compiler compile for both.
        return "py3", "none", super().get_tag()[2].replace("universal2", platform.machine())


setup(
    ext_modules=[
        Extension(
            f"regrnn.kernels._{name}",
            [str(SOURCES / "core.cpp")],
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            optional=True,
        )
        for name, _, _ in INSTRUCTION_SETS
    ],
    cmdclass={"build_ext": BuildCore, "bdist_wheel": Wheel},
)
