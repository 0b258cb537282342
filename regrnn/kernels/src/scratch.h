// Scratch, handed out piece by piece.
#pragma once

#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

// n floats in whole cache lines: a vector that crosses one is loaded twice.
REGRNN_INLINE long whole_lines(long n) { return (n + 15) / 16 * 16; }

// Hands out places one after the other, each in whole cache lines. Of null they are null, and their size alone counts.
class Scratch {
 public:
  explicit Scratch(float* at) : at_(at) {}

  template <class T = float>
  T* take(long n) {
    static_assert(sizeof(T) % sizeof(float) == 0, "in whole floats");
    float* place = at_ == nullptr ? nullptr : at_ + floats_;
    floats_ += whole_lines(n * static_cast<long>(sizeof(T) / sizeof(float)));
    return reinterpret_cast<T*>(place);
  }

  // Of all that was taken.
  long floats() const { return floats_; }

 private:
  float* at_;
  long floats_ = 0;
};

}  // namespace REGRNN_ISA
}  // namespace regrnn
