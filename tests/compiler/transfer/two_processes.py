"""Two transfers in the process that runs this, or in each of those that a launcher started: two_processes.py FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.compiler.transfer.conftest import SHAPE, STEPS, network, pictures, taught

import d2e

FOLDER = Path(sys.argv[1])
FACTS = {"input_shape": SHAPE, "time_steps": STEPS, "readout": "mean", "coding": "direct"}


def run(name: str, model: Any, **options: Any) -> None:
    """One of them; what this process was told is written."""
    heard: list[str] = []
    start = {key: value.tolist() for key, value in model.state_dict().items()}
    found = d2e.transfer((model, FACTS), data=pictures(240), batch=32, learning_rate=0.1, device="cpu",
                         output=str(FOLDER / name), listen=lambda *told: heard.append(told[2]), **options)
    (FOLDER / f"{name}-{os.environ.get('RANK', 0)}.json").write_text(json.dumps({
        "start": start, "heard": len(heard), "written": found.folder and str(found.folder),
        "epochs": found.facts["epochs"]}))


run("plain", taught(network(normalised=False), pictures(120), epochs=4), epochs=2)
run("normalised", taught(network(dropout=0.2), pictures(120), epochs=4), epochs=30, patience=1, augment="shift",
    precision="bfloat16", resume=str(FOLDER / "kept"))
