#!/usr/bin/env python3
"""Polls of our unit by the hundred thousand on simulated lines of every kind; ends with 1 where one went wrong.

    make soak
    make soak ARGS="--polls 1000000 --seed 7"
    make soak ARGS="--only 'errors=0.01, late=0.016' --seed 3"

Every line is simulated from a seed of its own, counted up from --seed: the same seeds give the same bits.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bus.simulation import Setting, Verdict, run

POLLS = 100_000
RUN = 100  # polls of one run
SHOWN = 5  # faults that are shown in full

BAUDRATES = (9600, 19200, 115200)
NOISES = {"clean": {}, "20 % bursts": {"bursts": 0.2}, "1e-3 errors": {"errors": 1e-3}, "1e-2 errors": {"errors": 1e-2}}
DELIVERIES = {
    f"{'USB' if late else 'UART'}, {chunk} byte{'s' * (chunk > 1)}": {"late": late, "chunk": chunk}
    for late, chunk in itertools.product((0.0, 0.016), (1, 8, 64))
}
EXTRAS = {
    "1 other slave": {},
    "8 other slaves": {"slaves": 8},
    "a stray 00 around 30 % of the frames": {"strays": 0.3, "slaves": 8},
    "own echo": {"echo": True},
    "user-defined functions": {"unknown": 0.2, "slaves": 8},
    "answers after the master's time-out": {"tardy": 0.05, "slaves": 8},
    "a machine that is up to 2 ms late": {"lag": 0.002},
    "single=True with units=[1]": {"single": True, "slaves": 8},
    "errors at our receiver alone": {"ours_alone": True},
    "every payload quotes a request for us": {"quoting": 1.0},
}
COLUMNS = ("answered / intact", "in noise", "broken", *Verdict.FAULTS[1:], "worst ms")


def all_settings():
    """(names of line and of extra, setting) for all combinations."""
    for baudrate, (noise, one), (delivery, two), (extra, three) in itertools.product(
        BAUDRATES, NOISES.items(), DELIVERIES.items(), EXTRAS.items()
    ):
        yield (f"{baudrate:6} Bd, {noise}, {delivery}", extra), Setting(baudrate=baudrate, **one, **two, **three)


def parse_setting(text):
    """'errors=0.01, late=0.016' -> Setting."""
    known = {field.name: field.type for field in fields(Setting)}
    given = {}
    for word in filter(None, map(str.strip, text.split(","))):
        name, _, value = word.partition("=")
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        given[name] = value == "True" if known[name] is bool else known[name](value)
    return Setting(**given)


def judge(job):
    names, setting, seed, polls = job
    verdict = run(setting, seed, polls)
    faults = [f"{setting}, seed {seed}: {complaint}\n{complaint.program()}" for complaint in verdict.complaints[:SHOWN]]
    return names, replace(verdict, complaints=faults)


def row(name, verdict):
    counts = verdict.counts
    ratio = f"{counts['answered']} / {counts['intact']}"
    noise = f"{counts['in noise answered']} / {counts['in noise']}"
    cells = (ratio, noise, counts["broken"], *(counts[fault] for fault in verdict.FAULTS[1:]), f"{1000 * verdict.worst:.1f}")
    return f"{name:46}" + "".join(f"{cell:>{len(head) + 2}}" for head, cell in zip(COLUMNS, cells, strict=True))


def show(title, verdicts):
    print(f"\n{title:46}" + "".join(f"  {head}" for head in COLUMNS))
    for name, verdict in verdicts.items():
        print(row(name, verdict))


def soak(polls, seed, only=None, processes=None):
    """Simulate `polls` polls; the Verdict on all of them."""
    settings = [(("this line", "this"), only)] if only else list(all_settings())
    # Every combination once around, as often as it takes.
    jobs = [(*settings[number % len(settings)], seed + number, RUN) for number in range(max(1, round(polls / RUN)))]
    by_line, by_extra = defaultdict(Verdict), defaultdict(Verdict)
    begun = shown = time.monotonic()
    with multiprocessing.get_context("forkserver").Pool(processes or os.cpu_count()) as pool:
        for number, ((line, extra), verdict) in enumerate(pool.imap_unordered(judge, jobs, chunksize=4), 1):
            by_line[line] += verdict
            by_extra[extra] += verdict
            if time.monotonic() > shown + 5:
                shown = time.monotonic()
                print(f"{number * RUN} of {len(jobs) * RUN} polls, {shown - begun:.0f} s", file=sys.stderr, flush=True)
    order = [names for names, _ in settings]
    show("line", {line: by_line[line] for line, _ in order if line in by_line})
    show("and", {extra: by_extra[extra] for _, extra in order if extra in by_extra})
    total = sum(by_line.values(), Verdict())
    show("", {"all": total})
    # The shortest first: they tell the most.
    for fault in sorted(total.complaints, key=len)[:SHOWN]:
        print(f"\n{fault}")
    return total


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=int, default=POLLS, help=f"polls of our unit, in all ({POLLS})")
    parser.add_argument("--seed", type=int, default=1, help="of the first run (1)")
    parser.add_argument("--only", type=parse_setting, help="lines of this kind alone, by the fields of Setting in simulation.py")
    parser.add_argument("--processes", type=int, help="at once (as many as there are processors)")
    given = parser.parse_args(words)
    total = soak(given.polls, given.seed, given.only, given.processes)
    print("\nall is well" if total.faultless else "\nthis must not be", flush=True)
    return 0 if total.faultless else 1


if __name__ == "__main__":
    sys.exit(main())
