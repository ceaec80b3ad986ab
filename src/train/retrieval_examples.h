// Generated examples of what long prompts are for: a fact somewhere in a text, a question at its end. Several
// kinds and wordings, none of them that of the evaluation's tasks (eval/niah_tasks.h), so that what is
// measured there was not trained on.
#pragma once

#include <optional>

#include "eval/text_random.h"
#include "train/training_data.h"

namespace winnow {

// About `tokens` tokens: text around one to four facts of one kind, at random places, a question about one of
// them, and the answer (what comes after TrainingWindow::context). Nothing when facts and question alone
// are longer.
std::optional<TrainingWindow> make_retrieval_window(TextRandom& random, const EvalText& text,
                                                    const PromptEncoder& encoder, std::int64_t tokens);

}  // namespace winnow
