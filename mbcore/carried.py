"""What of pymodbus 1.x/2.x (and of the spellings of 3.x) ``mbcore.pymodbus`` carries over, and what to write instead of the rest.

Tables for mbcore.migrate; names are dotted and leave out the leading ``pymodbus.``.
"""

#: Modules of pymodbus that are there under the same name, with all that stands in them unless ADVICE says otherwise.
MODULES = frozenset({
    "bit_read_message",
    "bit_write_message",
    "compat",
    "constants",
    "datastore",
    "datastore.context",
    "datastore.remote",
    "datastore.store",
    "device",
    "diag_message",
    "events",
    "exceptions",
    "factory",
    "file_message",
    "framer",
    "framer.ascii_framer",
    "framer.binary_framer",
    "framer.rtu_framer",
    "framer.socket_framer",
    "framer.tls_framer",
    "interfaces",
    "mei_message",
    "other_message",
    "payload",
    "pdu",
    "register_read_message",
    "register_write_message",
    "server.asynchronous",
    "transaction",
    "utilities",
    "version",
})

#: On the first client's import of a script without a server.
NO_SERVER = "this script has a client and no server: all of its imports stay as they are"

_CLIENT = (
    "mbcore is the server's side; install pymodbus beside it for a client (3.x: `from pymodbus.client import ModbusTcpClient`) and import"
    " from pymodbus what you give that client"
)
_BLOCKING = (
    "the server is Twisted's: write `from mbcore.pymodbus.server.asynchronous import StartTcpServer` (StartUdpServer, StartSerialServer,"
    " StopServer), and `defer_reactor_run=True` where you run the reactor yourself; no thread, no await"
)
_TLS = "write `from mbcore.server import StartTlsServer` and give certfile= and keyfile="
_DATABASE = "keep the values in a ModbusSlaveContext, load them at the start and save them in an observer: `context.add_observer(save)`"
_REPL = "there is no REPL: `mbcore serve`, `mbcore read` and `mbcore write` are for a first test, `console=True` opens a console"
_SERVER_3 = (
    "pymodbus 3's spelling: write `from mbcore.server import StartTcpServer` (StartUdpServer, StartTlsServer, StartSerialServer,"
    " StopServer), without asyncio and await"
)
_CONTEXT_3 = "pymodbus 3's spelling: write `from mbcore.pymodbus.datastore import ModbusSlaveContext`, a unit with its four tables"
_SIMULATOR = "there is no simulator: fill a ModbusSlaveContext; `mbcore serve` serves a demo unit"
_FRAMER_3 = "pymodbus 3's spelling: write `from mbcore.pymodbus.transaction import ModbusRtuFramer` (or another) and framer=ModbusRtuFramer"
_PDU_3 = (
    "pymodbus 3's spelling: write `from mbcore.pymodbus.register_read_message import ...` (bit_read_, bit_write_, register_write_, diag_,"
    " file_, mei_, other_message)"
)
_LOGGING = "write `logging.getLogger('mbcore')` and logging.basicConfig(...)"

#: What to write instead; the longest name that fits counts.
ADVICE = {
    "client": _CLIENT,
    "server": _SERVER_3,
    "server.sync": _BLOCKING,
    "server.async_io": _BLOCKING,
    "server.sync.StartTlsServer": _TLS,
    "server.async_io.StartTlsServer": _TLS,
    "server.reactive": _REPL,
    "server.simulator": _SIMULATOR,
    "server.ModbusSimulatorServer": _SIMULATOR,
    "datastore.database": _DATABASE,
    "datastore.modredis": _DATABASE,
    "datastore.SqlSlaveContext": _DATABASE,
    "datastore.RedisSlaveContext": _DATABASE,
    "datastore.ModbusBaseDeviceContext": _CONTEXT_3,
    "datastore.ModbusBaseSlaveContext": _CONTEXT_3,
    "datastore.ModbusDeviceContext": _CONTEXT_3,
    "datastore.ModbusSimulatorContext": _SIMULATOR,
    "datastore.simulator": _SIMULATOR,
    "simulator": _SIMULATOR,
    "repl": _REPL,
    "console": _REPL,
    "internal": "the management console is a keyword: `StartTcpServer(context, console=True)`, with the extra mbcore[console]",
    "Framer": _FRAMER_3,
    "FramerType": _FRAMER_3,
    "constants.Endian.BIG": "pymodbus 3's spelling: write Endian.Big",
    "constants.Endian.LITTLE": "pymodbus 3's spelling: write Endian.Little",
    "constants.Endian.AUTO": "pymodbus 3's spelling: write Endian.Auto",
    "exceptions.NoSuchIdException": "pymodbus 3's spelling: write NoSuchSlaveException",
    "ModbusDeviceIdentification": "pymodbus 3's spelling: write `from mbcore.pymodbus.device import ModbusDeviceIdentification`",
    "ModbusException": "pymodbus 3's spelling: write `from mbcore.pymodbus.exceptions import ModbusException`",
    "ExceptionResponse": "pymodbus 3's spelling: write `from mbcore.pymodbus.pdu import ExceptionResponse`",
    "pymodbus_apply_logging_config": _LOGGING,
    "logging": _LOGGING,
    "utilities.ModbusTransactionState": "belongs to clients; a server needs none: leave it out",
} | {
    f"framer.{name}": _FRAMER_3
    for name in (
        "Framer", "FramerAscii", "FramerBase", "FramerRTU", "FramerSocket", "FramerTLS", "FramerType", "ModbusAsciiFramer",
        "ModbusRtuFramer", "ModbusSocketFramer", "ModbusTlsFramer", "ascii", "base", "rtu", "socket", "tls",
    )
} | {
    f"pdu.{module}": _PDU_3
    for module in (
        "bit_message", "bit_read_message", "bit_write_message", "device", "diag_message", "file_message", "mei_message", "other_message",
        "register_message", "register_read_message", "register_write_message",
    )
}

#: Functions that look a module up by its name in a string.
LOOKUPS = {
    "getLogger": "the loggers are called mbcore, mbcore.server.tcp and so on: write 'mbcore'",
    "import_module": "write 'mbcore.pymodbus...'",
    "__import__": "write 'mbcore.pymodbus...'",
    "patch": "what it replaces is not there; give the server a hook instead: trace_packet=, trace_pdu=, trace_connect=",
}

#: (callable, keyword) of pymodbus 3.
KEYWORDS = {("ModbusServerContext", "devices"): "devices= is pymodbus 3's word: write slaves="}

#: Methods that pymodbus called inside itself, and that scripts overrode; here nobody calls them.
INTERNAL_METHODS = frozenset({"_execute", "_send", "_process", "_validate_unit_id", "_helper"})

# Private names that a script may use all the same.
_PUBLIC_ENOUGH = frozenset({"_rtu_frame_size", "_rtu_byte_count_pos", "_is_main_thread"})
_HOOKS = "override validate, getValues or setValues of a data block, or give the server trace_packet=, trace_pdu= or trace_connect="
_INTERNAL = f"an internal name of pymodbus that is not there; {_HOOKS}"
_PATCH = f"patched here, but compiled code does not look there; {_HOOKS}"
_DEFAULTS = "assigned to here, but no server looks there; give the value where it is used, e.g. zero_mode=True, address=, port="
#: What to do instead of overriding one of INTERNAL_METHODS.
OVERRIDDEN = f"an internal method of pymodbus is overridden, which nobody calls here; {_HOOKS}"


def advice(name: str) -> str | None:
    """What to write instead of a part of pymodbus; None if it is carried over."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in ADVICE:
            return ADVICE[prefix]
        if prefix in MODULES:
            return _INTERNAL if any(map(_is_private, parts[length:])) else None
    return None if parts[0].startswith("__") else "mbcore.pymodbus has no such thing; docs/migration.md says what is there"


def _is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__") and part not in _PUBLIC_ENOUGH


def patch_advice(name: str) -> str:
    """What to do instead of assigning to a part of pymodbus."""
    return _DEFAULTS if name.startswith("constants.Defaults") else _PATCH
