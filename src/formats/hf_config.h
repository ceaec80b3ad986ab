// config.json of a Hugging Face folder, brought to one set of keys.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace winnow {

// The object in `text` with its keys kept and these added where they can be derived:
// - GPT-2's n_embd, n_layer, n_head, n_positions, n_inner and activation_function under the names other
// models use
//   (hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, max_position_embeddings,
//   intermediate_size, hidden_act), and the defaults GPT-2's configuration leaves out;
// - rope_theta, rope_scaling and partial_rotary_factor out of transformers 5's rope_parameters; where these
//   differ by layer type, rope_local_base_freq and rope_local_scaling are those of the sliding layers;
// - the values of Gemma 3 and Mistral, and rope_theta, that their classes in transformers assume.
// Values are not validated. Error(kBadFormat) for JSON that is no object, over 16 MiB, or without a
// model_type.
nlohmann::json parse_hf_config(std::string_view text, const std::string& file);

// parse_hf_config of folder/config.json; Error(kIo) when there is none.
nlohmann::json read_hf_config(const std::string& folder);

}  // namespace winnow
