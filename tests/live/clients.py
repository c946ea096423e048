"""Foreign Modbus masters behind one face: `client.ask(operation, *numbers)` returns the list of numbers read.

`client.operations` names what the client can say, `client.can_take(numbers)` whether it understands such an answer. An exception response
raises `RefusedError`, anything else that goes wrong `ClientError`.
"""

import re
import select
import struct
import subprocess
from pathlib import Path

import minimalmodbus
import pymodbus.client
from pymodbus import FramerType
from pymodbus.pdu.file_message import FileRecord

HERE = Path(__file__).parent
TIMEOUT = 5


class RefusedError(Exception):
    """The device answered with an exception response; `code` is its code."""

    def __init__(self, code):
        super().__init__(f"exception {code}")
        self.code = code


class ClientError(Exception):
    """The client got no answer, or one that it does not understand."""


READS = {"read_coils", "read_discrete_inputs", "read_holding_registers", "read_input_registers"}
WRITES = {"write_coil", "write_register", "write_coils", "write_registers"}
REGISTER_EXTRAS = {"mask_write_register", "readwrite_registers"}
DIAGNOSIS = {"read_exception_status", "diagnostics", "get_comm_event_counter", "get_comm_event_log", "report_id", "read_device_information"}
FILES = {"read_file", "write_file"}


class Client:
    """What most of them have in common."""

    most = 2000  # values in one answer
    undoes_escapes = True  # of the binary framing
    hears_refusals = True

    def can_take(self, numbers):
        escaped = any(byte in b"{}" for number in numbers for byte in number.to_bytes(2))
        return len(numbers) <= self.most and (self.undoes_escapes or not escaped)


class Program(Client):
    """A client program that reads operations from its standard input, a line each, and writes an answer line."""

    def __init__(self, command, operations):
        self.operations = operations
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, operation, *numbers):
        print(operation, *numbers, file=self._process.stdin)
        ready, _, _ = select.select([self._process.stdout], [], [], 3 * TIMEOUT)
        line = self._process.stdout.readline() if ready else ""
        word, *rest = line.split() or ["error", f"no answer (exit code {self._process.poll()})"]
        if word == "ok":
            return [int(number) for number in rest]
        if word == "exception":
            raise RefusedError(int(rest[0]))
        raise ClientError(f"{operation}: {' '.join(rest)}")

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def libmodbus(program, device, unit=1):
    command = [program, "rtu", device.path, "19200", "N"] if device.path else [program, "tcp", device.host, str(device.port)]
    return Program([*command, str(unit)], READS | WRITES | REGISTER_EXTRAS | {"report_id", "read_exception_status"})


def pymodbus2(python, device, unit=1):
    place = ["serial", device.path, "19200"] if device.path else [device.transport.kind, device.host, str(device.port)]
    framer = device.transport.framer
    certificates = device.certificates.of_client() if device.certificates else []
    command = [python, HERE / "client_pymodbus2.py", *place, framer, str(unit), *certificates]
    bare = framer == "tls"
    # Of the other answers it does not know the length, and a bare PDU has no head that tells.
    client = Program(command, READS | WRITES | (set() if bare else REGISTER_EXTRAS | DIAGNOSIS | FILES))
    # Nor does it learn then that a refusal is shorter than a good answer.
    client.hears_refusals = not bare
    # It doubles the braces of what it sends, and leaves them doubled in what it receives.
    client.undoes_escapes = framer != "binary"
    return client


MBPOLL_TABLES = {
    "read_coils": "0",
    "write_coil": "0",
    "write_coils": "0",
    "read_discrete_inputs": "1",
    "read_input_registers": "3",
    "read_holding_registers": "4",
    "write_register": "4",
    "write_registers": "4",
}
MBPOLL_VALUE = re.compile(r"^\[\d+\]:\s+(\d+)", re.MULTILINE)
# The texts of libmodbus' error numbers.
MBPOLL_REFUSALS = {"Illegal function": 1, "Illegal data address": 2, "Illegal data value": 3, "Slave device or server failure": 4}


class Mbpoll(Client):
    """mbpoll, one run of the program per operation."""

    operations = READS | WRITES
    most = 125

    def __init__(self, program, device, unit=1):
        mode = ["-m", "rtu", "-b", "19200", "-P", "none", device.path] if device.path else ["-p", str(device.port), device.host]
        self._command = [program, "-0", "-1", "-o", str(TIMEOUT), "-a", str(unit), *mode]

    def ask(self, operation, *numbers):
        words = ["-t", MBPOLL_TABLES[operation], "-r", str(numbers[0])]
        if operation in READS:
            return [int(value) for value in MBPOLL_VALUE.findall(self._run(*words, "-c", str(numbers[1])))]
        self._run(*words, *map(str, numbers[1:]))
        return []

    def _run(self, *words):
        command = [*self._command, *words]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=3 * TIMEOUT, check=False)
        said = run.stdout + run.stderr
        for text, code in MBPOLL_REFUSALS.items():
            if text in said:
                raise RefusedError(code)
        if run.returncode or "failed" in said:
            raise ClientError(said)
        return run.stdout

    def description(self):
        """What `mbpoll -u` (function 17, on a serial line only) prints."""
        return self._run("-u")

    def close(self):
        """Nothing stays open between two runs."""


class Pymodbus3(Client):
    """The synchronous client of the newest pymodbus."""

    operations = READS | WRITES | REGISTER_EXTRAS | DIAGNOSIS | FILES | {"read_fifo_queue"}

    def __init__(self, device, unit=1):
        self._unit = unit
        if device.transport.framer == "rtu":
            # Its size of a FIFO answer leaves the CRC out, so that it takes none for complete.
            self.operations = self.operations - {"read_fifo_queue"}
        self._client = self._connect(device)
        if not self._client.connect():
            raise ClientError("not connected")

    @staticmethod
    def _connect(device):
        kind = device.transport.kind
        # What it calls TLS framing is MBAP.
        framer = FramerType.TLS if kind == "tls" else FramerType(device.transport.framer)
        keywords = {"framer": framer, "timeout": TIMEOUT, "retries": 0}
        if kind == "serial":
            return pymodbus.client.ModbusSerialClient(device.path, baudrate=19200, **keywords)
        if kind == "tls":
            context = device.certificates.client_context()
            return pymodbus.client.ModbusTlsClient(device.host, port=device.port, sslctx=context, **keywords)
        client = {"tcp": pymodbus.client.ModbusTcpClient, "udp": pymodbus.client.ModbusUdpClient}[kind]
        return client(device.host, port=device.port, **keywords)

    def ask(self, operation, *numbers):
        try:
            answer = getattr(self, f"_{operation}")(*numbers)
        except pymodbus.ModbusException as error:
            raise ClientError(f"{operation}: {error}") from error
        if answer.isError():
            raise RefusedError(answer.exception_code)
        return self._numbers(operation, answer)

    def close(self):
        self._client.close()

    def _numbers(self, operation, answer):
        match operation:
            case "read_coils" | "read_discrete_inputs":
                return [int(bit) for bit in answer.bits]
            case "read_holding_registers" | "read_input_registers" | "readwrite_registers":
                return answer.registers
            case "read_exception_status":
                return [answer.status]
            case "diagnostics":
                return self._words(answer.message) if isinstance(answer.message, bytes) else [answer.message]
            case "get_comm_event_counter":
                return [0 if answer.status else 0xFFFF, answer.count]
            case "get_comm_event_log":
                return [0 if answer.status else 0xFFFF, answer.event_count, answer.message_count, *answer.events]
            case "report_id":
                return [*answer.identifier, 0xFF if answer.status else 0]
            case "read_file":
                return self._words(answer.records[0].record_data)
            case "read_fifo_queue":
                return answer.values
            case "read_device_information":
                return [byte for key, text in answer.information.items() for byte in (key, len(text), *text)]
        return []

    @staticmethod
    def _words(data):
        return list(struct.unpack(f">{len(data) // 2}H", data))

    def _read_coils(self, address, quantity):
        return self._client.read_coils(address, count=quantity, device_id=self._unit)

    def _read_discrete_inputs(self, address, quantity):
        return self._client.read_discrete_inputs(address, count=quantity, device_id=self._unit)

    def _read_holding_registers(self, address, quantity):
        return self._client.read_holding_registers(address, count=quantity, device_id=self._unit)

    def _read_input_registers(self, address, quantity):
        return self._client.read_input_registers(address, count=quantity, device_id=self._unit)

    def _write_coil(self, address, value):
        return self._client.write_coil(address, bool(value), device_id=self._unit)

    def _write_register(self, address, value):
        return self._client.write_register(address, value, device_id=self._unit)

    def _write_coils(self, address, *values):
        return self._client.write_coils(address, [bool(value) for value in values], device_id=self._unit)

    def _write_registers(self, address, *values):
        return self._client.write_registers(address, list(values), device_id=self._unit)

    def _mask_write_register(self, address, and_mask, or_mask):
        return self._client.mask_write_register(address=address, and_mask=and_mask, or_mask=or_mask, device_id=self._unit)

    def _readwrite_registers(self, read_address, quantity, write_address, *values):
        return self._client.readwrite_registers(
            read_address=read_address, read_count=quantity, write_address=write_address, values=list(values), device_id=self._unit
        )

    def _read_exception_status(self):
        return self._client.read_exception_status(device_id=self._unit)

    def _diagnostics(self, sub_function, *data):
        ask = {
            0: lambda: self._client.diag_query_data(struct.pack(f">{len(data)}H", *data), device_id=self._unit),
            1: lambda: self._client.diag_restart_communication(bool(data[0]), device_id=self._unit),
            2: lambda: self._client.diag_read_diagnostic_register(device_id=self._unit),
            3: lambda: self._client.diag_change_ascii_input_delimeter(delimiter=data[0], device_id=self._unit),
            10: lambda: self._client.diag_clear_counters(device_id=self._unit),
            11: lambda: self._client.diag_read_bus_message_count(device_id=self._unit),
            12: lambda: self._client.diag_read_bus_comm_error_count(device_id=self._unit),
            13: lambda: self._client.diag_read_bus_exception_error_count(device_id=self._unit),
            14: lambda: self._client.diag_read_device_message_count(device_id=self._unit),
            15: lambda: self._client.diag_read_device_no_response_count(device_id=self._unit),
            16: lambda: self._client.diag_read_device_nak_count(device_id=self._unit),
            17: lambda: self._client.diag_read_device_busy_count(device_id=self._unit),
            18: lambda: self._client.diag_read_bus_char_overrun_count(device_id=self._unit),
            20: lambda: self._client.diag_clear_overrun_counter(device_id=self._unit),
        }
        return ask[sub_function]()

    def _get_comm_event_counter(self):
        return self._client.diag_get_comm_event_counter(device_id=self._unit)

    def _get_comm_event_log(self):
        return self._client.diag_get_comm_event_log(device_id=self._unit)

    def _report_id(self):
        return self._client.report_device_id(device_id=self._unit)

    def _read_file(self, file, number, length):
        record = FileRecord(file_number=file, record_number=number, record_length=2 * length)
        return self._client.read_file_record([record], device_id=self._unit)

    def _write_file(self, file, number, *values):
        record = FileRecord(file_number=file, record_number=number, record_data=struct.pack(f">{len(values)}H", *values))
        return self._client.write_file_record([record], device_id=self._unit)

    def _read_fifo_queue(self, address):
        return self._client.read_fifo_queue(address=address, device_id=self._unit)

    def _read_device_information(self, code, object_id):
        return self._client.read_device_information(read_code=code, object_id=object_id, device_id=self._unit)


class Minimalmodbus(Client):
    """minimalmodbus on a serial line."""

    operations = READS | WRITES

    def __init__(self, device, unit=1):
        self._instrument = minimalmodbus.Instrument(device.path, unit, mode=device.transport.framer)
        self._instrument.serial.baudrate = 19200
        # It waits for the length of a good answer whatever comes: every refusal takes this long.
        self._instrument.serial.timeout = 0.5

    def ask(self, operation, *numbers):
        try:
            return self._call(operation, *numbers)
        except minimalmodbus.IllegalRequestError as error:
            codes = {"Slave reported illegal function": 1, "Slave reported illegal data address": 2, "Slave reported illegal data value": 3}
            raise RefusedError(codes[str(error)]) from error
        except minimalmodbus.ModbusException as error:
            raise ClientError(f"{operation}: {error}") from error

    def _call(self, operation, address, *numbers):
        instrument = self._instrument
        match operation:
            case "read_coils":
                return instrument.read_bits(address, numbers[0], functioncode=1)
            case "read_discrete_inputs":
                return instrument.read_bits(address, numbers[0], functioncode=2)
            case "read_holding_registers":
                return instrument.read_registers(address, numbers[0], functioncode=3)
            case "read_input_registers":
                return instrument.read_registers(address, numbers[0], functioncode=4)
            case "write_coil":
                instrument.write_bit(address, numbers[0], functioncode=5)
            case "write_register":
                instrument.write_register(address, numbers[0], functioncode=6)
            case "write_coils":
                instrument.write_bits(address, list(numbers))
            case "write_registers":
                instrument.write_registers(address, list(numbers))
        return []

    def close(self):
        self._instrument.serial.close()
