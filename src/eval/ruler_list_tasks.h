// RULER's tasks without needles: variables tracked through assignments (vt), the commonest words of a list
// (cwe), the most frequent words of a coded text (fwe). After github.com/NVIDIA/RULER,
// scripts/data/synthetic.
#pragma once

#include <memory>

#include "eval/task.h"

namespace winnow {

// `encoder` must outlive the task.
std::unique_ptr<Task> make_ruler_vt(const PromptEncoder& encoder);
std::unique_ptr<Task> make_ruler_cwe(const PromptEncoder& encoder);
std::unique_ptr<Task> make_ruler_fwe(const PromptEncoder& encoder);

}  // namespace winnow
