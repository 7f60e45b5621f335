"""Writes a program's target folder: configuration, runner for a board, the network for sinabs.

Equal networks give equal bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from d2e.backends.speck import events
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.emission import sinabs_text
from d2e.compiler.files import write_npz
from d2e.ir import encoding

_SKELETON = ("deploy.py", "samna_board.py", "session.py")
_README = """A network for {chip}, compiled by d2e. It uses {count} of 9 cores.

speck_config.json  what is written to the chip, under samna's attribute names, x before y; and how to read its spikes
deploy.py          runs it on a development kit (needs samna; never run on a board):
                     python deploy.py --input frames.npy --output result.npz --monitor all --power
                     python deploy.py --camera 5 --output result.npz    the chip's camera for 5 s, if compiled for it
                     python deploy.py --check                           only lets samna validate the configuration
{sinabs}

Core of each population:
{cores}
"""


def emit(configuration: Configuration, folder: Path) -> dict[str, object]:
    """Write the target folder (made if it is not there).

    Args:
        configuration: of a placed network.
        folder: receives speck_config.json, deploy.py and what it imports, README.txt, and sinabs_model.py with its
            sinabs_weights.npz, or sinabs_model.txt with what prevents them.

    Returns:
        ``cores``: population -> cores; ``sinabs_model``: "written", or what prevents it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speck_config.json").write_text(configuration.to_json(), encoding="utf-8")
    skeleton = Path(__file__).resolve().parent / "skeleton"
    for name in _SKELETON:
        shutil.copyfile(skeleton / name, folder / name)
    shutil.copyfile(events.__file__, folder / "events.py")
    shutil.copyfile(encoding.__file__, folder / "encoder.py")
    obstacle = _sinabs(configuration, folder)
    cores = {name: sinabs_text.cores(placed) for name, placed in configuration.populations.items()}
    about = "sinabs_model.py    the quantised network for sinabs 3.1.3" if obstacle is None else (
        "sinabs_model.txt   why there is no sinabs model")
    (folder / "README.txt").write_text(_README.format(
        chip=configuration.chip, count=len(configuration.cnn_layers), sinabs=about,
        cores="\n".join(f"  {name}: {', '.join(map(str, used))}" for name, used in cores.items()),
    ), encoding="utf-8")
    return {"cores": cores, "sinabs_model": obstacle or "written"}


def _sinabs(configuration: Configuration, folder: Path) -> str | None:
    """Write the sinabs model; what prevents it, if anything does."""
    try:
        text, arrays = sinabs_text.model(configuration)
    except sinabs_text.NotSinabs as obstacle:
        text = f"There is no sinabs model of this network: {obstacle}.\n"
        (folder / "sinabs_model.txt").write_text(text, encoding="utf-8")
        return str(obstacle)
    (folder / "sinabs_model.py").write_text(text, encoding="utf-8")
    write_npz(folder / "sinabs_weights.npz", arrays)
    return None
