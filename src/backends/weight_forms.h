// WeightForms: in which forms a backend keeps matrices, told before anything is loaded. Implemented by
// backends that pack them otherwise than as plain rows of their compute type; asked by estimates of memory.
#pragma once

#include <cstdint>
#include <optional>

#include "core/dtype.h"

namespace winnow {

class WeightForms {
 public:
  virtual ~WeightForms() = default;
  // Bytes of matrices of `elements` packed for prefill, but for padding.
  virtual std::int64_t packed_bytes(std::int64_t elements) const = 0;
  // Bytes that a [rows, columns] part of a matrix, stored as `dtype`, takes in the form for decoding that
  // pack_stored() makes beside it; none: a matrix with such a part has no such form.
  virtual std::optional<std::int64_t> decode_form_bytes(DType dtype, std::int64_t rows,
                                                        std::int64_t columns) const = 0;
};

}  // namespace winnow
