"""As pymodbus' server with a custom data block: it prints what is written. Argument: the port."""

import sys

from mbcore.pymodbus.datastore import ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
from mbcore.pymodbus.server.asynchronous import StartTcpServer


class CustomDataBlock(ModbusSparseDataBlock):
    """A data block that stores the new value and performs a custom action after that."""

    def setValues(self, address, value):
        super(CustomDataBlock, self).setValues(address, value)  # noqa: UP008
        print(f"wrote {value} to {address}", flush=True)


def run_custom_db_server(port):
    block = CustomDataBlock([0] * 100)
    store = ModbusSlaveContext(di=block, co=block, hr=block, ir=block)
    context = ModbusServerContext(slaves=store, single=True)
    StartTcpServer(context, address=("127.0.0.1", port))


if __name__ == "__main__":
    run_custom_db_server(int(sys.argv[1]))
