"""The long form: `python -m tests.e2e.chaos [--minutes 10] [--seed N] [--members 3] [--fault NAME]`."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.e2e.chaos.faults import FAULTS
from tests.e2e.chaos.group import Group
from tests.e2e.chaos.run import HEADER, Outcome, small_disk, strike


def main() -> int:
    """Rounds of all faults in random order, by one member and by several that share one population, until the time is up. 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--flow", type=float, default=4.0, help="seconds over which a segment is written")
    parser.add_argument("--fault", action="append", help="only this one (may be repeated)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}: repeat with --seed {seed}", flush=True)
    chosen = [f for f in FAULTS if not options.fault or f.name in options.fault]
    deadline = time.monotonic() + 60 * options.minutes
    outcomes: list[Outcome] = []
    round_ = 0
    while time.monotonic() < deadline and all(o.passed for o in outcomes):
        members, order = (options.members, 1)[round_ % 2], random.Random(seed + round_).sample(chosen, len(chosen))
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "checkpoints") as disk:
            group = Group(Path(folder), members, seed + round_, checkpoints=disk)
            try:
                print(f"round {round_}, {members} member{'s' * (members > 1)}\n{HEADER}", flush=True)
                group.start()
                for fault in order:
                    if time.monotonic() > deadline:
                        break
                    outcomes.append(strike(group, fault, options.flow))
                    print(outcomes[-1], flush=True)
                    if not outcomes[-1].passed:
                        print("\n".join([*outcomes[-1].lost, *outcomes[-1].invented]))
                        print("\n".join(m.said() for m in group.members))
                        break
            finally:
                group.close()
        round_ += 1
    print(
        f"{sum(o.rows for o in outcomes)} rows, {sum(o.struck for o in outcomes)} strikes of {len(outcomes)} faults, "
        f"lost {sum(len(o.lost) for o in outcomes)}, invented {sum(len(o.invented) for o in outcomes)}, "
        f"duplicated {sum(o.duplicated for o in outcomes)}"
    )
    return 0 if all(o.passed for o in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
