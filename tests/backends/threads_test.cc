// A backend must be right with however many threads the system delivers.
#include <gtest/gtest.h>
#include <omp.h>

#include <vector>

#include "backends/backend.h"
#include "backends/cpu/parallel.h"

namespace winnow {
namespace {

std::vector<float> product(Backend& backend, std::int64_t rows) {
  constexpr std::int64_t kIn = 96, kOut = 200;
  const auto weight = backend.pack(kOut, kIn, [](std::int64_t begin, std::int64_t end, std::span<float> out) {
    for (std::int64_t i = 0; i < (end - begin) * kIn; ++i)
      out[i] = static_cast<float>((begin * kIn + i) % 7) - 3;
  });
  std::vector<float> x(static_cast<std::size_t>(rows * kIn)), y(static_cast<std::size_t>(rows * kOut));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 5) - 2;
  backend.linear({.x = {x.data(), DType::kF32, rows, kIn},
                  .weight = weight.get(),
                  .y = {y.data(), DType::kF32, rows, kOut}});
  return y;
}

TEST(Threads, AskingForMoreThanTheSystemDelivers) {
  for (const std::int64_t rows : {1, 3, 300}) {
    const auto one = make_cpu_backend(Precision::kF32, 1);
    const auto expected = product(*one, rows);
    // Inside a parallel region a nested one gets a single thread, whatever it asks for: as under
    // OMP_THREAD_LIMIT=1.
    std::vector<float> found;
#pragma omp parallel num_threads(2)
    {
#pragma omp single
      found = product(*make_cpu_backend(Precision::kF32, 4), rows);
    }
    EXPECT_EQ(found, expected) << rows;  // small integers: exact in any order
  }
}

TEST(Threads, AnExceptionInAThreadReachesTheCaller) {
  EXPECT_THROW(cpu::parallel(3,
                             [](int thread) {
                               if (thread == 1) throw std::runtime_error("from a thread");
                             }),
               std::runtime_error);
}

}  // namespace
}  // namespace winnow
