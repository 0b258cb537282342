"""How the process deals with the memory that one update frees and the next one needs."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
_MOST = 2**31 - 1  # mallopt takes an int


def keep_memory() -> None:
    """Has the C library keep what is freed, for the process's whole life; without effect where it has no `mallopt`.

    glibc takes every block above 32 MiB from the system and gives it back. Of the paper's large model, those are most
    gradients: at every update the system has to make, and fill with zeros, 260 MB of pages.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # macOS, musl; Windows has no library of that name
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, _MOST)
