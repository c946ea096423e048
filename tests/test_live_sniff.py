"""`mbcore sniff` beside a master and our server on one line: what it prints, how it ends, and its capture under tshark's dissector."""

import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import serial
from adu import ENVIRONMENT
from live import programs, raw
from live.device import Device
from live.party import PartyLine
from test_live_dissector import EXCEPTIONS, REQUESTS

from mbcore import ModbusAsciiFramer, ModbusBinaryFramer
from mbcore.errors import FramingError
from mbcore.framer import build_request, parse_response

pytestmark = pytest.mark.live

PATIENCE = 20
# Unit 9 does not answer on a line.
ASKED = [(unit, pdu) for unit, pdu in REQUESTS if unit != 9]
READ = bytes.fromhex("03 0001 0001")


class Sniffing:
    """A process that runs `mbcore sniff`."""

    def __init__(self, path, *words):
        command = [sys.executable, "-P", "-m", "mbcore", "sniff", path, *words]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.said = ""
        self.wait_for("; time 0 is .*\n" if "--quiet" in words else "function\n")

    def wait_for(self, pattern, count=1):
        """Until so many lines like this were printed."""
        while len(re.findall(pattern, self.said)) < count:
            readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            said = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            if not said:
                self.process.kill()
                pytest.fail(f"it says no more than {self.said}{self.process.stderr.read().decode()}")
            self.said += said.decode()

    def send(self, sign):
        self.process.send_signal(sign)

    def end(self):
        """(exit code, what it said in all, what it said on standard error)"""
        said, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, self.said + said.decode(), errors.decode()

    def table(self):
        """Unit id -> the row's numbers, of the last table."""
        rows = self.said.rpartition("max ms\n")[2].splitlines()
        return {int(row.split()[0]): row.split()[1:] for row in rows if row.strip()[:1].isdigit()}


@pytest.fixture
def line():
    party = PartyLine("client_end", "device_end", "sniffer_end")
    yield party
    party.close()


@pytest.fixture
def serve(request, line):
    def start(framer="rtu"):
        device = Device(framer, line=line)
        request.addfinalizer(device.kill)
        return device

    return start


@pytest.fixture
def sniff(request, line):
    def start(*words):
        sniffing = Sniffing(line.sniffer_end, *map(str, words))
        request.addfinalizer(sniffing.process.wait)
        request.addfinalizer(sniffing.process.kill)
        return sniffing

    return start


def ask(port, adu, whole):
    """Send one request and wait until its answer is whole."""
    port.write(adu)
    heard = b""
    while not whole(heard, port):
        more = port.read(1)
        assert more, f"no answer to {adu.hex()}"
        heard += more
    return heard


def rtu_is_whole(data, port):
    return len(data) > 4 and raw.crc16(data[:-2]) == data[-2:] and not select.select([port], [], [], 0.03)[0]


def ask_all(line, requests):
    with serial.Serial(line.client_end, 19200, timeout=PATIENCE) as port:
        for unit, pdu in requests:
            ask(port, raw.rtu(pdu, unit), rtu_is_whole)


def test_everything_on_the_line_is_printed_and_counted(line, serve, sniff):
    serve()
    sniffing = sniff("--timeout", 2)
    ask_all(line, ASKED)
    with serial.Serial(line.client_end, 19200) as port:
        port.write(raw.rtu(READ, 9))
        sniffing.wait_for(r" 9  request .*\n")
    sniffing.wait_for(" response ", len(ASKED))
    # Until the table tells that unit 9 has not answered.
    for count in range(1, 1000):
        sniffing.send(signal.SIGUSR1)
        sniffing.wait_for("damaged frames: .*\n", count)
        if sniffing.table()[9][3] == "1":
            break
        time.sleep(0.05)
    sniffing.send(signal.SIGINT)
    code, said, errors = sniffing.end()
    sniffing.said = said
    assert (code, errors) == (0, "")
    assert said.count(" request ") == len(ASKED) + 1
    assert said.count(" response ") == len(ASKED)
    assert " bad " not in said
    assert "24 read fifo queue: registers 440 4740\n" in said
    assert "04 read input registers: registers 65535 65534 65533 65532 65531 65530 65529 65528 ... (125)\n" in said
    assert "exception 02 illegal data address\n" in said
    first = sum(unit == 1 for unit, _ in ASKED)
    refused = said.count(": exception ") - 1
    assert sniffing.table()[1][:6] == [str(first), str(first - refused), str(refused), "0", "0", "0"]
    assert sniffing.table()[3][:6] == ["1", "0", "1", "0", "0", "0"]
    assert sniffing.table()[9] == ["1", "0", "0", "1", "0", "0", "-", "-", "-"]
    assert said.splitlines()[-1] == "damaged frames: 0, discarded bytes: 0"


@pytest.mark.parametrize("framer", ["ascii", "binary"])
def test_other_framings(framer, line, serve, sniff):
    kind = {"ascii": ModbusAsciiFramer, "binary": ModbusBinaryFramer}[framer]
    serve(framer)
    sniffing = sniff("--framer", framer, "--count", 4, "-b", 9600, "-m", "8N1")

    def whole(data, _port):
        try:
            return parse_response(kind, data) is not None
        except FramingError:
            return False

    with serial.Serial(line.client_end, 9600, timeout=PATIENCE) as port:
        for _ in range(2):
            ask(port, build_request(kind, READ, 1), whole)
    code, said, _ = sniffing.end()
    assert code == 0
    assert said.count("1  request   03 read holding registers: address 1, quantity 1\n") == 2
    assert said.count("1  response  03 read holding registers: registers 259\n") == 2


def test_nothing_is_sent(line, sniff):
    """Whatever it hears, and when it opens and closes."""
    sniffing = sniff()
    sent = raw.rtu(READ) + b"\0\xff" + raw.rtu(READ, 0)
    with (
        serial.Serial(line.client_end, 19200, timeout=PATIENCE) as client,
        serial.Serial(line.device_end, 19200, timeout=PATIENCE) as device,
    ):
        client.write(sent)
        sniffing.wait_for(" request ", 2)
        sniffing.send(signal.SIGTERM)
        assert sniffing.end()[0] == 0
        assert device.read(len(sent)) == sent
        # When the second of these is there, so is all that was said before.
        for last in (b"1", b"2"):
            for one, other in ((device, client), (client, device)):
                one.write(last)
                assert other.read(1) == last


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_the_table(sign, sniff):
    sniffing = sniff("--quiet")
    sniffing.send(sign)
    code, said, errors = sniffing.end()
    assert (code, errors) == (0, "")
    assert "damaged frames: 0, discarded bytes: 0\nNothing was heard" in said


OTHER_THREAD = """
import os, signal, sys, threading, time
from pathlib import Path
import mbcore.cli, mbcore.sniff

# Not the process': an emulator makes that up.
STATE = Path(f"/proc/self/task/{os.getpid()}/stat")

def send():
    # When the main thread waits, and not for this one.
    waits = 0
    while waits < 10:
        time.sleep(0.01)
        waits = waits + 1 if STATE.read_text().rpartition(")")[2].split()[0] == "S" else 0
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

class Sniffer(mbcore.sniff.Sniffer):
    def run(self):
        threading.Thread(target=send).start()
        super().run()

mbcore.sniff.Sniffer = Sniffer
sys.exit(mbcore.cli.main(["sniff", sys.argv[1], "--quiet"]))
"""


def test_a_signal_ends_it_that_interrupts_no_wait(line):
    """As one that comes before the wait begins; here another thread has it."""
    command = [sys.executable, "-P", "-c", OTHER_THREAD, line.sniffer_end]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "Nothing was heard" in done.stdout


def test_usr1_prints_the_table_and_goes_on(line, sniff):
    sniffing = sniff()
    with serial.Serial(line.client_end, 19200) as port:
        port.write(raw.rtu(READ))
        sniffing.wait_for(" request ")
        sniffing.send(signal.SIGUSR1)
        sniffing.wait_for("damaged frames")
        port.write(raw.rtu(READ))
        sniffing.wait_for(" request ", 2)
    sniffing.send(signal.SIGTERM)
    assert sniffing.end()[0] == 0


def test_a_reader_that_has_seen_enough_ends_it_quietly(line, sniff):
    sniffing = sniff()
    sniffing.process.stdout.close()
    with serial.Serial(line.client_end, 19200) as port:
        port.write(raw.rtu(READ))
        assert sniffing.process.wait(PATIENCE) == 0
    assert sniffing.process.stderr.read() == b""


def test_a_port_that_goes_is_one_sentence_after_the_table(request):
    master, port = os.openpty()
    sniffing = Sniffing(os.ttyname(port))
    request.addfinalizer(sniffing.process.kill)
    os.close(port)
    os.close(master)
    code, said, errors = sniffing.end()
    assert code == 1
    assert "damaged frames" in said
    assert re.fullmatch(r"mbcore: the serial port /dev/pts/\d+ is gone: plug the adapter in and start again\n", errors)


# ---- Wireshark ----


class Opened:
    """A capture as tshark reads it, opened as `mbcore sniff` says."""

    def __init__(self, tshark, said):
        program, *words = re.search("^Open the capture:  (.*)$", said, re.MULTILINE)[1].split()
        assert program == "wireshark"
        self._command = [tshark, *words[:-1], "-r", words[-1]]

    def show(self, only, *fields):
        words = [word for field in fields for word in ("-e", field)]
        run = [*self._command, "-Y", only, "-T", "fields", "-E", "separator=|", "-E", "aggregator=;", *words]
        return [line.split("|") for line in subprocess.run(run, capture_output=True, text=True, timeout=50, check=True).stdout.splitlines()]


@pytest.fixture
def tshark():
    return programs.need("tshark", "tshark")


def test_tshark_decodes_both_directions(line, serve, sniff, tshark, tmp_path):
    path = tmp_path / "x.pcap"
    serve()
    sniffing = sniff("--quiet", "--pcap", path, "--count", 2 * len(ASKED) + 1)
    ask_all(line, ASKED)
    with serial.Serial(line.client_end, 19200) as port:
        port.write(b"\xa5" * 6)
        code, said, _ = sniffing.end()
    assert code == 0
    opened = Opened(tshark, said)
    # A request of unit id, function code and CRC alone is too short for Wireshark's dissector.
    long_enough = [(unit, pdu) for unit, pdu in ASKED if len(pdu) > 1]
    answers = "mbrtu && exported_pdu.src_port == 502"
    assert opened.show(f"(_ws.malformed || _ws.expert.severity >= 0x600000) && {answers}", "_ws.expert.message") == []
    asked = opened.show("mbrtu && exported_pdu.dst_port == 502", "modbus.func_code", "_ws.col.Info")
    answered = opened.show(answers, "modbus.func_code", "_ws.col.Info")
    assert [int(code) for code, _ in asked] == [pdu[0] for _, pdu in long_enough]
    assert [int(code) for code, _ in answered] == [pdu[0] for _, pdu in ASKED]
    assert all(info.strip().startswith("Query: Unit:") for _, info in asked)
    assert all(info.strip().startswith("Response: Unit:") for _, info in answered)
    assert {status for (status,) in opened.show("mbrtu", "mbrtu.crc16.status")} == {"1"}
    registers = opened.show(f"{answers} && modbus.func_code == 4", "modbus.regval_uint16")
    assert registers[0][0].split(";") == [str(0xFFFF - index) for index in range(125)]
    assert [int(code) for (code,) in opened.show("modbus.exception_code", "modbus.exception_code")] == EXCEPTIONS[:-1]
    assert opened.show("!mbrtu && data.data == a5:a5:a5:a5:a5:a5", "data.data") == [["a5a5a5a5a5a5"]]


def test_tshark_opens_a_capture_without_being_told_anything(line, sniff, tshark, tmp_path):
    path = tmp_path / "x.pcap"
    sniffing = sniff("--pcap", path, "--count", 2)
    with serial.Serial(line.client_end, 19200) as port:
        port.write(raw.rtu(READ) + raw.rtu(bytes.fromhex("03 02 1234")))
        assert sniffing.end()[0] == 0
    run = subprocess.run([tshark, "-r", path], capture_output=True, text=True, timeout=50, check=True)
    query, response = run.stdout.splitlines()
    assert "Modbus RTU" in query
    assert "Query: Unit:   1, Func:   3: Read Holding Registers" in query
    assert "Response: Unit:   1, Func:   3: Read Holding Registers" in response


def test_a_capture_may_be_read_while_it_is_written(line, sniff, tshark, tmp_path):
    path = tmp_path / "x.pcap"
    sniffing = sniff("--pcap", path)
    with serial.Serial(line.client_end, 19200) as port:
        port.write(raw.rtu(READ))
        sniffing.wait_for(" request .*\n")
        run = subprocess.run([tshark, "-r", path], capture_output=True, text=True, timeout=50, check=True)
        assert len(run.stdout.splitlines()) == 1
    sniffing.send(signal.SIGTERM)
    assert sniffing.end()[0] == 0
