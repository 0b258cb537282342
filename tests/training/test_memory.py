"""That freed memory is kept for the next update."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from regrnn.training.memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
import torch

def an_update():
    gradients = [torch.empty(megabytes << 18).fill_(1) for megabytes in (36, 64, 36, 48)]

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(12):  # until the heap has found its shape
    an_update()
before = pages()
for _ in range(4):
    an_update()
print((pages() - before) // 4)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_blocks_that_an_update_frees_serve_the_next() -> None:
    def pages(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    returned = pages("returned")
    assert returned > 1_000, "pages of 184 MiB: otherwise there would be nothing to keep"
    assert pages("kept") < returned / 4
