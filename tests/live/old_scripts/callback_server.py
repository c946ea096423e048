"""As pymodbus' callback server: a block hands what is written to a queue, and a process of its own writes it to devices.

Arguments: the port, and the file that maps addresses to devices, which are files here.
"""

import sys
from multiprocessing import Process, Queue

from mbcore.pymodbus.datastore import ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
from mbcore.pymodbus.server.asynchronous import StartTcpServer


class CallbackDataBlock(ModbusSparseDataBlock):
    """A data block that stores the new value and passes the operation to a queue."""

    def __init__(self, devices, queue):
        self.devices = devices
        self.queue = queue
        values = dict.fromkeys(devices, 0)
        values[0xBEEF] = len(values)  # the number of devices
        super(CallbackDataBlock, self).__init__(values)  # noqa: UP008

    def setValues(self, address, value):
        super(CallbackDataBlock, self).setValues(address, value)  # noqa: UP008
        self.queue.put((self.devices.get(address, None), value))


def rescale_value(value):
    """From 0..100 to -3200..3200."""
    s = 1 if value >= 50 else -1
    c = value if value < 50 else (value - 50)
    return s * (c * 64)


def device_writer(queue):
    while True:
        device, value = queue.get()
        with open(device, "a") as stream:
            stream.write(f"{rescale_value(value[0])}\n")


def read_device_map(path):
    devices = {}
    with open(path) as stream:
        for line in stream:
            piece = line.strip().split(",")
            devices[int(piece[0], 16)] = piece[1]
    return devices


def run_callback_server(port, mapping):
    queue = Queue()
    block = CallbackDataBlock(read_device_map(mapping), queue)
    store = ModbusSlaveContext(di=block, co=block, hr=block, ir=block)
    context = ModbusServerContext(slaves=store, single=True)
    p = Process(target=device_writer, args=(queue,), daemon=True)
    p.start()
    StartTcpServer(context, address=("127.0.0.1", port))


if __name__ == "__main__":
    run_callback_server(int(sys.argv[1]), sys.argv[2])
