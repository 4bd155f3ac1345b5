#!/usr/bin/env python3
"""Hearing speech: Silero VAD in Tandem beside the makers' own loop in Python, with the same file and the same ONNX Runtime.

One stream, then eight at once; sides take turns. The peer runs in an environment of its own with onnxruntime and numpy, without
the torch that silero-vad wraps around them, which makes it the faster one. Needs `tandem models pull silero-vad
onnxruntime-1.22.1 speech-jfk`. Prints one JSON object.

usage: bench/vad.py [--rounds N] [--seconds N]
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, venv
from common import ROOT, machine

CACHE = pathlib.Path(os.environ.get("TANDEM_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tandem")
PEER = r"""
import json, resource, sys, time, wave
import numpy as np, onnxruntime
model, sound, seconds, streams = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
options = onnxruntime.SessionOptions()
options.inter_op_num_threads = options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"], sess_options=options)
file = wave.open(sound)
speech = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / 32768
speech = np.resize(speech, seconds * 16000)
cpu = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
rate, scores = np.array(16000, dtype="int64"), []
began, before = time.perf_counter(), cpu()
state = [np.zeros((2, 1, 128), np.float32) for _ in range(streams)]
context = [np.zeros((1, 64), np.float32) for _ in range(streams)]
for at in range(0, len(speech) - 511, 512):
    for n in range(streams):
        window = np.concatenate([context[n], speech[None, at:at + 512]], 1)
        score, state[n] = session.run(None, {"input": window, "state": state[n], "sr": rate})
        context[n] = window[:, -64:]
        if n == 0:
            scores.append(float(score[0, 0]))
audio = seconds * streams
print(json.dumps({"wall_per_audio_second": (time.perf_counter() - began) / audio, "cpu_per_audio_second": (cpu() - before) / audio, "scores": scores}))
"""


def peer():
    """A Python with the runtime of the same version."""
    folder = CACHE / "peers" / "onnxruntime-1.22.1"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime==1.22.1", "numpy"], check=True)
        (folder / "whole").touch()
    return python


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=int, default=120)
    asked = options.parse_args()
    subprocess.run(["cargo", "build", "--release", "-q", "--locked", "-p", "tandem-engine-onnx", "--example", "vad"], cwd=ROOT, check=True)
    models, python = CACHE / "models", peer()
    run = lambda command: json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    sides = {
        "tandem": lambda streams: run([ROOT / "target/release/examples/vad", asked.seconds, streams]),
        "peer": lambda streams: run([python, "-c", PEER, models / "silero-vad/silero_vad.onnx", models / "speech-jfk/jfk.wav", asked.seconds, streams]),
    }
    result = dict(machine())
    for streams in (1, 8):
        seen = {name: [] for name in sides}
        for _ in range(asked.rounds):
            for name, side in sides.items():
                seen[name].append(side(streams))
        off = max(abs(a - b) for a, b in zip(seen["tandem"][0]["scores"], seen["peer"][0]["scores"], strict=True))
        figures = {"scores_differ_by_at_most": round(off, 6)}
        for figure in ("cpu_per_audio_second", "wall_per_audio_second"):
            ratios = [ours[figure] / theirs[figure] for ours, theirs in zip(seen["tandem"], seen["peer"])]
            figures[figure] = {name: round(statistics.median(one[figure] for one in runs), 6) for name, runs in seen.items()}
            figures[figure]["ratio"] = {"median": round(statistics.median(ratios), 3), "lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}
        result[f"{streams}_streams"] = figures
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
