"""The command line: ``mbcore serve`` runs the demo unit, ``mbcore read`` and ``mbcore write`` talk to a server.

``mbcore sniff`` listens to a serial line, ``mbcore migrate`` moves old scripts; ``mbcore hats``, ``ports``, ``doctor`` and ``service`` are
for boards. Reads arguments and prints; serving is mbcore.server's, asking is mbcore.server.client's, listening is mbcore.sniff's, moving
is mbcore.migrate's, boards are mbcore.rpi's. Options have mbpoll's letters and pyserial's long names.
Exit codes: 0, 1 what went wrong at run time, 2 what the user wrote wrong.
"""

import argparse
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from mbcore.defaults import LINE_FORMAT
from mbcore.errors import ConfigurationError, LineError, ModbusError
from mbcore.values import ORDERS, TYPES, from_registers, register_count, to_registers
from mbcore.version import __version__

if TYPE_CHECKING:
    from mbcore.rpi.machine import Machine
    from mbcore.server import RunningServer
    from mbcore.server.client import Client

# Twisted is imported in the commands that use it: a slip of the pen is answered at once.

NETWORK = ("tcp", "udp", "tls")
SERIAL = ("rtu", "ascii", "binary")
#: What ``mbcore serve`` means without a transport: a port that needs no rights, and nobody but this machine.
DEMO = ("tcp", "127.0.0.1", "-p", "5020")
SNIFF = "listen to a serial line, print what both sides say and a table per unit; nothing is sent"
HATS = "list the boards whose wiring is known; with a name: one of them"
PORTS = "list serial ports, their stable names, drivers and adapters"
DOCTOR = "find what keeps a serial line from working; exit code 1 where something is wrong"
SERVICE = "serve as a systemd service"
MIGRATE = "move scripts that import pymodbus 1.x/2.x's Twisted server to mbcore.pymodbus"

TABLES = {"co": "co", "di": "di", "hr": "hr", "ir": "ir", "0": "co", "1": "di", "4": "hr", "3": "ir"}
WRITABLE = {word: table for word, table in TABLES.items() if table in ("co", "hr")}
TABLE_NAMES = {"co": "coils", "di": "discrete inputs", "hr": "holding registers", "ir": "input registers"}
# As manuals count: the table's digit, then the address from 1.
REFERENCE = {"co": "0", "di": "1", "hr": "4", "ir": "3"}
PARITIES = {"even": "E", "odd": "O", "none": "N", "E": "E", "O": "O", "N": "N"}
PARITY_WORDS = {"E": "even", "O": "odd", "N": "none"}
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
STATES = {"0": 0, "1": 1, "off": 0, "on": 1, "false": 0, "true": 1}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``argv`` is the command line without the program's name, None the process' own."""
    words = list(sys.argv[1:] if argv is None else argv)
    with ExitStack() as signals:
        if words[:1] in (["serve"], ["sniff"]):
            # Until the reactor runs, or the port is open, there is nothing to put in order, and an exception
            # out of an import half done may get lost.
            signals.enter_context(_signals(partial(os._exit, 0)))
        return _run(words)


def _run(words: list[str]) -> int:
    if words[:1] == ["serve"] and (not words[1:] or (words[1].startswith("-") and words[1] not in ("-h", "--help"))):
        words[1:1] = DEMO
    try:
        args = _parser().parse_args(words)
        command: Callable[[argparse.Namespace], int | None] = args.command
        return command(args) or 0
    except SystemExit as stop:  # argparse's
        return int(stop.code or 0)
    except ConfigurationError as error:
        return _say(_with_flags(str(error)), 2)
    except (ModbusError, OSError) as error:
        return _say(_with_flags(str(error)), 1)
    except KeyboardInterrupt:
        return _say("interrupted", 1)


@contextmanager
def _signals(stop: Callable[[], object]) -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM call ``stop``; one that whoever started this program had it ignore stays ignored."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_flags(sentence: str) -> str:
    """A sentence that names keywords of a server, with the flags that mean the same: direction="gpio" -> --direction gpio."""
    names = "direction_chip|direction_line|direction_active|direction|frame_gap|reply_delay"
    sentence = re.sub(rf'(?<![-\w])({names})="?([\w.]+)"?', lambda found: f"--{found[1].replace('_', '-')} {found[2]}", sentence)
    return re.sub(rf"(?<![-\w])({names})(?= is | or a |$)", lambda found: f"--{found[1].replace('_', '-')}", sentence)


def _say(error: object, code: int) -> int:
    print(f"mbcore: {error}", file=sys.stderr)
    return code


def _print(text: str) -> None:
    """Print to somebody who may have seen enough before the end, as `head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _let_go()


def _let_go() -> None:
    """After a broken pipe: who read has seen enough, and nothing may be flushed to it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---- serve ----


def _serve(args: argparse.Namespace) -> None:
    held = _take_hat(args)
    from twisted.internet import reactor as installed
    from twisted.internet.error import ReactorNotRunning
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    from mbcore.server.demo import DemoValues, demo_context

    level = LEVELS[args.log_level] if args.log_level else (logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    observer: Any = STDLibLogObserver()
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    reactor: Any = installed
    context = demo_context(args.unit)
    values = DemoValues(context)
    server = _start_server(args, context)
    values.start(reactor)
    reactor.callWhenRunning(print, _welcome(args, server.port, values.rows()), flush=True)
    if os.environ.get("NOTIFY_SOCKET"):
        from mbcore.server.notify import notify_systemd

        notify_systemd([server], reactor)

    def stop() -> None:
        with suppress(ReactorNotRunning):  # the second of two signals
            reactor.stop()

    # Twisted's own handlers would leave a gap until it has set them.
    with held, _signals(partial(reactor.callFromThread, stop)):
        reactor.run(installSignalHandlers=False)


def _start_server(args: argparse.Namespace, context: Any) -> "RunningServer":
    from mbcore import ModbusDeviceIdentification, server

    identity = {"VendorName": "mbcore", "ProductCode": "demo", "MajorMinorRevision": __version__}
    options: dict[str, Any] = {"identity": ModbusDeviceIdentification(info_name=identity), "framer": args.framer, "defer_reactor_run": True}
    match args.transport:
        case "tcp":
            return server.StartTcpServer(context, address=(args.host, args.port), **options)
        case "udp":
            return server.StartUdpServer(context, address=(args.host, args.port), **options)
        case "tls":
            files = {"certfile": args.certfile, "keyfile": args.keyfile, "cafile": args.cafile}
            return server.StartTlsServer(context, address=(args.host, args.port), **files, **options)
        case _:
            return server.StartSerialServer(context, port=args.device, **_line_settings(args), **_line_behaviour(args), **options)


def _welcome(args: argparse.Namespace, port: Any, rows: list[tuple[str, str, str, str]]) -> str:
    """What is served, and what to do next."""
    from mbcore.server.demo import FREE, LIVE

    serial = args.transport in SERIAL
    where = args.device if serial else f"{args.host}:{port}"
    peer = "DEVICE" if serial else _reachable(args.host)
    if serial:
        settings = f"-a {args.unit} -b {args.baudrate} -d {args.bytesize} -s {args.stopbits} -P {PARITY_WORDS[args.parity]}"
    else:
        settings = f"-p {port} -a {args.unit}" + (f" --framer {args.framer}" if args.framer != "socket" else "")
    if args.transport == "tls":
        settings += " --cafile CA.pem" + (" --certfile CLIENT.pem --keyfile CLIENT.key" if args.cafile else "")
    program = _program()
    read = f"{program} read {args.transport} {peer} {settings}"
    write = f"{program} write {args.transport} {peer} {settings} -r {FREE} 12 34"
    if (args.transport, args.framer) in (("tcp", "socket"), ("rtu", "rtu")):
        first = f"mbpoll -m {args.transport} {settings} -0 -r 0 -c {LIVE} -1 {peer}"
    else:
        first = f"{read} -r 0 -c {LIVE}"
    lines = [
        f"mbcore {__version__} serves unit {args.unit} on {args.transport} {where}",
        "",
        _table([("table", "address", "type", "value"), *rows]),
        "",
        f"Read it:   {first}" + (" (DEVICE: the other end of the line)" if serial else ""),
        f"A float:   {read} -r 1 --type float32",
        f"Write it:  {write}",
        "Stop it:   Ctrl-C",
    ]
    return "\n".join(lines)


def _program() -> str:
    """How to call this program again."""
    if shutil.which("mbcore"):
        return "mbcore"
    return "python3 -m mbcore" if sys.argv[0].endswith("__main__.py") else sys.argv[0]


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


# ---- read and write ----


def _read(args: argparse.Namespace) -> None:
    kind = _kind(args)
    step = register_count(kind) if kind else 1
    with _connect(args) as client:
        found = client.read(args.table, args.address, args.count * step, unit_id=args.unit)
    print(f"{TABLE_NAMES[args.table]} of unit {args.unit}: address, reference, value")
    for start in range(0, len(found), step):
        value = from_registers(found[start : start + step], kind, args.order) if kind else found[start]
        address = args.address + start
        print(f"{address:>7} {REFERENCE[args.table]:>5}{address + 1:04d}   {value:{'.7g' if kind == 'float32' else ''}}")


def _write(args: argparse.Namespace) -> None:
    values = _values(args)
    with _connect(args) as client:
        client.write(args.table, args.address, values, unit_id=args.unit)
    last = args.address + len(values) - 1
    where = f"address {last}" if len(values) == 1 else f"addresses {args.address}..{last}"
    print(f"wrote {TABLE_NAMES[args.table]} of {f'unit {args.unit}' if args.unit else 'all units'}, {where}")


def _values(args: argparse.Namespace) -> list[int]:
    """What the user wants to write, as bits or registers."""
    kind = _kind(args)
    if kind:
        return [register for text in args.values for register in to_registers(_number(text), kind, args.order)]
    for text in args.values:
        if text.lower() not in STATES:
            raise ConfigurationError(f"{text!r} is no state of a coil; use 0, 1, off or on")
    return [STATES[text.lower()] for text in args.values]


def _kind(args: argparse.Namespace) -> str | None:
    """The type of the values in registers; None for bits."""
    if args.table in ("hr", "ir"):
        return args.type or "uint16"
    if args.type:
        raise ConfigurationError(f"--type {args.type} is for registers; leave it out for {TABLE_NAMES[args.table]}")
    return None


def _number(text: str) -> float:
    for form in (lambda: int(text, 0), lambda: float(text)):
        try:
            return form()
        except ValueError:
            continue
    raise ConfigurationError(f"{text!r} is no number; write it like 1234, 0x4D2 or 1.5")


def _connect(args: argparse.Namespace) -> "Client":
    from mbcore import framer as framers
    from mbcore.server import client

    framer = getattr(framers, f"Modbus{args.framer.capitalize()}Framer")
    match args.transport:
        case "tcp":
            return client.connect_tcp(args.host, args.port, framer=framer, timeout=args.timeout)
        case "udp":
            return client.connect_udp(args.host, args.port, framer=framer, timeout=args.timeout)
        case "tls":
            tls = client.client_tls(args.cafile, args.certfile, args.keyfile, insecure=args.insecure)
            return client.connect_tcp(args.host, args.port, framer=framer, timeout=args.timeout, tls=tls)
        case _:
            return client.connect_serial(args.device, framer=framer, timeout=args.timeout, **_line_settings(args))


def _line_settings(args: argparse.Namespace) -> dict[str, Any]:
    if args.bytesize == 7 and args.framer != "ascii":
        raise ConfigurationError(f"7 data bits can't carry {args.framer} frames, which need 8; only ascii takes 7")
    return {name: getattr(args, name) for name in ("baudrate", "bytesize", "parity", "stopbits")}


def _line_behaviour(args: argparse.Namespace) -> dict[str, Any]:
    """How a server behaves on its line; what is not said is left to the server."""
    words = ("echo", "direction", "direction_chip", "direction_line", "direction_active", "frame_gap", "reply_delay")
    named = {name: getattr(args, name) for name in words}
    said = {name: value for name, value in named.items() if value is not None}
    return {"units": args.unit, "reopen": args.reopen, **said}


# ---- boards ----


def _take_hat(args: argparse.Namespace) -> ExitStack:
    """Set what the profile of a board says and the user does not; what holds the board's pins until it is closed."""
    held = ExitStack()
    if args.command is _serve and args.transport not in SERIAL:
        return held
    _need_device(args)
    if not args.hat:
        _set_format(args, {})
        return held
    from mbcore.rpi import hats
    from mbcore.rpi.machine import Machine

    hat, machine = hats.find_hat(args.hat), Machine()
    _set_format(args, hat.format)
    settings = hat.settings(machine, vars(args))
    for name, value in settings.items():
        setattr(args, name, value)
    hats.hold_pins(hat, machine, held)
    if args.command is _sniff:
        hats.hold_receiving(settings, held)
    return held


def _set_format(args: argparse.Namespace, of_board: dict[str, Any]) -> None:
    """Baud rate and characters: what the user says, else what the board wants, else the specification."""
    for name, value in (LINE_FORMAT | of_board).items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _need_device(args: argparse.Namespace) -> None:
    if args.device is None and args.hat is None:
        raise ConfigurationError("name the device, e.g. /dev/ttyUSB0, or the board that has it, --hat NAME; `mbcore ports` lists devices")


def _hats(args: argparse.Namespace) -> None:
    from mbcore.rpi import hats
    from mbcore.rpi.machine import Machine

    if args.json:
        _print(json.dumps(hats.as_json(Machine(), args.name), indent=2))
    else:
        _print(hats.sheet(Machine(), args.name) if args.name else hats.listing())


def _ports(args: argparse.Namespace) -> None:
    from mbcore.rpi import ports
    from mbcore.rpi.machine import Machine

    found = ports.list_ports(Machine(), ports.probe_rs485 if args.probe else None)
    _print(json.dumps([port._asdict() for port in found], indent=2) if args.json else ports.table(found))


def _doctor(args: argparse.Namespace) -> int:
    from mbcore.rpi.doctor import examine
    from mbcore.rpi.hats import find_hat
    from mbcore.rpi.machine import Machine

    said = [word for option, value in (("--hat", args.hat), ("--port", args.port)) if value for word in (option, value)]
    again = shlex.join([*_command(), "doctor", *said])
    report = examine(Machine(), find_hat(args.hat) if args.hat else None, args.port, again=again)
    _print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    return 1 if report.wrong else 0


def _command() -> tuple[str, ...]:
    """How to call this program from anywhere, by whomever: `sudo` and systemd do not look where a user's shell has found it."""
    me = os.path.abspath(sys.argv[0])
    return (sys.executable, "-m", "mbcore") if me.endswith("__main__.py") else (me,)


def _service(args: argparse.Namespace) -> None:
    from mbcore.rpi import service
    from mbcore.rpi.machine import Machine

    machine = Machine()
    if args.action == "show":
        print(service.show(machine, args.name))
        return
    program = _command()
    if args.action == "install":
        words = [word for word in args.words if word not in ("--", "--dry-run")]
        args.dry_run |= "--dry-run" in args.words
        found = _check_served(_parser().parse_args(["serve", *words]), machine) if words else ""
        places = (os.path.dirname(__file__), sys.executable, sys.base_prefix)
        steps = service.plan_install(machine, args.name, words, program, places, found)
    else:
        steps = service.plan_remove(machine, args.name, args.purge)
    if args.dry_run:
        print(service.explain(steps))
    else:
        service.carry_out(machine, steps, shlex.join([*program, *sys.argv[1:]]))
        print(f"Log:  journalctl -u mbcore@{args.name} -e")


def _check_served(args: argparse.Namespace, machine: "Machine") -> str:
    """Refuse what `mbcore serve` would: a slip of the pen is told now, not in the service's log. The device; empty where there is none."""
    from mbcore.rpi.service import check_file

    for name in ("certfile", "keyfile", "cafile"):
        file = getattr(args, name, None)
        if file and not os.path.isabs(file):
            raise ConfigurationError(f"--{name} {file}: a service does not run in this folder, give the full name, {os.path.abspath(file)}")
        if file:
            check_file(machine, f"--{name}", file)
    if args.transport in SERIAL:
        from mbcore.rpi.hats import find_hat
        from mbcore.server.rs485 import check_direction

        _need_device(args)
        hat = find_hat(args.hat) if args.hat else None
        _set_format(args, hat.format if hat else {})
        _line_settings(args)
        with suppress(LineError):  # its adapter may be plugged in later
            settings = hat.settings(machine, vars(args)) if hat else vars(args)
            words = ("direction", "direction_chip", "direction_line", "direction_active")
            check_direction(**{name: settings[name] for name in words if settings.get(name) is not None})
            return str(settings["device"])
    return ""


# ---- sniff ----


def _sniff(args: argparse.Namespace) -> None:
    held = _take_hat(args)
    settings = _line_settings(args)
    from mbcore import framer as framers
    from mbcore.monitor import Monitor
    from mbcore.server.port import open_port
    from mbcore.server.settings import frame_gap
    from mbcore.sniff import DISSECTOR, Capture, Sniffer, listen

    framer = getattr(framers, f"Modbus{args.framer.capitalize()}Framer")
    bits = 1 + args.bytesize + (args.parity != "N") + args.stopbits
    monitor = Monitor(framer, character_time=bits / args.baudrate, frame_gap=frame_gap(args.baudrate), timeout=args.timeout)
    with held, ExitStack() as at_end:
        # A read without data has to fail: an empty one means that the device has gone.
        port = open_port(args.device, timeout=0, inter_byte_timeout=0, **settings)
        at_end.callback(port.close)
        listen(port)
        capture = Capture(args.pcap, framer) if args.pcap else None
        if capture:
            at_end.callback(capture.close)
        line = f"{args.baudrate} {args.bytesize}{args.parity}{args.stopbits}"
        title = f"mbcore {__version__} listens to {args.framer} on {args.device}, {line}"
        sniffer = Sniffer(port, monitor, title, capture=capture, quiet=args.quiet, count=args.count, seconds=args.seconds)
        at_end.callback(sniffer.close)
        at_end.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(sniffer.wake_fd, warn_on_full_buffer=False))
        at_end.enter_context(_signals(sniffer.stop))
        if hasattr(signal, "SIGUSR1"):
            before = signal.signal(signal.SIGUSR1, lambda *_: sniffer.show_table())
            at_end.callback(signal.signal, signal.SIGUSR1, before)
        try:
            sniffer.run()
            if capture:
                print(f"Open the capture:  wireshark {' '.join(DISSECTOR)} {shlex.quote(args.pcap)}", flush=True)
        except BrokenPipeError:
            _let_go()


# ---- migrate ----


def _migrate(args: argparse.Namespace) -> None:
    try:
        from mbcore import migrate
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "mbcore":
            raise
        raise ConfigurationError("migrate needs libcst, which is not installed; run: pip install 'mbcore[migrate]'") from error
    migrate.run(args.files, write=args.write, check=args.check)


# ---- arguments ----


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mbcore", description="A Modbus server, and a small client for a first test. Addresses count from 0.")
    parser.add_argument("--version", action="version", version=f"mbcore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="serve|read|write|sniff|migrate|hats|ports|doctor|service")
    for name, run, about in (
        ("serve", _serve, f"serve the demo unit; without a transport: serve {' '.join(DEMO)}"),
        ("read", _read, "read values from a server"),
        ("write", _write, "write values to a server"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        transports = command.add_subparsers(dest="transport", required=True, metavar="|".join(NETWORK + SERIAL))
        for transport in NETWORK + SERIAL:
            leaf = transports.add_parser(transport, help=f"{about.partition(';')[0]} over {transport}")
            leaf.set_defaults(command=run)
            if transport in NETWORK:
                _add_network(leaf, transport, serving=run is _serve)
            else:
                _add_serial(leaf, transport, boards=run is _serve)
                if run is _serve:
                    _add_line(leaf)
            if run is _serve:
                _add_serving(leaf)
            else:
                _add_asking(leaf, writing=run is _write)
    _add_sniff(commands.add_parser("sniff", help=SNIFF.partition(",")[0], description=SNIFF))
    _add_migrate(commands.add_parser("migrate", help=MIGRATE, description=MIGRATE))
    _add_boards(commands)
    return parser


def _add_boards(commands: Any) -> None:
    for name, run, about in (("hats", _hats, HATS), ("ports", _ports, PORTS), ("doctor", _doctor, DOCTOR), ("service", _service, SERVICE)):
        command = commands.add_parser(name, help=about.partition(";")[0], description=about)
        command.set_defaults(command=run)
        if run is not _service:
            command.add_argument("--json", action="store_true", help="for machines")
        if run is _hats:
            command.add_argument("name", nargs="?", metavar="NAME", help="show this one, as it is on this machine")
        elif run is _ports:
            command.add_argument("--probe", action="store_true", help="ask the drivers for RS-485, which moves DTR and RTS for a moment")
        elif run is _doctor:
            command.add_argument("--hat", type=_named, metavar="NAME", help="the board that is mounted; `mbcore hats` lists them")
            command.add_argument("--port", type=_named, metavar="DEV", help="the serial port to look at")
    actions = command.add_subparsers(dest="action", required=True, metavar="install|remove|show")
    for action, about in (
        ("install", "serve at every start of the system"),
        ("remove", "serve no more; the words stay in /etc/mbcore/NAME.env"),
        ("show", "print what is installed"),
    ):
        leaf = actions.add_parser(action, help=about, description=about)
        leaf.add_argument("name", metavar="NAME", help="of the instance: mbcore@NAME")
        if action != "show":
            leaf.add_argument("--dry-run", action="store_true", help="print the files and commands, do nothing")
        if action == "remove":
            leaf.add_argument("--purge", action="store_true", help="delete the words, too")
        if action == "install":
            leaf.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="what follows `mbcore serve`; none: as they are")


def _add_sniff(command: argparse.ArgumentParser) -> None:
    _add_serial(command, "rtu", boards=True)
    command.set_defaults(command=_sniff)
    about = "with a board whose pin its profile does not know: the pin, which is held so that the board receives"
    command.add_argument("--direction-line", type=_whole(0, 1023), metavar="N", help=about)
    command.add_argument("--framer", choices=SERIAL, default="rtu", help="how frames are framed (default %(default)s)")
    command.add_argument("-o", "--timeout", type=_seconds, default=1.0, metavar="S", help="seconds to an answer (default %(default)s)")
    command.add_argument("--count", type=_whole(1, 2**31), metavar="N", help="end after so many frames")
    command.add_argument("--seconds", type=partial(_seconds, most=1e9), metavar="S", help="end after so many seconds")
    command.add_argument("--quiet", action="store_true", help="the table only")
    command.add_argument("--pcap", type=_file, metavar="FILE", help="write what is heard for Wireshark, too")


def _add_migrate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(command=_migrate)
    command.add_argument("files", nargs="+", metavar="FILE", help="a Python script; the difference is shown and the file left as it is")
    command.add_argument("--write", action="store_true", help="write the files, in place and without a backup")
    command.add_argument("--check", action="store_true", help="exit with 1 when something is left to do")


def _add_network(leaf: argparse.ArgumentParser, transport: str, *, serving: bool) -> None:
    if serving:
        leaf.add_argument("host", nargs="?", default="127.0.0.1", help="interface to listen on; 0.0.0.0 is every one (default %(default)s)")
    else:
        leaf.add_argument("host", help="name or address of the server")
    port = 802 if transport == "tls" else 502
    leaf.add_argument("-p", "--port", type=_whole(0, 65535), default=port, metavar="N", help="port (default %(default)s)")
    framers = ("socket", *SERIAL, "tls") if transport == "tls" else ("socket", *SERIAL)
    leaf.add_argument("--framer", choices=framers, default="socket", help="how requests are framed (default %(default)s)")
    if transport == "tls":
        leaf.add_argument("--certfile", metavar="PEM", required=serving, help="own certificate")
        leaf.add_argument("--keyfile", metavar="PEM", help="its key, unless it stands in the same file")
        leaf.add_argument("--cafile", metavar="PEM", help="authorities that vouch for the other side")
        if not serving:
            leaf.add_argument("--insecure", action="store_true", help="accept any certificate")


def _add_serial(leaf: argparse.ArgumentParser, transport: str, *, boards: bool = False) -> None:
    leaf.add_argument("device", type=_named, nargs="?" if boards else None, help="serial port, e.g. /dev/ttyUSB0")
    if boards:
        about = "the board that has it, instead of device and direction; `mbcore hats` lists them"
        leaf.add_argument("--hat", type=_named, metavar="NAME", help=about)
    leaf.add_argument("-b", "--baudrate", type=_whole(50, 4_000_000), metavar="N", help="default 19200")
    leaf.add_argument("-P", "--parity", type=_word(PARITIES, "parity"), metavar="WORD", help="even (default), odd or none")
    leaf.add_argument("-d", "--bytesize", type=int, choices=(7, 8), help="data bits (default 8)")
    leaf.add_argument("-s", "--stopbits", type=int, choices=(1, 2), help="default 1")
    leaf.add_argument("-m", "--mode", action=_SerialMode, metavar="8E1", help="the last three in one word")
    # Where a board may have its own, what is said has to be told from what is not.
    leaf.set_defaults(framer=transport, **(dict.fromkeys(LINE_FORMAT) if boards else LINE_FORMAT))


def _add_line(leaf: argparse.ArgumentParser) -> None:
    gap, delay = _milliseconds(0.1, 1000), _milliseconds(0, 60_000)
    leaf.add_argument("--frame-gap", type=gap, metavar="MS", help="silence that ends an RTU frame (default: 3.5 characters)")
    leaf.add_argument("--reply-delay", type=delay, metavar="MS", help="time from request to reply (default: RTU the frame gap, else 0)")
    leaf.add_argument("--echo", choices=("auto", "drop", "none"), help="whether the adapter hears its own replies (default auto: find out)")
    directions = ("auto", "kernel", "rts", "gpio")
    leaf.add_argument("--direction", choices=directions, help="what switches an RS-485 transceiver (default auto: itself)")
    leaf.add_argument("--direction-chip", metavar="CHIP", help="with gpio, the chip: its device or label (default /dev/gpiochip0)")
    leaf.add_argument("--direction-line", type=_whole(0, 1023), metavar="N", help="the line of the chip that does, with gpio")
    leaf.add_argument("--direction-active", choices=("high", "low"), help="its state while sending (default high)")
    leaf.add_argument("--no-reopen", dest="reopen", action="store_false", help="end instead of waiting for an absent device")


def _add_serving(leaf: argparse.ArgumentParser) -> None:
    leaf.add_argument("-a", "--unit", type=_whole(1, 247), default=1, metavar="N", help="unit id (default %(default)s)")
    leaf.add_argument("-v", "--verbose", action="count", default=0, help="log starts and stops; twice: every connection and frame")
    leaf.add_argument("--log-level", choices=LEVELS, help="instead of -v (default warning)")


def _add_asking(leaf: argparse.ArgumentParser, *, writing: bool) -> None:
    leaf.add_argument("-a", "--unit", type=_whole(0, 255), default=1, metavar="N", help="unit id (default %(default)s)")
    tables = WRITABLE if writing else TABLES
    names = ", ".join(f"{word} {TABLE_NAMES[table]}" for word, table in tables.items() if word == table)
    leaf.add_argument("-t", "--table", type=_word(tables, "table"), default="hr", metavar="WORD", help=f"{names} (default %(default)s)")
    leaf.add_argument("-r", "--address", type=_whole(0, 65535), default=0, metavar="N", help="first address, from 0 (default %(default)s)")
    if writing:
        leaf.add_argument("values", nargs="+", help="numbers, or off and on for coils")
    else:
        leaf.add_argument("-c", "--count", type=_whole(1, 2000), default=1, metavar="N", help="how many values (default %(default)s)")
    leaf.add_argument("--type", choices=TYPES, help="of a value in registers (default uint16)")
    leaf.add_argument("--order", choices=ORDERS, default="ABCD", help="of the bytes of a 32-bit value (default %(default)s)")
    leaf.add_argument("-o", "--timeout", type=_seconds, default=1.0, metavar="S", help="seconds to wait (default %(default)s)")


def _seconds(text: str, most: float = 3600) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds above 0")
    return seconds


def _milliseconds(low: float, high: float) -> Callable[[str], float]:
    """A type of argument: a time in milliseconds, taken as seconds."""

    def take(text: str) -> float:
        try:
            milliseconds = float(text)
        except ValueError:
            milliseconds = -1.0
        if not low <= milliseconds <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no time in milliseconds in {low:g}..{high:g}")
        return milliseconds / 1000

    return take


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'' is no name, as of a variable that is not set; name it or leave it out")
    return text


def _file(text: str) -> str:
    if text == "-":
        raise argparse.ArgumentTypeError("'-' is standard output, where the frames are printed; name a file")
    return text


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _SerialMode(argparse.Action):
    """Takes 8E1 apart."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        found = re.fullmatch("([78])([NEO])([12])", values.upper())
        if not found:
            raise argparse.ArgumentError(self, f"{values!r} is no mode of a serial line; write data bits, parity and stop bits like 8E1")
        namespace.bytesize, namespace.parity, namespace.stopbits = int(found[1]), found[2], int(found[3])


def _word(meanings: Mapping[str, str], what: str) -> Callable[[str], str]:
    """A type of argument: one of some words, in any case."""
    known = {word.lower(): meaning for word, meaning in meanings.items()}

    def take(text: str) -> str:
        if text.lower() not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}; use one of {', '.join(meanings)}")
        return known[text.lower()]

    return take


def _whole(low: int, high: int) -> Callable[[str], int]:
    """A type of argument: a whole number, decimal or as 0x..."""

    def take(text: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in {low}..{high}")
        return number

    return take
