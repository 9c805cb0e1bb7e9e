"""How well the detectors detect, on real data, through `telltale backtest`.

    python -m benchmarks.quality [--data DIR] [--sets smd asd azure sea census prompts drift_null extraction campaign poisoning nulls] [--out FILE] [--quick]

DIR is laid out as ../shared/data, the default. VUS-PR needs the authors' package in `.venv-quality`, which `make quality` makes; without
it the hardware sets are run and VUS-PR is left out, said so. `--quick`: fewer windows, seeds and accounts for extraction and
campaigns.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quality import campaigns, drift, extraction, hardware, nulls, performance, poisoning

ROOT = Path(__file__).resolve().parent.parent.parent
SETS = ("smd", "asd", "azure", "sea", "census", "prompts", "drift_null", "extraction", "campaign", "poisoning", "nulls")


def main() -> None:
    """Run the sets that were asked for; figures go to the terminal and, as JSON, to the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "quality.json")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"--data: {options.data} is not there")
    vus = ROOT / ".venv-quality" / "bin" / "python"
    vus_python = vus if vus.exists() else None
    if vus_python is None and {"smd", "asd"} & set(options.sets):
        print("no .venv-quality: VUS-PR is left out (`make quality` makes it)")
    figures: dict[str, Any] = {"machine": f"{platform.machine()}, Python {platform.python_version()}"}
    with tempfile.TemporaryDirectory() as work:
        for name in options.sets:
            folder = Path(work) / name
            folder.mkdir()
            if name in ("smd", "asd"):
                figures[name] = hardware.run(options.data, folder, vus_python, name)
            elif name == "azure":
                figures[name] = drift.run(options.data, folder)
            elif name in ("sea", "census"):
                figures[name] = (performance.sea if name == "sea" else performance.census)(options.data, folder)
            elif name == "prompts":
                figures[name] = drift.prompts(options.data, folder)
            elif name == "drift_null":
                figures[name] = drift.null_streams(options.data, folder, 40_000 if options.quick else drift.NULL_ROWS)
            elif name == "nulls":
                figures[name] = nulls.run(options.data, folder, (50.0,) if options.quick else (1.0, 50.0))
                print(nulls.shown(figures[name]))
            elif name == "campaign":
                quick: dict[str, Any] = (
                    {"benign": 4000, "cases": ((100, 1.0), (100, 0.5)), "seeds": (0,), "days": 2} if options.quick else {}
                )
                figures[name] = campaigns.run(options.data, folder, **quick)
            elif name == "poisoning":
                figures[name] = poisoning.run(options.data, folder, (3,) if options.quick else (3, 4, 5))
            elif options.quick:
                figures[name] = extraction.llm(options.data, folder, (0,), 200, 40) + extraction.classifier(options.data, folder, (0,))
            else:
                figures[name] = extraction.run(options.data, folder)
            print(json.dumps({name: figures[name]}, indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
