// What the processor and the operating system let us use beyond Highway's targets.
#pragma once

namespace winnow::cpu {

bool has_avx2();         // AVX2, FMA and F16C
bool has_avx512_vnni();  // AVX-512 F/BW/VL and AVX512_VNNI
bool has_avx512_bf16();  // AVX-512 F/BW/VL and AVX512_BF16
bool has_amx_bf16();     // AMX tiles with bf16 products, permitted by the kernel; includes has_avx512_bf16()

}  // namespace winnow::cpu
