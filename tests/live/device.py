"""The device that the live tests talk to: a server in a process of its own.

Run as a program, it serves the image below as told by the JSON in its argument, says on a line that it is ready, then shows its values to
whoever asks on standard input, and stops when standard input ends. Imported, it gives `Device`, the test's handle on such a process.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import mbcore
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server.options import LINE_KEYWORDS, TCP_KEYWORDS, TLS_KEYWORDS, UDP_KEYWORDS

HOST = "127.0.0.1"
PATIENCE = 20

COILS = [int(index % 3 == 0) for index in range(2000)]
DISCRETE_INPUTS = [index % 2 for index in range(2000)]
HOLDING_REGISTERS = [(index * 259) & 0xFFFF for index in range(200)]
INPUT_REGISTERS = [0xFFFF - index for index in range(200)]
FILE = [1000 + index for index in range(20)]
QUEUE = [0x01B8, 0x1284]
QUEUE_POINTER = 0x04DE
EXCEPTION_STATUS = 0x6D
IDENTITY = {0x00: "ACME", 0x01: "X1", 0x02: "1.2", 0x04: "Pump", 0x80: "north hall"}
# Unit 2's only table begins here: what is below and above does not exist.
SECOND_UNIT_START = 100


@dataclass(frozen=True)
class Transport:
    """What carries the bytes (`tcp`, `udp`, `tls`, `serial`) and the framer's name."""

    kind: str
    framer: str


TRANSPORTS = {
    "tcp": Transport("tcp", "socket"),
    "udp": Transport("udp", "socket"),
    "tls": Transport("tls", "socket"),
    "bare-tls": Transport("tls", "tls"),
    "rtu": Transport("serial", "rtu"),
    "ascii": Transport("serial", "ascii"),
    "binary": Transport("serial", "binary"),
    "rtu-over-tcp": Transport("tcp", "rtu"),
    "ascii-over-tcp": Transport("tcp", "ascii"),
    "binary-over-tcp": Transport("tcp", "binary"),
    "rtu-over-udp": Transport("udp", "rtu"),
}


def has_choice(transport):
    """Whether either Twisted or a compiled loop can carry it."""
    keywords = {"tcp": TCP_KEYWORDS, "udp": UDP_KEYWORDS, "tls": TLS_KEYWORDS, "serial": LINE_KEYWORDS}
    return "engine" in keywords[TRANSPORTS[transport].kind]


class Device:
    """A server process; for a serial transport at the far end of `line`."""

    def __init__(self, transport, *, line=None, certificates=None, **keywords):
        self.transport = TRANSPORTS[transport]
        self.host = HOST
        self.path = line.client_end if line else None
        self.certificates = certificates
        if line:
            keywords.update(port=line.device_end, baudrate=19200)
        if certificates:
            keywords.update(certificates.of_server())
        order = json.dumps({"kind": self.transport.kind, "framer": self.transport.framer, "keywords": keywords})
        # The device runs the mbcore that the test runs, installed or not.
        environment = {**os.environ, "PYTHONPATH": str(Path(mbcore.__file__).parents[1])}
        command = [sys.executable, "-P", __file__, order]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment)
        try:
            self.port = self._hear()["port"]
        except BaseException:
            self.kill()
            raise

    @property
    def address(self):
        return self.host, self.port

    @property
    def pid(self):
        return self._process.pid

    def values(self, function_code, address, count, unit=1):
        """The values as the application sees them, read in a thread of its own."""
        print(json.dumps(["values", unit, function_code, address, count]), file=self._process.stdin)
        return self._hear()

    def file(self, number, unit=1):
        print(json.dumps(["file", unit, number]), file=self._process.stdin)
        return self._hear()

    def resident(self):
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def descriptors(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def running(self):
        return self._process.poll() is None

    def stop(self):
        """Ask it to stop; its exit code."""
        self._process.stdin.close()
        try:
            return self._process.wait(PATIENCE)
        finally:
            self.kill()

    def kill(self):
        self._process.kill()
        self._process.wait()
        # What was still to be written to a dead process is lost, and that is all right.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _hear(self):
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError(f"the device said nothing (exit code {self._process.poll()})")
        return json.loads(line)


class BrokenBlock(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        raise OSError("the sensor does not answer")


def build_context(alone):
    """Unit 1 with every table, files and a queue; unit 2 with a few holding registers high up; unit 3 whose sensor is broken.

    `alone`: the first of them answers for every unit.
    """
    first = ModbusSlaveContext(
        co=ModbusSequentialDataBlock(0, COILS),
        di=ModbusSequentialDataBlock(0, DISCRETE_INPUTS),
        hr=ModbusSequentialDataBlock(0, HOLDING_REGISTERS),
        ir=ModbusSequentialDataBlock(0, INPUT_REGISTERS),
        zero_mode=True,
        files={4: FILE},
        fifos={QUEUE_POINTER: QUEUE},
    )
    if alone:
        return ModbusServerContext(slaves=first, single=True)
    second = ModbusSlaveContext(hr=ModbusSequentialDataBlock(SECOND_UNIT_START, [7] * 10), zero_mode=True)
    third = ModbusSlaveContext(hr=BrokenBlock(0, [0]), zero_mode=True)
    return ModbusServerContext(slaves={1: first, 2: second, 3: third}, single=False)


def start(kind, framer, context, keywords):
    from mbcore import server

    identity = mbcore.ModbusDeviceIdentification(info=IDENTITY)
    if kind != "serial":
        keywords["address"] = (HOST, 0)
    # MBAP is what the functions of the network have to take by themselves.
    if framer != "socket":
        keywords["framer"] = getattr(mbcore, f"Modbus{framer.capitalize()}Framer")
    start_server = getattr(server, f"Start{kind.capitalize()}Server")
    return start_server(context, identity=identity, defer_reactor_run=True, **keywords)


def converse(context, stop):
    """Answers standard input line by line, in a thread beside the reactor's, and stops the server at its end."""
    for line in sys.stdin:
        match json.loads(line):
            case ["values", unit, function_code, address, count]:
                answer = [int(value) for value in context[unit].getValues(function_code, address, count)]
            case ["file", unit, number]:
                answer = list(context[unit].files[number])
        print(json.dumps(answer), flush=True)
    stop()


def main(order):
    from twisted.internet import reactor

    from mbcore.server import StopServer

    # The bare PDU carries no unit id.
    context = build_context(alone=order["framer"] == "tls")
    handle = start(order["kind"], order["framer"], context, order["keywords"])
    handle.control.exception_status = EXCEPTION_STATUS

    def ready():
        print(json.dumps({"port": handle.port}), flush=True)
        threading.Thread(target=converse, args=(context, StopServer), daemon=True).start()

    reactor.callWhenRunning(ready)
    reactor.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
