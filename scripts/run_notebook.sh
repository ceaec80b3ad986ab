#!/usr/bin/env bash
# Runs examples/policy_evaluation.ipynb in Jupyter, on a text of the repository, and keeps its output as a page and a notebook.
#   scripts/run_notebook.sh PYTHON MODEL [FOLDER [NAME=VALUE...]]
# PYTHON has winnow, nbconvert, ipykernel and matplotlib (pip install .[test]); NAME=VALUE replaces a line of the first cell
# (VALUE is Python). Exit 1 when a cell fails.
set -euo pipefail
[[ $# -ge 2 ]] || { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
python="$1" model="$(realpath "$2")" folder="${3:-build/notebook}"
shift $(($# < 3 ? $# : 3))
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$folder"
"$python" - "$folder/policy_evaluation.ipynb" "model=${model@Q}" "text_file='$PWD/data/texts/persuasion.txt'" "length=300" "windows=2" \
  "policies=['dense', 'pooled=0.9']" "$@" <<'PY'
import json, sys

path, *values = sys.argv[1:]
notebook = json.load(open("examples/policy_evaluation.ipynb"))
cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
cell["source"] = "\n".join(value.replace("=", " = ", 1) for value in values)
json.dump(notebook, open(path, "w"))
PY
"$python" -m nbconvert --to notebook --execute --inplace "$folder/policy_evaluation.ipynb"
"$python" -m nbconvert --to html "$folder/policy_evaluation.ipynb"
