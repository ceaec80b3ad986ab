// Caches in 8 bits: what is kept against its definition (the reference's), moved and unpacked; attention
// against the reference on the numbers the codes stand for, for every kernel.
#include "backends/cpu/q8_cache.h"

#include "backends/cpu/cache_heads.h"
#include "backends/cpu/q8_kernel.h"
#include "support/backend_test_util.h"
#include "support/single_query.h"

namespace winnow::testing {
namespace {

LayerKv make_q8(Backend& backend, const HeadShape& shape, std::int64_t capacity) {
  LayerKv kv;
  kv.type = KvType::kQ8;
  kv.kv_heads = shape.kv_heads;
  kv.head_dim = shape.head_dim;
  backend.reserve(kv, capacity);
  return kv;
}

// A cache of random rows without rotation, of which some dimensions are much larger than others.
struct Q8Cache {
  LayerKv kv;
  RopeTable rope;

  Q8Cache(Backend& backend, const HeadShape& shape, std::int64_t rows, std::int64_t capacity = 0)
      : kv(make_q8(backend, shape, std::max(rows, capacity))) {
    std::vector<float> qkv = random_floats(rows * shape.qkv_cols(), static_cast<unsigned>(rows));
    for (std::size_t i = 0; i < qkv.size(); i += 37) qkv[i] *= 8;
    if (rows > 0) append(backend, kv, rope, shape, qkv, 0);
  }
};

// The numbers that the codes stand for, as far as the compute dtype tells: of each row keys, then values.
std::vector<float> contents(Backend& backend, const LayerKv& q8) {
  LayerKv same = make_kv(backend, {q8.kv_heads, q8.kv_heads, q8.head_dim}, q8.rows);
  backend.unpack(q8, same);
  EXPECT_EQ(same.rows, q8.rows);
  EXPECT_EQ(same.positions, q8.positions);
  const bool reference = backend.description().starts_with("reference");
  const cpu::KvLayout layout = cpu::kv_layout(same, backend.compute_dtype());
  std::vector<float> all;
  for (std::int64_t row = 0; row < q8.rows; ++row) {
    for (std::int64_t h = 0; h < q8.kv_heads; ++h) {
      for (std::int64_t d = 0; d < q8.head_dim; ++d) {
        const std::int64_t plain = (row * q8.kv_heads + h) * q8.head_dim + d,
                           head = h * layout.head_elements();
        for (const auto& [buffer, index] :
             {std::pair(&same.k, layout.key_index(row, d)), std::pair(&same.v, layout.value_index(row, d))}) {
          all.push_back(
              cpu::load_element(backend.compute_dtype(), buffer->as<>(), reference ? plain : head + index));
        }
      }
    }
  }
  return all;
}

TEST(Q8Cache, RoundsAsItsDefinitionSays) {
  const float x[] = {0.5f, -127.0f, 126.4f, 0.51f, 1.5f, 2.5f};
  std::int8_t codes[6];
  EXPECT_EQ(to_float(cpu::round_to_q8(x, 6, codes)), 1.0f);
  EXPECT_EQ(std::vector<int>(codes, codes + 6), (std::vector<int>{0, -127, 126, 1, 2, 2}));
  const float zeros[] = {0.0f, -0.0f};
  EXPECT_EQ(cpu::round_to_q8(zeros, 2, codes).bits, 0);
  EXPECT_EQ(codes[0] | codes[1], 0);
  for (const float largest : {1.0f, 3.3e-30f, 0.7f, 2.9f, 1e30f}) {  // the scale is bf16, and large enough
    const float one[] = {-largest};
    const float scale = to_float(cpu::round_to_q8(one, 1, codes));
    EXPECT_GE(scale * 127, largest * (1 - 1e-6f));
    EXPECT_LE(scale * 126, largest * 1.01f);
    EXPECT_NEAR(codes[0] * scale / -largest, 1, 0.01);
  }
}

TEST(Q8Cache, KeepsWhatTheReferenceKeeps) {
  for (const Precision precision : kPrecisions) {
    for (const HeadShape& shape : {HeadShape{4, 2, 64}, {2, 2, 20}, {3, 1, 96}, {2, 1, 3}}) {
      SCOPED_TRACE(::testing::PrintToString(shape));
      const auto cpu = make_cpu_backend(precision, 2), reference = make_reference_backend(precision);
      const Q8Cache found(*cpu, shape, 35), expected(*reference, shape, 35);
      EXPECT_EQ(contents(*cpu, found.kv), contents(*reference, expected.kv));
    }
  }
}

// A cache that got rows in one turn or several, as the other cache's companion or alone, is the same one.
TEST(Q8Cache, HowRowsCameDoesNotMatter) {
  const HeadShape shape{4, 2, 20};
  for (const Precision precision : kPrecisions) {
    const auto backend = make_cpu_backend(precision, 3);
    const RopeTable rope = make_rope(*backend, 100, 20);
    const std::vector<float> qkv = random_floats(70 * shape.qkv_cols(), 4);
    const TestMatrix x(*backend, backend->compute_dtype(), 70, shape.qkv_cols(), qkv);
    TestMatrix q(*backend, backend->compute_dtype(), 70, shape.q_cols());
    LayerKv same = make_kv(*backend, shape, 70), beside = make_q8(*backend, shape, 70),
            alone = make_q8(*backend, shape, 70);
    for (const auto& [begin, count] : {std::pair<std::int64_t, std::int64_t>{0, 3}, {3, 50}, {53, 17}}) {
      std::vector<std::int32_t> positions(static_cast<std::size_t>(count));
      std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(begin));
      backend->rope_append({.qkv = x.view().slice(begin, count),
                            .positions = positions,
                            .rope = &rope,
                            .q = q.view().slice(begin, count),
                            .kv = &same,
                            .q8 = &beside});
    }
    for (std::int64_t row = 0; row < 70; ++row) {
      const std::span<const float> one(qkv.data() + row * shape.qkv_cols(), shape.qkv_cols());
      append(*backend, alone, rope, shape, one, static_cast<std::int32_t>(row));
    }
    EXPECT_EQ(beside.rows, 70);
    EXPECT_EQ(beside.positions, same.positions);
    EXPECT_EQ(contents(*backend, beside), contents(*backend, alone));
  }
}

TEST(Q8Cache, GrowsAndLosesRows) {
  const HeadShape shape{4, 2, 20};
  for (const bool on_reference : {false, true}) {
    const auto backend =
        on_reference ? make_reference_backend(Precision::kBF16) : make_cpu_backend(Precision::kBF16, 2);
    for (const std::int64_t rows : {1, 2, 17, 33, 70}) {
      Q8Cache cache(*backend, shape, rows);
      EXPECT_EQ(cache.kv.bytes(), backend->cache_bytes(KvType::kQ8, 2, 20, rows));
      const std::vector<float> before = contents(*backend, cache.kv);
      backend->reserve(cache.kv, 10 * rows + 100);
      EXPECT_EQ(cache.kv.bytes(), backend->cache_bytes(KvType::kQ8, 2, 20, 10 * rows + 100));
      EXPECT_EQ(contents(*backend, cache.kv), before);
      std::vector<std::int64_t> odd;
      std::vector<float> expected;
      for (std::int64_t row = 1; row < rows; row += 2) {
        odd.push_back(row);
        const std::int64_t size = std::ssize(before) / rows;
        expected.insert(expected.end(), before.begin() + row * size, before.begin() + (row + 1) * size);
      }
      backend->keep_rows(cache.kv, odd);
      EXPECT_EQ(cache.kv.bytes(), backend->cache_bytes(KvType::kQ8, 2, 20, std::ssize(odd)));
      EXPECT_EQ(contents(*backend, cache.kv), expected);
    }
  }
}

TEST(Q8Cache, IsALittleMoreThanHalfOfBf16) {
  const auto backend = make_cpu_backend(Precision::kBF16, 1);
  for (const std::int64_t dim : {64, 96, 128, 256}) {
    const auto same = static_cast<double>(backend->cache_bytes(KvType::kSame, 3, dim, 4096)),
               q8 = static_cast<double>(backend->cache_bytes(KvType::kQ8, 3, dim, 4096));
    EXPECT_LT(q8 / same, 0.53) << dim;
  }
}

struct Query : SingleQuery<Q8Cache> {
  Query(Backend& backend, const HeadShape& shape, std::int64_t rows, std::int64_t at, float deviation = 1.0f,
        std::int64_t window_in = 0)
      : SingleQuery(backend, shape, at, deviation, window_in, rows) {}
};

// The codes are the same on both sides; a query and weights of 15 and 16 bits lose 1e-4 of the scale of what
// they multiply.
constexpr Tolerance kQ8Attention = {1e-3, 1e-3};

void compare(const HeadShape& shape, std::int64_t rows, std::int64_t at, float deviation = 1.0f,
             std::int64_t window = 0, Tolerance tolerance = kQ8Attention) {
  SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(shape) << ", " << rows << " rows, query at "
                                    << at << ", window " << window);
  for (const Precision precision : kPrecisions) {
    const auto reference = make_reference_backend(precision);
    Query expected(*reference, shape, rows, at, deviation, window);
    reference->attention(expected.params());
    std::string bits;
    for (const int threads : {1, 3}) {
      const auto cpu = make_cpu_backend(precision, threads);
      Query actual(*cpu, shape, rows, at, deviation, window);
      cpu->attention(actual.params());
      expect_close(actual.out, expected.out, stored_as(cpu->compute_dtype(), tolerance));
      if (threads == 1) bits = actual.out.row_bits(0);
      EXPECT_EQ(actual.out.row_bits(0), bits) << threads << " threads";
    }
  }
}

TEST(Q8Attention, AgreesWithTheReferenceAtEveryLength) {
  for (const std::int64_t rows : {1, 2, 15, 17, 33, 127, 128, 129, 300, 700})
    compare({9, 3, 64}, rows, rows - 1);
  compare({9, 3, 64}, 300, 150);  // the rows behind the query's own are not seen
}

TEST(Q8Attention, AgreesWithTheReferenceForEveryShape) {
  for (const std::int64_t dim : {2, 3, 16, 20, 48, 64, 80, 96, 128, 256, 512}) compare({4, 2, dim}, 140, 139);
  for (const std::int64_t group : {1, 2, 3, 4, 5, 8, 9}) compare({2 * group, 2, 64}, 140, 139);
}

TEST(Q8Attention, ASlidingWindowEndsAtItsFirstRow) {
  for (const std::int64_t window : {1, 2, 127, 128, 129, 299, 400})
    compare({9, 3, 64}, 300, 299, 1.0f, window);
}

// A query's 15 bits are an error of 5e-3 in scores of some hundreds, which exp makes a relative one of
// weights.
TEST(Q8Attention, SurvivesLargeScores) { compare({9, 3, 64}, 300, 299, 30.0f, 0, {2e-2, 1e-2}); }

// The portable kernel on every target against the one for this machine, piece by piece.
TEST(Q8Attention, TheKernelsAgree) {
  constexpr std::int64_t kHeads = 5;
  const auto backend = make_cpu_backend(Precision::kF32, 1);
  for (const std::int64_t dim : {20, 64, 96}) {
    const HeadShape shape{kHeads, 1, dim};
    const Q8Cache cache(*backend, shape, 128);
    const TestMatrix q(*backend, DType::kF32, 1, shape.q_cols(), random_floats(shape.q_cols(), 5));
    std::vector<cpu::Q8Query> queries(kHeads);
    for (std::int64_t h = 0; h < kHeads; ++h) cpu::prepare_q8_query(q.view(), h * dim, dim, queries[h]);
    const cpu::Q8Head head(cache.kv, 0);
    const auto attend = [&](const cpu::Q8Kernel& kernel, std::int64_t first, std::int64_t end) {
      std::vector<float> result(kHeads * (2 + dim));
      kernel.attend({.range = {.heads = kHeads,
                               .begin = 0,
                               .end = end,
                               .first = first,
                               .scale_log2 = 0.2f,
                               .maximum = result.data(),
                               .sum = result.data() + kHeads,
                               .out = result.data() + 2 * kHeads},
                     .q = queries.data(),
                     .cache = head,
                     .next = head.k,
                     .next_scales = head.k_scales});
      return result;
    };
    for (const auto& [first, end] : {std::pair<std::int64_t, std::int64_t>{0, 128}, {0, 1}, {17, 100}}) {
      const std::vector<float> expected = attend(cpu::choose_q8_kernel(), first, end);
      for_each_target([&, first = first, end = end] {
        expect_close(attend(cpu::portable_q8_kernel(), first, end), expected, {2e-3, 1e-3});
      });
    }
  }
  if (cpu::avx512_vnni_q8_kernel() == nullptr)
    GTEST_SKIP() << "no AVX512-VNNI here: the targets of the portable kernel agree, which is all there is";
}

// Their keys and values are not what those ops take them for.
TEST(Q8CacheDeathTest, OtherOpsAbort) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto cpu = make_cpu_backend(Precision::kF32, 1);
  const HeadShape shape{2, 1, 16};
  const Q8Cache cache(*cpu, shape, 40);
  const TestMatrix q(*cpu, DType::kF32, 2, shape.q_cols(), random_floats(2 * shape.q_cols(), 1));
  const TestMatrix out(*cpu, DType::kF32, 2, shape.q_cols());
  const std::int64_t query_rows[] = {38, 39};
  std::vector<float> scores(40);
  EXPECT_DEATH(
      cpu->attention(
          {.q = q.view(), .query_rows = query_rows, .kv = &cache.kv, .scale = 0.25f, .out = out.view()}),
      "no caches in 8 bits");
  EXPECT_DEATH(cpu->window_scores({.q = q.view(), .kv = &cache.kv, .scores = scores}), "no caches in 8 bits");
}

TEST(Q8Attention, ABatchIsItsQueriesOneByOne) {
  expect_a_batch_is_its_queries<Query>({1, 300, 20, 129, 128});
}

}  // namespace
}  // namespace winnow::testing
