#!/usr/bin/env python3
"""Writes data/texts/: what winnow measures on when no file is named. Sources: data/texts/README.md.

    apt-get install bible-kjv jargon-text && apt-get download r-cran-janeaustenr
    scripts/make_texts.py r-cran-janeaustenr_*.deb
    scripts/make_texts.py r-cran-janeaustenr_*.deb --train FOLDER     other parts of the same sources, to train scorers on

Lines that were wrapped for print become whole paragraphs, as in the texts models are trained on. Each text is cut at
a paragraph's end, before BYTES.
"""

import argparse
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


def cut(paragraphs, separator="\n\n", train=False):
    """The first BYTES; for training what follows them, twice as much, and no paragraph of both."""
    text = separator.join(paragraphs).encode()
    end = text.rindex(separator.encode(), 0, BYTES) if len(text) > BYTES else len(text)
    if train:
        text = text[end:].lstrip()
        end = text.rindex(separator.encode(), 0, 2 * BYTES) if len(text) > 2 * BYTES else len(text)
    return text[:end].rstrip() + b"\n"


def bible(train):
    """From Joshua on: models know the first chapters by heart. Every verse a line, its chapter and number in front."""
    lines = subprocess.run(["bible", "-f", "jos1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    return cut([re.sub(r"^[A-Z0-9][A-Za-z]*?(\d+:)", r"\1", line) for line in lines.splitlines()], "\n", train)


def jargon(train):
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
        ),
        train=train,
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


def novel(package, title):
    """One of the six novels in the package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        data = Path(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:  # objects one after the other: length, zlib stream
        stream = zlib.decompressobj()
        lines = list(r_strings(stream.decompress(data[4:])))
        if lines[0].upper() == title.upper():
            return cut(unwrap(line.replace("_", "") for line in lines))
        data = stream.unused_data
    sys.exit(f"make_texts: {package}: no {title} in it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="r-cran-janeaustenr_*.deb")
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    train = args.train is not None
    folder = args.train or TEXTS
    folder.mkdir(parents=True, exist_ok=True)
    title = "Emma" if train else "Persuasion"
    for name, text in (("kjv", bible(train)), ("jargon", jargon(train)), (title.lower(), novel(args.package, title))):
        (folder / f"{name}.txt").write_bytes(text)


if __name__ == "__main__":
    main()
