#include "report/report.h"

#include <fmt/format.h>

#include <string_view>

#include "core/error.h"
#include "report/html.h"
#include "report/sections.h"

namespace winnow {
namespace {

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --ground: #fff; --ink: #22262b; --soft: #666d75; --line: #dcd9d2; --heat: #9a5b00; font: 15px/1.5 system-ui, sans-serif;
  --c0: #55606c; --c1: #b7791f; --c2: #2b6cb0; --c3: #2f855a; --c4: #b83280; --c5: #6b46c1; --c6: #c05621; --c7: #0987a0; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --ink: #e6e4df; --soft: #9aa1a9; --line: #34383e; --heat: #e0a243;
  --c0: #a9b3be; --c1: #e0a243; --c2: #63b3ed; --c3: #68d391; --c4: #f687b3; --c5: #b794f4; --c6: #f6ad55; --c7: #76e4f7; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; background: var(--ground); color: var(--ink); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; } h3 { font-size: 1rem; }
p, figcaption { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: 1rem 1.5rem; align-items: start; margin: 1rem 0; }
svg { width: 100%; height: auto; font: 11.5px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .title { fill: var(--ink); font-size: 13.5px; font-weight: 600; } svg .mark { fill: var(--ink); font-size: 10.5px; }
svg .grid { stroke: var(--line); } svg .axis, svg .tick { stroke: var(--soft); } svg path { fill: none; stroke: currentColor; stroke-width: 2; } svg circle { fill: currentColor; }
svg .heat { fill: var(--heat); }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; } td, th { padding: .22rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
.copyable { position: relative; overflow-x: auto; } .copy { font: inherit; font-size: .8rem; float: right; cursor: pointer; }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; font-size: .9rem; }
.d1 { opacity: .18; } .d2 { opacity: .28; } .d3 { opacity: .36; } .d4 { opacity: .44; } .d5 { opacity: .5; } .d6 { opacity: .56; } .d7 { opacity: .62; } .d8 { opacity: .68; } .d9 { opacity: .74; }
.legend span { color: var(--ink); margin-right: 1rem; }
figure { margin: 0; } figure img { width: 100%; image-rendering: pixelated; border: 1px solid var(--line); }
@media print { :root { --ground: #fff; --ink: #000; --soft: #444; --line: #bbb; --heat: #6b3f00; } body { padding: 0; max-width: none; } .copy { display: none; }
  h2, h3 { break-after: avoid; } .copyable { overflow: visible; } table { font-size: .7rem; } td, th { padding: .12rem .35rem; } svg, figure, tr { break-inside: avoid; } .charts { grid-template-columns: 1fr 1fr; } }
)css";

// Copies a table as text with tabs, for spreadsheets and documents.
constexpr std::string_view kScript = R"js(
for (const button of document.querySelectorAll(".copy")) button.onclick = async () => {
  const rows = [...button.parentElement.querySelectorAll("tr")].map(row => [...row.cells].map(cell => cell.textContent).join("\t"));
  try { await navigator.clipboard.writeText(rows.join("\n") + "\n"); button.textContent = "Copied"; }
  catch { const range = document.createRange(); range.selectNode(button.parentElement.querySelector("table")); getSelection().removeAllRanges(); getSelection().addRange(range); button.textContent = "Selected: Ctrl+C"; }
};
)js";

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i;
    unsigned group = 0;
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < left ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) out += j <= left ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string section_of(const ResultFile& file) {
  switch (file.kind) {
    case ResultKind::kProfile: return profile_section(file);
    case ResultKind::kSparsity: return sparsity_section(file);
    case ResultKind::kEval: return eval_section(file);
    case ResultKind::kFrontier: return frontier_section(file);
    case ResultKind::kPolicy: return policy_section(file);
    case ResultKind::kAnswer: return answer_section(file);
  }
  return "";
}

std::string pictures_section(std::span<const Picture> pictures) {
  std::string figures;
  for (const Picture& picture : pictures) {
    if (!picture.png.starts_with("\x89PNG\r\n\x1a\n"))
      fail(ErrorCode::kBadFormat, "{}: is no PNG picture", picture.name);
    figures += figure("<img alt=\"" + escape(picture.name) + "\" src=\"data:image/png;base64," +
                          base64(picture.png) + "\">",
                      picture.name);
  }
  if (figures.empty()) return "";
  return section("Attention maps", paragraph("Queries downwards, keys to the right: the brighter, the larger "
                                             "the weight; excluded blocks are tinted, what "
                                             "causality hides is dark blue.") +
                                       "<div class=\"charts\">" + figures + "</div>\n");
}

}  // namespace

std::string render_report(std::span<const ResultFile> results, std::span<const Picture> pictures) {
  std::string body;
  // Speed and quality first, single prompts last, whatever the order they were given in.
  for (const ResultKind kind :
       {ResultKind::kProfile, ResultKind::kFrontier, ResultKind::kEval, ResultKind::kSparsity}) {
    for (const ResultFile& file : results)
      if (file.kind == kind) body += section_of(file);
  }
  body += pictures_section(pictures);
  for (const ResultKind kind : {ResultKind::kPolicy, ResultKind::kAnswer}) {
    for (const ResultFile& file : results)
      if (file.kind == kind) body += section_of(file);
  }
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'; img-src data:\">\n"
      "<title>winnow report</title><style>{}</style></head>\n<body><h1>winnow "
      "report</h1>\n{}<script>{}</script></body></html>\n",
      kStyle, body, kScript);
}

}  // namespace winnow
