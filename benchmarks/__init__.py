"""The benchmark suite: regrnn against the PyTorch idiom and against what the processor can do.

`python -m benchmarks` measures, `python -m benchmarks.report` writes docs/performance.md from what was measured.
"""
