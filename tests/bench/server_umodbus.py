"""A Modbus TCP server of uModbus, a thread per connection, as its documentation starts one."""

import argparse
from socketserver import ThreadingTCPServer

from umodbus import conf
from umodbus.server.tcp import RequestHandler, get_server

SIZE = 1000

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--port", type=int, required=True)
chosen = options.parse_args()


class Server(ThreadingTCPServer):
    """What else stands between a thread per connection and the load."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


# The pattern that mbload --expect pattern knows.
registers = [(a * 40503 + 0x1234) & 0xFFFF for a in range(SIZE)]
bits = [a.bit_count() & 1 for a in range(SIZE)]
conf.SIGNED_VALUES = False
server = get_server(Server, ("127.0.0.1", chosen.port), RequestHandler)


@server.route(slave_ids=[1], function_codes=[1, 2], addresses=range(SIZE))
def read_bit(slave_id, function_code, address):
    """Of coils and discrete inputs."""
    return bits[address]


@server.route(slave_ids=[1], function_codes=[3, 4], addresses=range(SIZE))
def read_register(slave_id, function_code, address):
    """Of holding and input registers."""
    return registers[address]


@server.route(slave_ids=[1], function_codes=[5, 15], addresses=range(SIZE))
def write_bit(slave_id, function_code, address, value):
    """To a coil."""
    bits[address] = value


@server.route(slave_ids=[1], function_codes=[6, 16], addresses=range(SIZE))
def write_register(slave_id, function_code, address, value):
    """To a holding register."""
    registers[address] = value


server.serve_forever()
