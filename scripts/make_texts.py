#!/usr/bin/env python3
"""Writes data/texts/: what winnow measures on when no file is named. Sources: data/texts/README.md.

    apt-get install bible-kjv jargon-text && apt-get download r-cran-janeaustenr
    scripts/make_texts.py r-cran-janeaustenr_*.deb

Lines that were wrapped for print become whole paragraphs, as in the texts models are trained on. Each text is cut at
a paragraph's end, before BYTES.
"""

import gzip
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

BYTES = 250_000
TEXTS = Path(__file__).resolve().parent.parent / "data" / "texts"


def unwrap(lines):
    """Paragraphs (blocks of lines between empty ones), each on one line."""
    blocks = re.split(r"\n[ \t]*\n", "\n".join(lines))
    return [" ".join(block.split()) for block in blocks if block.strip()]


def cut(paragraphs, separator="\n\n"):
    text = separator.join(paragraphs).encode()
    if len(text) > BYTES:
        text = text[: text.rindex(separator.encode(), 0, BYTES)]
    return text + b"\n"


def bible():
    """From Joshua on: models know the first chapters by heart. Every verse a line, its chapter and number in front."""
    lines = subprocess.run(["bible", "-f", "jos1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    return cut([re.sub(r"^[A-Z0-9][A-Za-z]*?(\d+:)", r"\1", line) for line in lines.splitlines()], "\n")


def jargon():
    """The chapters before the lexicon without the list of revisions, then the lexicon without its table of contents."""
    with gzip.open("/usr/share/doc/jargon-text/jargon.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().replace("\u00a0", " ").splitlines()

    def between(first, last):
        begin = lines.index(first)
        return lines[begin : lines.index(last, begin)]

    return cut(
        unwrap(
            between("Chapter 1. Hacker Slang and Hacker Culture", "Chapter 3. Revision History")
            + between("Chapter 4. Jargon Construction", "   Here is a framed version of the glossary.")
            + lines[lines.index("   :(TM): //") :]
        )
    )


def r_strings(data):
    """The one character vector of a serialised R object (XDR, version 3)."""
    offset = 14 + 4 + struct.unpack_from(">I", data, 14)[0]  # after the header and its encoding's name
    flags, count = struct.unpack_from(">II", data, offset)
    assert flags & 0xFF == 16, "not a character vector"
    offset += 8
    for _ in range(count):
        length = struct.unpack_from(">i", data, offset + 4)[0]
        yield data[offset + 8 : offset + 8 + length].decode()
        offset += 8 + max(length, 0)


def novel(package):
    """Persuasion, of the six novels in the package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        data = Path(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:  # objects one after the other: length, zlib stream
        stream = zlib.decompressobj()
        lines = list(r_strings(stream.decompress(data[4:])))
        if lines[0] == "Persuasion":
            return cut(unwrap(line.replace("_", "") for line in lines))
        data = stream.unused_data
    sys.exit(f"make_texts: {package}: no Persuasion in it")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, text in (("kjv", bible()), ("jargon", jargon()), ("persuasion", novel(sys.argv[1]))):
        (TEXTS / f"{name}.txt").write_bytes(text)


if __name__ == "__main__":
    main()
