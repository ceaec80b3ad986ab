#!/usr/bin/env python3
"""Checks that includes follow the libraries' dependencies.

A folder under src/ may include itself and what its winnow_library(...) line in CMakeLists.txt links, directly or through
another library; src/cli is what the program `winnow` links. The linker alone would not see a header that goes the wrong
way. Some headers of other projects are confined to the files that wrap them.

    scripts/check_includes.py            prints every wrong include; exit 1 if there is one
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"

# Headers (or folders of headers, ending in "/") -> where they may be included, relative to src/.
CONFINED = {
    "dnnl.hpp": ["backends/cpu/onednn_products.h", "backends/cpu/product_onednn.cc"],
    "immintrin.h": ["backends/cpu/"],
    "omp.h": ["backends/cpu/", "cli/provenance.cc"],
    "hwy/": ["backends/cpu/"],
    "pcre2.h": ["tokenizer/"],
    "CLI/": ["cli/"],
    "png.h": ["analysis/"],
    "httplib.h": ["server/http_"],
    "gtest/": [],
    "benchmark/": [],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def direct_arrows():
    """{folder: folders it links directly}, from CMakeLists.txt."""
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text())
    arrows = {}
    for name, dependencies in re.findall(r"^winnow_library\((\w+)([^)]*)\)", text, re.M):
        arrows[name] = set(re.findall(r"\bwinnow_(\w+)", dependencies))
    program = re.search(r"target_link_libraries\(winnow\s+PRIVATE([^)]*)\)", text)
    if not arrows or not program:
        sys.exit("check_includes: CMakeLists.txt has no winnow_library(...) lines, or the program links nothing")
    arrows["cli"] = set(re.findall(r"\bwinnow_(\w+)", program[1]))
    return arrows


def closure(arrows):
    """{folder: all folders it may include, itself too}; ends the program at a cycle or an unknown library."""
    done = {}

    def visit(name, path):
        if name in path:
            sys.exit("check_includes: a cycle of libraries: " + " -> ".join([*path, name]))
        if name not in arrows:
            sys.exit(f"check_includes: winnow_{name} is linked, but there is no winnow_library({name})")
        if name not in done:
            done[name] = {name}.union(*(visit(other, [*path, name]) for other in sorted(arrows[name])))
        return done[name]

    for name in arrows:
        visit(name, [])
    return done


def fault(file, header, quoted, allowed):
    """What is wrong with `#include header` in `file` (relative to src/); None if nothing is."""
    for confined, places in CONFINED.items():
        matches = header.startswith(confined) if confined.endswith("/") else header == confined
        if matches:
            return None if any(file.startswith(place) for place in places) else f"belongs to {places or 'tests only'}"
    folder = header.split("/")[0]
    if folder in allowed:  # one of ours
        if not quoted:
            return "our headers go in quotes"
        if not (SOURCES / header).is_file():
            return "no such file"
        own = file.split("/")[0]
        return None if folder in allowed[own] else f"{own} may include {', '.join(sorted(allowed[own]))} only"
    return "in quotes, but not a path under src/" if quoted else None


def main():
    allowed = closure(direct_arrows())
    files = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cc"))
    faults = []
    for path in files:
        file = path.relative_to(SOURCES).as_posix()
        if file.split("/")[0] not in allowed:
            faults.append(f"src/{file}: its folder is no library of CMakeLists.txt")
            continue
        text = path.read_text()
        if path.suffix == ".h" and not file.endswith("-inl.h") and "#pragma once" not in text:
            faults.append(f"src/{file}: no #pragma once")
        for number, line in enumerate(text.splitlines(), 1):
            found = INCLUDE.match(line)
            why = found and fault(file, found[2], found[1] == '"', allowed)
            if why:
                faults.append(f"src/{file}:{number}: {found[2]}: {why}")
    for line in faults:
        print(line)
    print(f"check_includes: {len(files)} files, {len(faults)} wrong", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
