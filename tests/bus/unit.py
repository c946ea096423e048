"""Our unit on the simulated line: a session behind a receiver, what the master asks it, and what is right about its answers."""

from adu import block, image, one_unit, refused, units, words
from bus import talk

from mbcore import ModbusControlBlock, ModbusRtuFramer

UNIT = 1
SIZE = 256  # registers and bits of each table
QUOTED = 0xBEEF
AT_ONCE = 10  # times that a session may want to be called without time passing
LOG = 200  # calls of the session that are kept for a report

# Frames in other slaves' payloads. Each would show: none of the own requests writes this value or reads there.
QUOTES = (
    talk.frame(b"\x06" + words(1, QUOTED), UNIT),
    talk.frame(b"\x05" + words(2, 0xFF00), UNIT),
    talk.frame(b"\x10" + words(4, 1) + b"\x02" + words(QUOTED), UNIT),
    talk.frame(b"\x0f" + words(8, 8) + b"\x01\xff", UNIT),
    talk.frame(b"\x16" + words(5, 0, QUOTED), UNIT),
    talk.frame(b"\x03" + words(0, 2), UNIT),
    talk.frame(b"\x08\x00\x04\x00\x00", UNIT),  # listen only: deaf from then on
    talk.frame(b"\x06" + words(3, QUOTED), 0),  # to everybody
)


class Unit:
    """Unit 1 on `line`, with a session of the class `kind` and its `options`; it hears itself where `echo` is true.

    It looks after the line up to `lag` seconds late. Where it is the `single` one of its store, its line is told which unit it is.

    `executed(unit, table, address, values)` is called for every write that it does and where it goes silent, `replied(transmission, reply)`
    when it begins to send.
    """

    def __init__(self, line, rng, executed, replied, kind, options, echo=False, lag=0.0, single=False):
        self.line, self.clock = line, line.clock
        self._rng, self._executed, self._replied, self._echo, self._lag = rng, executed, replied, echo, lag
        self._unread = []
        tables = {name: [rng.randrange(0x10000) for _ in range(SIZE)] for name in ("hr", "ir")}
        tables |= {name: [rng.randrange(2) for _ in range(SIZE)] for name in ("co", "di")}
        tables["co"][2], tables["co"][8:16] = 0, [0] * 8  # the quotes would set these
        self.slave = image(**{name: block(values) for name, values in tables.items()})
        self.control = ModbusControlBlock()
        store = one_unit(self.slave) if single else units(u1=self.slave)
        if single:
            options["units"] = [UNIT]
        store.add_observer(executed)
        self._kind, self._options = kind, options
        self.session = kind(ModbusRtuFramer, store, self.control, **options)
        self.receiver = None
        self.noise = None  # at our receiver alone
        self._deaf = False
        self.times = []  # when each byte came off the line
        self.heard = bytearray()
        self.calls = []  # [method, when, bytes, reply]: what a report shows
        self._armed = None
        self._expired, self._at_once = -1.0, 0  # when expire was last called, and how often since then without time passing

    def hear(self, data):
        if self._deaf:
            return
        if self.noise:
            data = b"".join(self.noise.distort(byte) for byte in data)
        if not data:
            return
        self.times += [self.clock.now] * len(data)
        self.heard += data
        self.receiver.hear(data)
        if self.heard.endswith(QUOTES, -16) and self._rng.random() < 0.5:
            self.receiver.cut()

    def deliver(self, data):
        if not self._lag:
            self._call("receive", data)
            return
        self._unread.append(data)
        self.clock.after(self._lag * self._rng.random(), self._wake)

    def _wake(self):
        # First what has come, then what was due.
        unread, self._unread = self._unread, []
        for data in unread:
            self._call("receive", data)
        due = self.session.deadline()
        if due is not None and due <= self.clock.now:
            self._call("expire")
        else:
            self._arm()

    def _call(self, method, data=None):
        now = self.clock.now
        call = [method, now, data, b""]
        self.calls.append(call)
        call[3] = reply = self.session.receive(data, now) if data is not None else self.session.expire(now)
        if len(self.calls) > 2 * LOG:
            del self.calls[:LOG]
        if self.control.ListenOnly:
            self._executed(UNIT, "listen only", 0, [])
            self.control.ListenOnly = False
        if reply:
            self._deaf = not self._echo
            self._replied(self.line.transmit(self, reply), reply)
        self._arm()

    def _arm(self):
        due = self.session.deadline()
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = max(due, self.clock.now)
            self.clock.at(self._armed, self._expire, self._armed)

    def _expire(self, armed):
        if armed != self._armed:
            return  # a sooner one has been
        self._armed = None
        if self._lag:
            self.clock.after(self._lag * self._rng.random(), self._wake)
            return
        due = self.session.deadline()
        if due is None or due > self.clock.now:
            self._arm()
            return
        self._at_once = self._at_once + 1 if self._expired == self.clock.now else 0
        self._expired = self.clock.now
        assert self._at_once < AT_ONCE, f"expire is wanted at {due} again and again"
        self._call("expire")

    def sent(self, transmission):
        self._deaf = False

    def another_session(self, executed):
        """A new one with the same options and the image as it is; what it executes stays its own, and `executed` is told of it."""
        tables = {"hr": 3, "ir": 4, "co": 1, "di": 2}
        slave = image(**{name: block(self.slave.getValues(code, 0, SIZE)) for name, code in tables.items()})
        store = one_unit(slave) if "units" in self._options else units(u1=slave)
        store.add_observer(executed)
        return self._kind(ModbusRtuFramer, store, **self._options)

    # ---- what is asked of it, and what is right -------------------------------------------------------------------------------------

    def request(self):
        """A request PDU of the master's for this unit."""
        rng = self._rng
        count = rng.randint(1, 8) if rng.random() < 0.9 else rng.randint(1, 100)
        address = rng.randrange(16, SIZE - count)
        values = [rng.randrange(0x8000) for _ in range(count)]
        bits = rng.randbytes((count + 7) // 8)
        match rng.choice((1, 2, 3, 3, 3, 3, 4, 4, 5, 6, 6, 8, 15, 16, 16, 22, 23, 83)):
            case 1 | 2 | 3 | 4 as code:
                return bytes([code]) + words(address, count)
            case 5:
                return b"\x05" + words(address, rng.choice((0, 0xFF00)))
            case 6:
                return b"\x06" + words(address, values[0])
            case 8:
                return b"\x08" + words(0, values[0])
            case 15:
                return b"\x0f" + words(address, count) + bytes([len(bits)]) + bits
            case 16:
                return b"\x10" + words(address, count) + bytes([2 * count]) + words(*values)
            case 22:
                return b"\x16" + words(address, rng.randrange(0x10000), rng.randrange(0x10000))
            case 23:
                return b"\x17" + words(address, count, address, count) + bytes([2 * count]) + words(*values)
        return b"\x03" + words(SIZE - 1, 2)  # the second of them is not there: exception 02

    def broadcast(self):
        rng = self._rng
        return b"\x06" + words(rng.randrange(16, SIZE), rng.randrange(0x8000))

    def write_of(self, pdu):
        """(table, address, values) that the request `pdu` writes, None where it writes nothing."""
        address, value = int.from_bytes(pdu[1:3]), int.from_bytes(pdu[3:5])
        match pdu[0]:
            case 5:
                return "coils", address, [int(value != 0)]
            case 6:
                return "holding_registers", address, [value]
            case 15:
                return "coils", address, _bits(pdu[6:], value)
            case 16:
                return "holding_registers", address, _registers(pdu[6:])
            case 22:
                keep, put = value, int.from_bytes(pdu[5:7])
                now = self.slave.getValues(3, address, 1)[0]
                return "holding_registers", address, [now & keep | put & ~keep & 0xFFFF]
            case 23:
                return "holding_registers", int.from_bytes(pdu[5:7]), _registers(pdu[10:])
        return None

    def answer(self, pdu):
        """The response PDU to `pdu` by the image as it is."""
        code, address, count = pdu[0], int.from_bytes(pdu[1:3]), int.from_bytes(pdu[3:5])
        if code in (3, 4, 23):
            if address + count > SIZE:
                return refused(code, 2)
            return bytes([code, 2 * count]) + words(*self.slave.getValues(4 if code == 4 else 3, address, count))
        if code in (1, 2):
            values = self.slave.getValues(code, address, count)
            data = sum(int(bit) << position for position, bit in enumerate(values)).to_bytes((count + 7) // 8, "little")
            return bytes([code, len(data)]) + data
        return pdu[:5] if code in (15, 16) else pdu

    def snapshot(self):
        coils = [int(bit) for bit in self.slave.getValues(1, 0, SIZE)]
        return {"holding_registers": list(self.slave.getValues(3, 0, SIZE)), "coils": coils}




def _registers(data):
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]


def _bits(data, count):
    return [data[position // 8] >> position % 8 & 1 for position in range(count)]
