"""A pymodbus 2.5.3 master that obeys lines; runs in the Python of its own environment, so it imports nothing of the project.

    client_pymodbus2.py tcp|udp HOST PORT FRAMER UNIT
    client_pymodbus2.py tls HOST PORT FRAMER UNIT CA CERTIFICATE KEY
    client_pymodbus2.py serial DEVICE BAUD rtu|ascii|binary UNIT

Each line of standard input is an operation and its numbers; each answer is one line: "ok" and the numbers read, "exception" and the code,
or "error" and a text.
"""

import ssl
import struct
import sys

from pymodbus import diag_message, file_message, mei_message, other_message, transaction
from pymodbus.client.sync import ModbusSerialClient, ModbusTcpClient, ModbusTlsClient, ModbusUdpClient
from pymodbus.pdu import ExceptionResponse

FRAMERS = {
    "socket": transaction.ModbusSocketFramer,
    "rtu": transaction.ModbusRtuFramer,
    "ascii": transaction.ModbusAsciiFramer,
    "binary": transaction.ModbusBinaryFramer,
    "tls": transaction.ModbusTlsFramer,
}
DIAGNOSTICS = {
    request.sub_function_code: request
    for request in vars(diag_message).values()
    if isinstance(request, type) and request.__name__.endswith("Request") and hasattr(request, "sub_function_code")
}
# Over RTU it waits for the length of a good answer whatever comes: a refusal takes this long.
TIMEOUT = 1


def connect(kind, place, number, framer, *certificates):
    if kind == "serial":
        return ModbusSerialClient(method=framer, port=place, baudrate=int(number), timeout=TIMEOUT)
    keywords = {"host": place, "port": int(number), "framer": FRAMERS[framer], "timeout": TIMEOUT}
    if kind == "tls":
        ca, certificate, key = certificates
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(certificate, key)
        return ModbusTlsClient(sslctx=context, **keywords)
    return {"tcp": ModbusTcpClient, "udp": ModbusUdpClient}[kind](**keywords)


def words(data):
    return list(struct.unpack(f">{len(data) // 2}H", data))


def nothing(answer):
    return []


def events(answer):
    return [0 if answer.status else 0xFFFF, answer.event_count, answer.message_count, *answer.events]


def objects(answer):
    return [byte for key, text in answer.information.items() for byte in (key, len(text), *text)]


def request_diagnostics(unit, sub_function, *data):
    request = DIAGNOSTICS[sub_function](unit=unit)
    request.message = list(data)
    return request


def request_write_file(unit, file, number, *values):
    record = file_message.FileRecord(file_number=file, record_number=number, record_data=struct.pack(f">{len(values)}H", *values))
    return file_message.WriteFileRecordRequest([record], unit=unit)


def request_read_file(unit, file, number, length):
    record = file_message.FileRecord(file_number=file, record_number=number, record_length=length)
    return file_message.ReadFileRecordRequest([record], unit=unit)


def operations(client, unit):
    """Name -> (call with the numbers, answer -> numbers).

    Without the FIFO queue: this client's decoder takes four off the register count and loses the values.
    """

    def execute(make):
        return lambda *numbers: client.execute(make(*numbers))

    return {
        "read_coils": (lambda a, n: client.read_coils(a, n, unit=unit), lambda r: [int(bit) for bit in r.bits]),
        "read_discrete_inputs": (lambda a, n: client.read_discrete_inputs(a, n, unit=unit), lambda r: [int(bit) for bit in r.bits]),
        "read_holding_registers": (lambda a, n: client.read_holding_registers(a, n, unit=unit), lambda r: r.registers),
        "read_input_registers": (lambda a, n: client.read_input_registers(a, n, unit=unit), lambda r: r.registers),
        "write_coil": (lambda a, v: client.write_coil(a, v, unit=unit), nothing),
        "write_register": (lambda a, v: client.write_register(a, v, unit=unit), nothing),
        "write_coils": (lambda a, *v: client.write_coils(a, list(v), unit=unit), nothing),
        "write_registers": (lambda a, *v: client.write_registers(a, list(v), unit=unit), nothing),
        "mask_write_register": (lambda a, m, o: client.mask_write_register(a, m, o, unit=unit), nothing),
        "readwrite_registers": (
            lambda ra, rn, wa, *v: client.readwrite_registers(
                read_address=ra, read_count=rn, write_address=wa, write_registers=list(v), unit=unit
            ),
            lambda r: r.registers,
        ),
        "read_exception_status": (execute(lambda: other_message.ReadExceptionStatusRequest(unit=unit)), lambda r: [r.status]),
        "diagnostics": (
            execute(lambda *n: request_diagnostics(unit, *n)),
            lambda r: [r.message] if isinstance(r.message, int) else list(r.message),
        ),
        "get_comm_event_counter": (
            execute(lambda: other_message.GetCommEventCounterRequest(unit=unit)),
            lambda r: [0 if r.status else 0xFFFF, r.count],
        ),
        "get_comm_event_log": (execute(lambda: other_message.GetCommEventLogRequest(unit=unit)), events),
        "report_id": (execute(lambda: other_message.ReportSlaveIdRequest(unit=unit)), lambda r: list(r.identifier)),
        "read_file": (execute(lambda *n: request_read_file(unit, *n)), lambda r: words(r.records[0].record_data)),
        "write_file": (execute(lambda *n: request_write_file(unit, *n)), nothing),
        "read_device_information": (execute(lambda c, o: mei_message.ReadDeviceInformationRequest(c, o, unit=unit)), objects),
    }


def main(kind, place, number, framer, unit, *certificates):
    client = connect(kind, place, number, framer, *certificates)
    if not client.connect():
        return 1
    table = operations(client, int(unit))
    for line in sys.stdin:
        operation, *numbers = line.split()
        call, read = table[operation]
        answer = call(*map(int, numbers))
        if isinstance(answer, ExceptionResponse):
            print("exception", answer.exception_code, flush=True)
        elif answer.isError():
            print("error", answer, flush=True)
        else:
            print("ok", *read(answer), flush=True)
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
