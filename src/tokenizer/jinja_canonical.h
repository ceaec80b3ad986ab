// The canonical form of a Jinja template: spacing, quotes and subscripts unified, comments left out, white
// space trimmed as Transformers has Jinja do it (trim_blocks, lstrip_blocks). Two templates with the same
// form say the same, so known ones can be told without running Jinja.
#pragma once

#include <string>
#include <string_view>

namespace winnow {

// {%- if m["role"] == 'x' %} becomes {%if m.role=='x'%}. Any text has a form, broken templates too.
std::string canonical_template(std::string_view jinja);

}  // namespace winnow
