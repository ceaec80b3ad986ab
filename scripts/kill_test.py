#!/usr/bin/env python3
"""kill -9 at random moments of eval, calibrate, train and batch: nothing that was finished may be lost.

    scripts/kill_test.py [PROGRAM] [KILLS] [SEED]        default: build/release/bin/winnow 12 1

Runs each command on a tiny model of the repository to its end; then again and again, KILLS times killed and started again
with the same arguments. After every kill what was finished before (lines of the journal, files of the training folder, answers)
must still be there, the same bytes. Every end must be the same as of the run that nobody killed, but for times:
calibrate chooses by measured times, so of it only the journal is compared. Exit 1 when something was lost.
"""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = str(pathlib.Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else str(ROOT / "build/release/bin/winnow")
KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 12
RANDOM = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
MODEL = ["-m", str(ROOT / "tests/golden/models/tiny-llama.gguf"), "--threads", "1"]
TIMES = {"cold", "ttft_ms", "speedup", "date", "seconds", "prefill_ms", "decode_ms", "ms", "command"}


def lines(path):
    """Whole lines of a file; half a line at its end is what a kill may leave."""
    text = path.read_text() if path.exists() else ""
    return set(text[:text.rfind("\n") + 1].splitlines())


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items()
                if key not in TIMES and not key.endswith(("_ms", "_per_s", "timestamp"))}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


class Eval:
    name, whole_at_end = "eval", True
    arguments = ["--text", "text.txt", "--lengths", "400", "--windows", "30", "--n", "30", "--tasks", "kl,ppl,niah", "--policies",
                 "dense,two.json", "-o", "out"]

    def finished(self, folder):
        return lines(folder / "out.partial.jsonl")

    def result(self, folder):
        result = without_times(json.loads((folder / "out").read_text()))
        return [result["results"], result["samples"]]


class Calibrate:
    name, whole_at_end = "calibrate", True
    arguments = ["-f", "text.txt", "--length", "500", "--search-windows", "4", "--search-needles", "4", "--held-out-windows", "4",
                 "--held-out-needles", "4", "--max-kl", "100", "--min-niah", "0", "--nearest", "-o", "out"]

    def finished(self, folder):
        return lines(folder / "out.partial.jsonl")

    def result(self, folder):
        return json.loads((folder / "out").read_text())["version"]


class Train:
    name, whole_at_end = "train", False
    arguments = ["--data", "text.txt", "--policy", "two.json", "--windows", "30", "--validation-windows", "4", "--window-tokens",
                 "400", "--tokens-of-window", "64", "--epochs", "10", "--end-to-end", "20", "--end-to-end-interval", "5",
                 "--end-to-end-tokens", "400", "-o", "out"]

    def finished(self, folder):  # samples of windows; checkpoints move on
        return {(path.name, path.read_bytes()) for path in (folder / "out.train").glob("*-0*.safetensors")}

    def result(self, folder):
        return (folder / "out").read_bytes()


class Batch:
    name, whole_at_end = "batch", False  # its answers are there one by one
    arguments = ["prompts.jsonl", "-o", "out", "--policy", "two.json", "-n", "16"]

    def finished(self, folder):
        return lines(folder / "out")

    def result(self, folder):
        return sorted(json.dumps(without_times(json.loads(line)), sort_keys=True) for line in lines(folder / "out"))


def write_inputs(folder):
    words = lambda count: "".join("wind " if i % 7 == 0 else "and " if i % 3 == 0 else "corn " for i in range(count))
    (folder / "text.txt").write_text("".join(words(5 + i % 5) + "turns.\n" for i in range(900)))
    (folder / "two.json").write_text(json.dumps({"version": 1, "tokens": {
        "stages": [{"layer": 2, "keep": 0.5}, {"layer": 4, "keep": 0.5}], "protect_tail": {"min": 4, "share": 0.0}, "protect_head": 1}}))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": words(20 + 3 * i)}) + "\n" for i in range(60)))


def start(command, folder):
    return subprocess.Popen([PROGRAM, command.name, *MODEL, *command.arguments], cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=(folder / "err").open("w"))


def run_to_end(command, folder):
    begin = time.monotonic()
    if start(command, folder).wait() != 0:
        sys.exit(f"kill_test: {command.name} failed: {(folder / 'err').read_text()[-400:]}")
    return time.monotonic() - begin


def test(command):
    with tempfile.TemporaryDirectory() as undisturbed, tempfile.TemporaryDirectory() as killed:
        undisturbed, killed = pathlib.Path(undisturbed), pathlib.Path(killed)
        write_inputs(undisturbed)
        write_inputs(killed)
        seconds = run_to_end(command, undisturbed)
        expected, done, counts, left = command.result(undisturbed), set(), [], set()
        while len(counts) < KILLS:
            process = start(command, killed)
            try:
                code = process.wait(RANDOM.uniform(0.1, 0.7) * seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                if (killed / "out").exists() and command.whole_at_end:  # killed after its last work
                    check_result(command, killed, expected, left)
                    done = set()
                    continue
                now = command.finished(killed)
                if not done <= now:
                    sys.exit(f"kill_test: {command.name} lost {len(done - now)} of {len(done)} finished parts")
                done = now
                counts.append(len(done))
                continue
            if code != 0:
                sys.exit(f"kill_test: {command.name} failed after a kill: {(killed / 'err').read_text()[-400:]}")
            check_result(command, killed, expected, left)
            done = set()
        run_to_end(command, killed)
        check_result(command, killed, expected, left)
        print(f"{command.name}: {len(counts)} kills in runs of {seconds:.1f} s; finished parts after each: {counts}; every result "
              f"the same as of an undisturbed run; {len(left)} temporary files left")


def check_result(command, folder, expected, left):
    """Compares what a run has written, and removes it, so that the next starts anew."""
    result = command.result(folder)
    if result != expected:
        (folder.parent / "kill_test_expected.json").write_text(json.dumps(expected, default=str))
        (folder.parent / "kill_test_result.json").write_text(json.dumps(result, default=str))
        sys.exit(f"kill_test: {command.name} gave another result after kills; both are in {folder.parent}/kill_test_*.json")
    for path in folder.glob("out*"):
        if ".tmp-" in path.name:
            left.add(path.name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    for command in (Eval(), Calibrate(), Train(), Batch()):
        test(command)
