// Fixture of tests that compare the CUDA backend with the reference, in both precisions. Skips where there is
// no GPU.
#pragma once

#include "core/error.h"
#include "support/backend_test_util.h"

namespace winnow::testing {

class CudaTest : public ::testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    try {
      cuda_ = make_cuda_backend(GetParam(), 0);
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
    reference_ = make_reference_backend(GetParam());
  }
  bool bf16() const { return GetParam() == Precision::kBF16; }

  std::unique_ptr<Backend> cuda_, reference_;
};

inline std::string precision_of(const ::testing::TestParamInfo<Precision>& param_info) {
  return name(param_info.param);
}

}  // namespace winnow::testing
