"""`regrnn doctor`."""

from json import dumps


def doctor(*, json: bool = False) -> None:
    """Say what regrnn runs on: versions, processor, threads, devices, extras, and where data is looked for.

    Parameters
    ----------
    json
        Print JSON.
    """
    import importlib.util
    import os
    import platform

    import torch

    from regrnn._version import __version__
    from regrnn.data.locate import cache_root, data_root
    from regrnn.errors import RegrnnError
    from regrnn.kernels.core import choose, choose_bfloat16
    from regrnn.optional import EXTRAS
    from regrnn.training.result import commit, processor

    bfloat16 = "none"
    try:
        choice = choose()
        if choice.core is None:
            core = f"none, torch's kernels run instead, which are slower: {choice.reason}"
        else:
            core = f"{choice.reason} (set REGRNN_KERNEL to change)"
            rounded = choose_bfloat16()
            if rounded.core is None:
                bfloat16 = f"none: {rounded.reason}"
            else:
                bfloat16 = f"{rounded.reason}, for training.matmul_precision = medium"
    except RegrnnError as error:
        core = f"error: {error}"
    facts = {
        "regrnn": __version__ + (f" ({found})" if (found := commit()) else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "devices": ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))],
        "core": core,
        "bfloat16": bfloat16,
        "data": f"{data_root()} (set REGRNN_DATA to change)",
        "cache": f"{cache_root()} (set REGRNN_CACHE to change)",
        "extras": {
            name: "installed"
            if all(importlib.util.find_spec(module) for module in modules)
            else f"missing: pip install 'regrnn[{name}]'"
            for name, modules in EXTRAS.items()
        },
    }
    if json:
        print(dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {state}" for key, state in value.items())
        print(f"{name:10} {', '.join(value) if isinstance(value, list) else value}")
