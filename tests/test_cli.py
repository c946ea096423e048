"""The command line: what it prints, what it says about mistakes, and its exit codes. Serving runs in processes of its own."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
from adu import ENVIRONMENT
from live import programs
from live.line import Line
from live.ports import refusing_port

import mbcore
from mbcore import cli
from mbcore.values import ORDERS

PATIENCE = 20
HOST = "127.0.0.1"


# ---- in this process ----


def test_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mbcore {mbcore.__version__}\n"


COMMANDS = ["", "serve", "read", "write", "serve tls", "read rtu", "write udp", "hats", "ports", "doctor", "service", "service install"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_succeeds(command, capsys):
    assert cli.main([*command.split(), "--help"]) == 0
    assert "usage: mbcore" in capsys.readouterr().out


MISTAKES = {
    "": "serve|read|write",
    "listen": "'listen'",
    "serve foo": "'foo'",
    "serve tcp -p 70000": "'70000' is not a whole number in 0..65535",
    "serve tcp -p high": "'high' is not a whole number in 0..65535",
    "serve tcp -a 0": "'0' is not a whole number in 1..247",
    "serve tcp -a 248": "'248' is not a whole number in 1..247",
    "serve tcp --log-level loud": "'loud'",
    "serve tcp --baud 9600": "--baud",
    "serve udp --framer mbap": "'mbap'",
    "serve tls": "--certfile",
    "serve rtu": "name the device, e.g. /dev/ttyUSB0, or the board that has it, --hat NAME",
    "serve ascii -b 9600": "name the device",
    "sniff": "name the device",
    "serve rtu --hat widgetlord": "there is no profile 'widgetlord': did you mean widgetlords?",
    "serve tcp --hat pixtend-v2": "--hat",
    "read rtu --hat pixtend-v2": "--hat",
    "hats widgetlord": "there is no profile 'widgetlord': did you mean widgetlords?",
    "doctor --hat widgetlord": "there is no profile 'widgetlord': did you mean widgetlords?",
    "doctor now": "now",
    "ports --all": "--all",
    "service": "install|remove|show",
    "service start x": "'start'",
    "service install": "NAME",
    "service install -x": "NAME",
    "service install plant rtu": "name the device",
    "service install plant rtu /dev/x -b fast": "'fast' is not a whole number in 50..4000000",
    "service install plant": "say what plant is to serve",
    "service remove no-such-service-here": "there is no service no-such-service-here",
    "service show no-such-service-here": "there is no service no-such-service-here",
    "serve rtu /dev/null -P mark": "'mark' is no parity; use one of even, odd, none",
    "serve rtu /dev/null -m 9E1": "'9E1' is no mode of a serial line; write data bits, parity and stop bits like 8E1",
    "serve rtu /dev/null -b 0": "'0' is not a whole number in 50..4000000",
    "serve rtu /dev/null -d 7": "7 data bits can't carry rtu frames, which need 8; only ascii takes 7",
    "read binary /dev/null -m 7E1": "7 data bits can't carry binary frames, which need 8; only ascii takes 7",
    "serve rtu /dev/null --echo yes": "'yes'",
    "serve rtu /dev/null --direction up": "'up'",
    "serve rtu /dev/null --direction gpio": "--direction-line is None: give its number on /dev/gpiochip0",
    "serve rtu /dev/null --direction-line 4": "--direction-line is 4, which has no use with --direction auto",
    "serve rtu /dev/null --direction-line x": "'x' is not a whole number in 0..1023",
    "serve rtu /dev/null --direction-active up": "'up'",
    "serve rtu /dev/null --reply-delay -1": "'-1' is no time in milliseconds in 0..60000",
    "serve rtu /dev/null --reply-delay nan": "'nan' is no time in milliseconds in 0..60000",
    "serve rtu /dev/null --reply-delay 2000": "reply_deadline is 1 s and no reply would go out before 2 s",
    "serve rtu /dev/null --frame-gap 4ms": "'4ms' is no time in milliseconds in 0.1..1000",
    "serve rtu /dev/null --frame-gap 0": "'0' is no time in milliseconds in 0.1..1000",
    "read rtu /dev/null --echo drop": "--echo",
    "serve tcp --no-reopen": "--no-reopen",
    "serve -x": "-x",
    "read tcp": "host",
    "read tcp h -t xr": "'xr' is no table; use one of co, di, hr, ir",
    "read tcp h -r 65536": "'65536' is not a whole number in 0..65535",
    "read tcp h -c 0": "'0' is not a whole number in 1..2000",
    "read tcp h -a 256": "'256' is not a whole number in 0..255",
    "read tcp h -o 0": "'0' is no time in seconds above 0",
    "read tcp h -o soon": "'soon' is no time in seconds above 0",
    "read tcp h --type uint8": "'uint8'",
    "read tcp h --order big": "'big'",
    "read tcp h -t co --type int16": "--type int16 is for registers; leave it out for coils",
    "read tls h --cafile none.pem": "none.pem can't be used: no such file or directory",
    "write tcp h": "values",
    "write tcp h -t ir 1": "'ir' is no table; use one of co, hr",
    "write tcp h ten": "'ten' is no number; write it like 1234, 0x4D2 or 1.5",
    "write tcp h 65536": "65536 is no uint16, which holds whole numbers 0..65535",
    "write tcp h -1": "-1 is no uint16, which holds whole numbers 0..65535",
    "write tcp h 1.5": "1.5 is no uint16",
    "write tcp h -t co 2": "'2' is no state of a coil; use 0, 1, off or on",
    "write tcp h -t co --type int16 1": "--type int16 is for registers; leave it out for coils",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_is_one_sentence_and_exit_code_2(line, capsys):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert MISTAKES[line] in said.err
    assert said.err.startswith("mbcore")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("read tcp 127.0.0.1 -p {port}", "127.0.0.1:{port}: connection refused"),
        ("write udp 127.0.0.1 -p {port} 1", "127.0.0.1:{port}: connection refused"),
        ("read tls 127.0.0.1 -p {port}", "127.0.0.1:{port}: connection refused"),
        ("read tcp no.such.host.invalid", "no.such.host.invalid:502: there is no such host"),
        ("read rtu /dev/no-such-port", "there is no serial port /dev/no-such-port"),
        ("serve rtu /dev/no-such-port --no-reopen", "there is no serial port /dev/no-such-port"),
        ("serve rtu /dev/null", "/dev/null is not a serial port"),
    ],
)
def test_failure_at_run_time_is_one_sentence_and_exit_code_1(line, sentence, capsys):
    with refusing_port(socket.SOCK_DGRAM if "udp" in line else socket.SOCK_STREAM) as port:
        assert cli.main(line.format(port=port).split()) == 1
    said = capsys.readouterr()
    assert sentence.format(port=port) in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def parse(*words):
    return cli._parser().parse_args(words)


def test_serial_line_is_19200_8e1_unless_told_otherwise():
    args = parse("serve", "rtu", "/dev/x")
    cli._take_hat(args)
    assert cli._line_settings(args) == {"baudrate": 19200, "bytesize": 8, "parity": "E", "stopbits": 1}


@pytest.mark.parametrize(
    "words",
    [
        "-b 9600 -P odd -d 7 -s 2",
        "-b 9600 -P O -d 7 -s 2",
        "--baudrate 9600 --parity ODD --bytesize 7 --stopbits 2",
        "-b 9600 -m 7O2",
        "-b 9600 --mode 7o2",
        "-b 9600 -m 8N1 -P odd -d 7 -s 2",
    ],
)
@pytest.mark.parametrize("command", ["serve ascii /dev/x", "read ascii /dev/x", "write ascii /dev/x 1"])
def test_serial_settings_have_short_and_long_words(command, words):
    settings = cli._line_settings(parse(*command.split(), *words.split()))
    assert settings == {"baudrate": 9600, "bytesize": 7, "parity": "O", "stopbits": 2}


def test_a_line_answers_the_demos_unit_alone_and_the_rest_is_the_servers_to_choose():
    assert cli._line_behaviour(parse("serve", "rtu", "/dev/x")) == {"units": 1, "reopen": True}


def test_a_lines_behaviour_has_words():
    words = "-a 7 --echo drop --direction gpio --direction-chip pinctrl-rp1 --direction-line 18 --direction-active low"
    words += " --reply-delay 2.5 --frame-gap 4 --no-reopen"
    assert cli._line_behaviour(parse("serve", "ascii", "/dev/x", *words.split())) == {
        "units": 7,
        "reopen": False,
        "echo": "drop",
        "direction": "gpio",
        "direction_chip": "pinctrl-rp1",
        "direction_line": 18,
        "direction_active": "low",
        "reply_delay": 0.0025,
        "frame_gap": 0.004,
    }


@pytest.mark.parametrize(("word", "table"), [("4", "hr"), ("3", "ir"), ("1", "di"), ("0", "co"), ("HR", "hr")])
def test_tables_go_by_mbpolls_numbers_too(word, table):
    assert parse("read", "tcp", HOST, "-t", word).table == table


# ---- live ----


class Serving:
    """A process that runs `mbcore serve`."""

    def __init__(self, *words):
        command = [sys.executable, "-P", "-m", "mbcore", "serve", *map(str, words)]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.said = ""
        while "Stop it:" not in self.said:
            readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            said = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            if not said:
                raise RuntimeError(f"it does not serve: {self.said}{self.process.stderr.read().decode()}")
            self.said += said.decode()

    @property
    def port(self):
        return re.search(r" on \w+ \S+:(\d+)$", self.said, re.MULTILINE)[1]

    @property
    def mbpoll_line(self):
        return re.search(r"mbpoll .*", self.said)[0]

    def stop(self, sign=signal.SIGTERM):
        """(exit code, seconds that it took, what it said on standard error)"""
        start = time.monotonic()
        self.process.send_signal(sign)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, time.monotonic() - start, errors.decode()


@pytest.fixture
def demo(request):
    def start(*words):
        serving = Serving(*words)
        request.addfinalizer(serving.process.wait)
        request.addfinalizer(serving.process.kill)
        return serving

    return start


@pytest.fixture
def run(capsys):
    """run(line) -> what the command says; it has to succeed."""

    def run(line):
        code = cli.main(line.split())
        said = capsys.readouterr()
        assert code == 0, said.err
        assert said.err == ""
        return said.out

    return run


def values(said):
    """The values of what `mbcore read` prints."""
    return [line.split()[2] for line in said.splitlines()[1:]]


@pytest.mark.live
def test_values_are_read_with_their_addresses(demo, run):
    port = demo("tcp", "-p", 0).port
    run(f"write tcp {HOST} -p {port} -r 100 12 0x10 65535")
    assert run(f"read tcp {HOST} -p {port} -r 100 -c 3").splitlines() == [
        "holding registers of unit 1: address, reference, value",
        "    100     40101   12",
        "    101     40102   16",
        "    102     40103   65535",
    ]
    run(f"write tcp {HOST} -p {port} -t co -r 3 on off ON")
    assert values(run(f"read tcp {HOST} -p {port} -t co -r 2 -c 5")) == ["0", "1", "0", "1", "0"]
    assert len(values(run(f"read tcp {HOST} -p {port} -t di -c 2"))) == 2
    assert values(run(f"read tcp {HOST} -p {port} -t ir -r 6")) == ["0"]


@pytest.mark.live
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kind", "texts"), [("float32", ["3.5", "-0.25"]), ("int32", ["-70000", "5"]), ("uint32", ["4294967295"]), ("int16", ["-1"])]
)
def test_typed_values_come_back_as_they_were_written(demo, run, kind, texts, order):
    port = demo("tcp", "-p", 0).port
    run(f"write tcp {HOST} -p {port} -r 110 --type {kind} --order {order} {' '.join(texts)}")
    assert values(run(f"read tcp {HOST} -p {port} -r 110 -c {len(texts)} --type {kind} --order {order}")) == texts


@pytest.mark.live
def test_live_values_move(demo, run):
    port = demo("tcp", "-p", 0).port
    first = int(values(run(f"read tcp {HOST} -p {port} -r 3 --type uint32"))[0])
    deadline = time.monotonic() + PATIENCE
    while int(values(run(f"read tcp {HOST} -p {port} -t ir -r 3 --type uint32"))[0]) == first:
        assert time.monotonic() < deadline
    assert -1 <= float(values(run(f"read tcp {HOST} -p {port} -r 1 --type float32"))[0]) <= 1


@pytest.mark.live
@pytest.mark.parametrize("framer", ["socket", "rtu", "ascii", "binary"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_network_with_every_framer(demo, run, transport, framer):
    port = demo(transport, "-p", 0, "--framer", framer, "-a", 7).port
    run(f"write {transport} {HOST} -p {port} --framer {framer} -a 7 -r 199 4711")
    assert values(run(f"read {transport} {HOST} -p {port} --framer {framer} -a 7 -r 199")) == ["4711"]


@pytest.mark.live
@pytest.mark.parametrize("mode", ["", "-b 115200 -m 8N1"], ids=["default", "115200-8N1"])
@pytest.mark.parametrize("framer", ["rtu", "ascii", "binary"])
def test_serial_line(demo, run, framer, mode):
    line = Line()
    try:
        serving = demo(framer, line.device_end, "-a", 7, *mode.split())
        run(f"write {framer} {line.client_end} {mode} -a 7 -r 100 4711 4712")
        assert values(run(f"read {framer} {line.client_end} {mode} -a 7 -r 100 -c 2")) == ["4711", "4712"]
        assert run(f"write {framer} {line.client_end} {mode} -a 0 -r 100 1") == "wrote holding registers of all units, address 100\n"
        assert values(run(f"read {framer} {line.client_end} {mode} -a 7 -r 100")) == ["1"]
        assert cli.main(f"read {framer} {line.client_end} {mode} -a 8 -o 0.1".split()) == 1
        assert serving.stop()[0] == 0
    finally:
        line.close()


@pytest.mark.live
def test_tls_with_certificates_on_both_sides(demo, run, certificates, capsys):
    files = certificates.of_server()
    port = demo("tls", "-p", 0, *(word for name, file in files.items() for word in (f"--{name}", file))).port
    ca, certificate, key = certificates.of_client()
    run(f"write tls {HOST} -p {port} --cafile {ca} --certfile {certificate} --keyfile {key} -r 100 5")
    assert values(run(f"read tls {HOST} -p {port} --insecure --certfile {certificate} --keyfile {key} -r 100")) == ["5"]
    assert cli.main(f"read tls {HOST} -p {port} --cafile {ca}".split()) == 1
    assert f"{HOST}:{port}: TLS failed: " in capsys.readouterr().err
    assert cli.main(f"read tls {HOST} -p {port}".split()) == 1
    assert "the certificate is not trusted" in capsys.readouterr().err


@pytest.mark.live
def test_exception_response_is_one_sentence_with_its_name(demo, capsys):
    port = demo("tcp", "-p", 0).port
    assert cli.main(f"read tcp {HOST} -p {port} -r 200".split()) == 1
    assert capsys.readouterr().err == "mbcore: unit 1 refuses: exception 02, illegal data address\n"
    assert cli.main(f"read tcp {HOST} -p {port} -a 2".split()) == 1
    assert capsys.readouterr().err == "mbcore: unit 2 refuses: exception 0B, gateway target device failed to respond\n"


@pytest.mark.live
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_within_a_second_even_with_open_connections(demo, sign):
    def seconds_to_stop():
        serving = demo("tcp", "-p", 0)
        with socket.create_connection((HOST, int(serving.port))):
            code, seconds, errors = serving.stop(sign)
        assert (code, errors) == (0, "")
        return seconds

    # More than once, since a busy machine takes its own time.
    assert any(seconds_to_stop() < 1 for _ in range(3))


MOMENTS = {
    "before Twisted is there": "sys.meta_path.insert(0, Finder)",
    "when the port is open": "from mbcore.server.demo import DemoValues; DemoValues.start = lambda *_: send()",
    "when the reactor starts": "from twisted.internet import reactor; reactor.addSystemEventTrigger('before', 'startup', send)",
    "twice": "from twisted.internet import reactor; reactor.callWhenRunning(lambda: (send(), send()))",
}


@pytest.mark.live
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_signal_ends_a_server_that_is_still_starting(moment, sign):
    script = (
        "import os, sys; from mbcore import cli\n"
        f"def send(): os.kill(os.getpid(), {int(sign)})\n"
        "class Finder: find_spec = lambda name, *_: send() if name == 'twisted' else None\n"
        f"{MOMENTS[moment]}\n"
        "sys.exit(cli.main(['serve', 'tcp', '-p', '0']))"
    )
    command = [sys.executable, "-P", "-c", script]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_signals_are_the_callers_again_when_a_command_is_over(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert cli.main(["serve", "rtu", "/dev/no-such-port", "--no-reopen"]) == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with cli._signals(lambda: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.live
def test_busy_port_is_one_sentence(demo, capsys):
    port = demo("tcp", "-p", 0).port
    assert cli.main(["serve", "tcp", "-p", port]) == 1
    said = capsys.readouterr()
    assert f"{port} is in use by another program" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.live
def test_frames_are_logged_when_asked_twice(demo, run):
    serving = demo("tcp", "-p", 0, "-vv")
    run(f"read tcp {HOST} -p {serving.port} -r 199")
    code, _, errors = serving.stop()
    assert code == 0
    assert "00 01 00 00 00 06 01 03 00 c7 00 01" in errors
    assert "00 01 00 00 00 05 01 03 02 00 00" in errors


@pytest.mark.live
def test_printed_mbpoll_line_reads_the_demo(demo):
    programs.need("mbpoll", "mbpoll")
    serving = demo("tcp", "-p", 0)
    read = subprocess.run(serving.mbpoll_line.split(), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert read.returncode == 0, read.stderr
    assert re.findall(r"^\[(\d)\]:", read.stdout, re.MULTILINE) == list("012345")


@pytest.mark.live
def test_printed_mbpoll_line_reads_the_demo_over_a_serial_line(demo):
    programs.need("mbpoll", "mbpoll")
    line = Line()
    try:
        serving = demo("rtu", line.device_end)
        command = serving.mbpoll_line.partition(" (")[0].replace("DEVICE", line.client_end)
        read = subprocess.run(command.split(), capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert read.returncode == 0, read.stderr
        assert re.findall(r"^\[(\d)\]:", read.stdout, re.MULTILINE) == list("012345")
        assert serving.stop()[0] == 0
    finally:
        line.close()


@pytest.mark.live
def test_bare_serve_is_the_demo_on_port_5020_of_this_machine(demo):
    with socket.socket() as probe:
        if probe.connect_ex((HOST, 5020)) == 0:
            pytest.skip("port 5020 is taken")
    serving = demo()
    assert serving.said.startswith(f"mbcore {mbcore.__version__} serves unit 1 on tcp 127.0.0.1:5020\n")
    assert "mbpoll -m tcp -p 5020 -a 1 -0 -r 0 -c 6 -1 127.0.0.1" in serving.said
    assert serving.stop()[0] == 0
