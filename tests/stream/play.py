"""Play schedules by hand: `python -m tests.stream.play SEED [--count N] [--trace]`."""

import argparse
import gc
import logging
import sys
import time
from collections import Counter

from tests.stream.sim_checks import play, stored
from tests.stream.sim_oracle import compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many schedules")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR if arguments.count > 1 else logging.NOTSET)
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    seen: Counter[str] = Counter()
    wrong = 0
    started = time.process_time()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        world, problems = play(seed, stored=stored(seed))
        problems = problems or compare(world)
        seen.update(world.seen)
        if problems:
            wrong += 1
            print(f"seed {seed}: {world.plan}\n  " + "\n  ".join(problems[:5]), flush=True)
    spent = time.process_time() - started
    print(f"{arguments.count} schedules, {wrong} wrong, {spent:.1f} s of CPU, {dict(seen)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
