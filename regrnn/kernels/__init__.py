"""The compiled core: recurrent layers, softmax and masks on a CPU, in C++ behind the operators of `regrnn.kernels.ops`.

`REGRNN_KERNEL` chooses: `auto` (the default: the core where it can be had), `fused` (an error where it cannot), `torch`
(never). An instruction set's name (`avx512`, `avx2`, `baseline`) is `fused` with that one.
"""
