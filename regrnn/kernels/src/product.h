// The products of the arithmetic this library is compiled for: `multiply`, `multiply_deep`, `products` and what they share.
#pragma once

#ifdef REGRNN_BFLOAT16
#include "multiply_rounded.h"
#else
#include "multiply.h"
#endif
