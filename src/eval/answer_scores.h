// Scores of an answer against its references, 0..1. One answer, one number.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace winnow {

// Share of the references that occur in the answer, upper and lower case alike (RULER's string_match_all).
double found_share(std::string_view answer, const std::vector<std::string>& references);

// 1 when the first run of digits in the answer is `number`.
double first_number_is(std::string_view answer, std::string_view number);

// LongBench's metrics (github.com/THUDM/LongBench, metrics.py).

// Lower case, without ASCII punctuation, the articles a, an, the, and extra white space.
std::string normalized_answer(std::string_view text);
// F1 of the two normalised bags of words; 0 when they share none.
double word_f1(std::string_view answer, std::string_view reference);
// F1 of the longest common subsequence of words (Lin 2004) of the whole texts. LongBench's package takes
// sentences apart first and counts distinct words, so that its numbers are close but not equal.
double rouge_l(std::string_view answer, std::string_view reference);
// 1 / (classes named in the answer) when the reference is one of them. A class that is a part of the
// reference's name does not count.
double class_score(std::string_view answer, std::string_view reference,
                   const std::vector<std::string>& classes);
// Share of the numbers in the answer that equal `number`.
double number_share(std::string_view answer, std::string_view number);
// The first number after "Paragraph "; empty when there is none.
std::string paragraph_number(std::string_view reference);
// Similarity 2 M / T of the answer's first line without '`', '#' and "//" and the reference, M the length of
// their longest common subsequence of bytes and T their total length (fuzz.ratio; it rounds to whole
// percents, as this does).
double code_similarity(std::string_view answer, std::string_view reference);

}  // namespace winnow
