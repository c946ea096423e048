#!/usr/bin/env python3
"""A whole RS-485 line on this machine: other slaves, a master, noise, and pseudo-terminals for the programs that you want to try on it.

    rehearse.py
        two ends, nothing else: open one with your server, the other with your master
    rehearse.py --slaves 5,6 --errors 0.001
        two more slaves, and a byte in a thousand is wrong
    rehearse.py --ptys 1 --slaves 5 --poll 1:3:0:10 --poll 1:1:0:8 --count 500
        a master too, who asks your server at the one end and the slaves in turn

The names of the ends are printed first; the master begins when you press Enter. Ctrl-C ends it. docs/bus-rehearsal.md tells more.
"""

import argparse
import itertools
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adu import words
from bus import talk
from bus.ptys import Bus
from bus.stations import Poll

FUNCTIONS = range(1, 5)  # reads: what can be asked again and again


def numbers(text):
    """'5,6' -> [5, 6]"""
    units = [int(word) for word in text.split(",") if word]
    if not all(1 <= unit <= 247 for unit in units):
        raise argparse.ArgumentTypeError(f"{text!r} holds a number that is no unit id: they are 1..247")
    return units


def poll_of(text):
    """'1:3:0:10' -> (unit, request PDU)"""
    try:
        unit, function, address, quantity = map(int, text.split(":"))
        if unit not in range(1, 248) or function not in FUNCTIONS:
            raise ValueError
        return unit, bytes([function]) + words(address, quantity)
    except (ValueError, OverflowError):
        sentence = f"{text!r} is not UNIT:FUNCTION:ADDRESS:QUANTITY with a function of 1 to 4, like 1:3:0:10"
        raise argparse.ArgumentTypeError(sentence) from None


class Tally:
    """What came of the master's polls, by unit."""

    def __init__(self):
        self.units = defaultdict(lambda: dict.fromkeys(("asked", "answered", "exceptions", "damaged", "silent", "worst"), 0))

    def closed(self, poll):
        row = self.units[poll.unit]
        row["asked"] += 1
        heard = bytes(poll.heard).lstrip(b"\0")
        length = talk.answer_length(poll.pdu, heard)
        if not heard:
            row["silent"] += 1
        elif length is None or heard[0] != poll.unit or not talk.is_frame(heard[:length]):
            row["damaged"] += 1
        else:
            row["exceptions" if heard[1] & 0x80 else "answered"] += 1
            row["worst"] = max(row["worst"], poll.answered - poll.transmission.frame_end)

    def show(self):
        if self.units:
            print("\nunit   asked  answered  exceptions  damaged  silent  worst ms")
        for unit, row in sorted(self.units.items()):
            print(f"{unit:4}{row['asked']:8}{row['answered']:10}{row['exceptions']:12}{row['damaged']:9}{row['silent']:8}"
                  f"{1000 * row['worst']:10.1f}")


def plan(polls, slaves, talker, count):
    """The polls in turn, a request to one of the slaves before each."""
    units = itertools.cycle(slaves)
    for unit, pdu in itertools.islice(itertools.cycle(polls), count):
        if slaves:
            yield Poll(next(units), talker.request())
        yield Poll(unit, pdu)


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baudrate", type=int, default=19200, help="of the line, whatever the ends are set to (19200, 11 bits a byte)")
    parser.add_argument("--ptys", type=int, default=2, metavar="N", help="ends for programs (2)")
    parser.add_argument("--slaves", type=numbers, default=[], metavar="UNITS", help="simulated slaves, like 5,6, who answer every function")
    parser.add_argument("--poll", type=poll_of, action="append", default=[], metavar="UNIT:FUNCTION:ADDRESS:QUANTITY",
                        help="be the master and ask this, again and again; may be given more than once")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many of these polls")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="S", help="of that master (1 s)")
    parser.add_argument("--errors", type=float, default=0.0, metavar="RATE", help="bytes flipped, lost or inserted, per byte")
    parser.add_argument("--bursts", type=float, default=0.0, metavar="SHARE", help="share of frames with noise in them or after them")
    parser.add_argument("--strays", type=float, default=0.0, metavar="SHARE", help="share of frames with a 00 directly before, or after")
    parser.add_argument("--echo", action="store_true", help="the ends hear what they send")
    parser.add_argument("--chunk", type=int, default=1, metavar="N", help="bytes that the ends get at once (1)")
    parser.add_argument("--late", type=float, default=0.0, metavar="MS", help="milliseconds between an end's packets; 16: a USB adapter")
    parser.add_argument("--seed", type=int, default=0, help="of noise and slaves (0)")
    parser.add_argument("--record", metavar="FILE", help="write who sent what when; - is the screen")
    return parser


def write_record(bus, file):
    names = {bus.slaves: "slaves", bus.master: "master", None: "noise"}
    for one in bus.record:
        heard = "" if one.heard == one.data else f"  heard {one.heard.hex(' ')}"
        collided = "  collision" if one.collided else ""
        print(f"{one.start:12.6f}  {names.get(one.sender, one.sender)!s:12}  {one.data.hex(' ')}{heard}{collided}", file=file)


def main(argv=None):
    given = parser().parse_args(argv)
    tally = Tally()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    talker = talk.Talk(random.Random(given.seed))
    polls = plan(given.poll, given.slaves, talker, given.count) if given.poll else None
    bus = Bus(given.baudrate, given.ptys, given.slaves, polls=polls, timeout=given.timeout, errors=given.errors, bursts=given.bursts,
              strays=given.strays, echo=given.echo, chunk=given.chunk, late=given.late / 1000, seed=given.seed, closed=tally.closed)
    with bus:
        for path in bus.paths:
            print(path, flush=True)
        try:
            if given.poll:
                print("Enter lets the master begin: ", end="", file=sys.stderr, flush=True)
                sys.stdin.readline()
                bus.begin()
            while not bus.wait(1):
                pass
        except KeyboardInterrupt:
            print(file=sys.stderr)
        tally.show()
        if given.record == "-":
            write_record(bus, sys.stdout)
        elif given.record:
            with open(given.record, "w") as file:
                write_record(bus, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
