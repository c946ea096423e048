"""Observers of a context that several servers have, on loops and on Twisted's way: one order, which is the image's."""

import os
import random
import threading
import time

import pytest
from adu import block, image, one_unit, pdu, units, wrap_rtu, wrap_socket
from test_engine_udp import serve  # noqa: F401  a fixture

from mbcore import ModbusRtuFramer, ModbusSequentialDataBlock, ModbusSocketFramer
from mbcore.session import Session

TABLE = "holding_registers"
# Writes that are told as they were, at most.
NOTES = 1024


def observed(**tables):
    """A unit with id 1, and the list of what its observer has heard: addresses and values."""
    context, heard = units(u1=image(**{"hr": block([0] * 3000), "co": block([0] * 2000)} | tables)), []
    context.add_observer(lambda _unit, _table, address, values: heard.append((address, values)))
    return context, heard


def write(address, value):
    return pdu(f"06 {address:04X} {value:04X}")


def end_child(context, heard, addresses):
    """In a fork: end it, well if a further write is heard of as the last of these."""
    code = 1
    try:
        on_twisted(context)(write(6, 1))
        code = [address for address, _ in heard] != addresses
    finally:
        os._exit(code)


def on_twisted(context):
    """A function that has a session of Twisted's way answer a request: each has its own, for an observer may ask."""

    def ask(request):
        assert Session(ModbusSocketFramer, context).receive(wrap_socket(request), 1.0)

    return ask


@pytest.mark.live
def test_writes_by_clients_of_two_servers_are_heard_of_in_their_order_whoever_tells(serve):  # noqa: F811
    context, heard = observed()
    servers = [serve(context), serve(context)]
    clients = [server.connect() for server in servers]
    for number in range(100):
        # Each one is confirmed before the next one is written.
        request = write(5, number)
        clients[number % 2].ask(request, request)
    assert heard == []
    servers[1].turn()
    assert heard == [(5, [number]) for number in range(100)]
    servers[0].turn()
    assert len(heard) == 100


@pytest.mark.live
def test_what_observers_hear_last_is_what_the_image_has_though_they_are_behind(serve):  # noqa: F811
    context, heard = observed()
    servers = [serve(context), serve(context)]
    clients = [server.connect() for server in servers]
    for number in range(NOTES + 200):
        request = write(number % 7, number)
        clients[number % 2].ask(request, request)
    servers[0].turn()
    assert heard[:NOTES] == [(number % 7, [number]) for number in range(NOTES)]
    assert heard[NOTES:] == [(number % 7, [number]) for number in range(NOTES + 193, NOTES + 200)], "the last values, in order"
    assert context.coalesced == 193
    assert dict(sorted(heard)) == {address: [value] for address, value in enumerate(context[1].getValues(3, 0, 7))}


@pytest.mark.live
def test_what_is_written_on_twisteds_way_is_heard_of_behind_what_a_loops_client_has_written(serve):  # noqa: F811
    context, heard = observed()
    client, ask = serve(context).connect(), on_twisted(context)
    client.ask(write(5, 1), write(5, 1))
    ask(write(5, 2))
    assert heard == [(5, [1]), (5, [2])]
    client.ask(write(5, 3), write(5, 3))
    assert heard == [(5, [1]), (5, [2])], "nobody has told yet"


@pytest.mark.live
def test_writes_by_clients_of_several_servers_at_a_time_are_heard_of_in_the_images_order(serve):  # noqa: F811
    """Each counts in four bits of its own of one register: from one value to the next that is heard of, one of them has counted."""
    context, heard = observed()
    servers = [serve(context) for _ in range(3)]

    def count(client, shift):
        for number in range(1, 301):
            request = pdu(f"16 0005 {0xFFFF ^ 0xF << shift:04X} {(number & 0xF) << shift:04X}")
            client.ask(request, request)

    clients = [server.connect() for server in servers]
    workers = [threading.Thread(target=count, args=(client, 4 * number)) for number, client in enumerate(clients)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        for server in servers:
            server.attend()
    for server in servers:
        server.attend()
    values = [values[0] for _, values in heard]
    assert (len(values), context.coalesced) == (900, 0)
    for before, after in zip([0, *values], values, strict=False):
        assert [(after >> shift) - (before >> shift) & 0xF for shift in (0, 4, 8)] in ([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert heard[-1] == (5, context[1].getValues(3, 5, 1))


@pytest.mark.live
def test_a_broadcast_is_heard_of_in_its_place_though_another_unit_is_pythons(serve):  # noqa: F811
    """Units whose tables are in C execute it and note it in one hold of the lock: no client of a loop comes in between."""

    class Own(ModbusSequentialDataBlock):
        def setValues(self, address, values):
            pass

    context = units(u1=image(hr=block([0] * 10)), u2=image(hr=Own(0, [0] * 10)))
    line = Session(ModbusRtuFramer, context, broadcast_enable=True)
    server = serve(context)
    client, heard = server.connect(), []
    context.add_observer(lambda unit, _table, _address, values: heard.append(*values) if unit == 1 else None)
    chance = random.Random(7)
    for number in range(1, 5000):
        broadcast = wrap_rtu(write(1, number + 5000), 0)
        client.say(wrap_socket(write(1, number)))
        # The loop is on its way to that.
        limit = time.perf_counter() + chance.random() * 40e-6
        while time.perf_counter() < limit:
            pass
        line.receive(broadcast, float(number))
        client.hear()
        server.attend()
        assert len(heard) == 2
        assert heard[-1] == context[1].getValues(3, 1, 1)[0]
        heard.clear()


def test_a_write_that_an_observer_causes_is_heard_of_by_all_behind_the_one_at_hand():
    context = one_unit(image(hr=block([0] * 10)))
    ask, told = on_twisted(context), []

    def answer(_unit, _table, address, values):
        told.append(("first", address, values))
        if address == 1:
            ask(write(2, 7))

    context.add_observer(answer)
    context.add_observer(lambda _unit, _table, address, values: told.append(("second", address, values)))
    ask(write(1, 5))
    assert told == [("first", 1, [5]), ("second", 1, [5]), ("first", 2, [7]), ("second", 2, [7])]


def test_observers_that_cause_more_than_can_be_noted_hear_of_the_last_values():
    context, heard = observed()
    ask = on_twisted(context)

    def flood(_unit, _table, address, _values):
        if address == 9:
            for number in range(NOTES + 50):
                ask(write(number % 5, number))

    context.add_observer(flood)
    ask(write(9, 1))
    assert heard[: NOTES + 1] == [(9, [1]), *[(number % 5, [number]) for number in range(NOTES)]]
    assert heard[NOTES + 1 :] == [(number % 5, [number]) for number in range(NOTES + 45, NOTES + 50)]
    assert context.coalesced == 45
    ask(write(3, 3))
    assert heard[-1] == (3, [3]), "as it was, now that they are not behind"


def test_observers_that_are_told_from_the_table_hear_of_what_is_written_meanwhile_behind_that():
    context, heard = observed()
    ask, once = on_twisted(context), []

    def flood(_unit, _table, address, _values):
        if address == 9:
            for number in range(NOTES):
                ask(write(0, number))
            ask(write(1, 1))
            ask(write(2, 2))
        elif address == 1 and not once:
            # From the table.
            once.append(True)
            ask(write(1, 11))
            ask(write(2, 12))

    context.add_observer(flood)
    ask(write(9, 1))
    assert heard[NOTES + 1 :] == [(1, [1]), (2, [2]), (1, [11]), (2, [12])]
    assert context.coalesced == 0


def test_a_write_of_each_kind_is_heard_of_the_same_from_the_ring_and_from_the_table():
    coils = pdu("0F 0003 07B0 F6") + bytes(range(246))
    registers = pdu("10 0100 007B F6") + bytes(range(246))
    records = pdu("15 16 06 0001 0002 0002 0005 0006 06 0002 0007 0002 0008 0009")
    both = pdu("17 0000 0001 0010 0002 04 000A 000B")
    requests = [coils, registers, records, both, pdu("05 0001 FF00"), pdu("06 0200 0102"), pdu("16 0300 0000 0025")]
    heards = []
    for behind in (False, True):
        context = one_unit(image(hr=block([0] * 3000), co=block([0] * 2000), files={1: [0] * 9, 2: [0] * 9}))
        heard, ask = [], on_twisted(context)
        heards.append(heard)

        def flood(_unit, _table, address, _values, ask=ask):
            if address == 0x400:
                for _ in range(NOTES):
                    ask(write(0x401, 0))
                for request in requests:
                    ask(request)

        context.add_observer(lambda *event, heard=heard: heard.append(event))
        if behind:
            context.add_observer(flood)
            ask(write(0x400, 0))
            del heard[: NOTES + 1]
        else:
            for request in requests:
                ask(request)
    assert heards[1] == heards[0]
    assert [event[1:3] for event in heards[0]] == [
        ("coils", 3), (TABLE, 0x100), ("file_records", (1, 2)), ("file_records", (2, 7)), (TABLE, 16), ("coils", 1), (TABLE, 0x200),
        (TABLE, 0x300),
    ]
    assert heards[0][0][3] == [bool(byte >> bit & 1) for byte in range(246) for bit in range(8)]


def test_the_only_unit_is_one_by_whatever_id_it_is_written():
    """Observers that are behind hear of each of its registers once, with the id of the last write."""
    context = one_unit(image(hr=block([0] * 3000)))
    heard = []
    context.add_observer(lambda *event: heard.append(event))

    def flood(_unit, _table, address, _values):
        if address == 9:
            for number in range(NOTES):
                on_twisted(context)(write(8, number))
            for unit in (1, 17, 247, 1, 3):
                assert Session(ModbusSocketFramer, context).receive(wrap_socket(write(5, unit), unit), 1.0)

    context.add_observer(flood)
    on_twisted(context)(write(9, 1))
    assert heard[NOTES + 1 :] == [(3, TABLE, 5, [3])]
    assert context.coalesced == 4


def test_observers_that_are_behind_hear_of_the_last_write_to_each_of_many_addresses_in_order():
    context, heard = observed(hr=block([0] * 65536))
    ask, chance = on_twisted(context), random.Random(5)
    last = {}

    def flood(_unit, _table, address, _values):
        if address == 65535:
            for _ in range(NOTES):
                ask(write(65534, 0))
            for number in range(5000):
                address = chance.choice((chance.randrange(50), chance.randrange(65000)))
                last.pop(address, None)
                last[address] = number
                ask(write(address, number))

    context.add_observer(flood)
    ask(write(65535, 1))
    assert heard[NOTES + 1 :] == [(address, [number]) for address, number in last.items()]
    assert context.coalesced == 5000 - len(last)


def test_a_broadcast_is_heard_of_once_for_each_unit_though_observers_are_behind():
    context, heard = units(u1=image(hr=block([1] * 10)), u7=image(hr=block([2] * 10))), []
    context.add_observer(lambda *event: heard.append(event))
    line = Session(ModbusRtuFramer, context, broadcast_enable=True)
    ask = on_twisted(context)

    def flood(_unit, _table, address, _values):
        if address == 9:
            for number in range(NOTES):
                ask(write(8, number))
            line.receive(wrap_rtu(pdu("16 0001 0000 0040"), 0), 1.0)
            line.receive(wrap_rtu(pdu("16 0001 00FF 0003"), 0), 2.0)

    context.add_observer(flood)
    ask(write(9, 1))
    assert heard[NOTES + 1 :] == [(1, TABLE, 1, [0x40]), (7, TABLE, 1, [0x40])]
    assert context.coalesced == 2


def test_observers_that_come_and_go_while_they_are_told():
    context, heard = observed()
    ask, late = on_twisted(context), []

    def come(_unit, _table, address, _values):
        context.remove_observer(come)
        context.add_observer(lambda _unit, _table, address, values: late.append((address, values)))
        ask(write(2, address))

    context.add_observer(come)
    ask(write(1, 5))
    assert heard == [(1, [5]), (2, [1])]
    assert late == [(2, [1])], "those hear of a write that are there when it is told"


@pytest.mark.live
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("behind", [False, True])
def test_a_fork_has_nothing_to_tell_of_what_its_parent_is_to_tell(serve, behind):  # noqa: F811
    context, heard = observed()
    server = serve(context)
    client = server.connect()
    for number in range(NOTES + 5 if behind else 3):
        client.ask(write(5, number), write(5, number))
    child = os.fork()
    if not child:
        end_child(context, heard, [6])
    assert os.waitpid(child, 0)[1] == 0
    server.turn()
    assert len(heard) == (NOTES + 1 if behind else 3)


@pytest.mark.live
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_that_an_observer_makes_tells_nothing_twice(serve):  # noqa: F811
    context, heard = observed()
    server = serve(context)
    client, children = server.connect(), []

    def fork(_unit, _table, address, _values):
        if address == 1:
            children.append(os.fork())

    context.add_observer(fork)
    for address in range(3):
        client.ask(write(address, 1), write(address, 1))
    server.turn()
    if not children[0]:
        # It was in the midst of telling.
        end_child(context, heard, [0, 1, 6])
    assert os.waitpid(children[0], 0)[1] == 0
    assert [address for address, _ in heard] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_that_another_thread_makes_while_observers_are_told_on_twisteds_way():
    context, heard = observed()
    ask, children = on_twisted(context), []

    def fork():
        children.append(os.fork())
        if not children[0]:
            end_child(context, heard, [1, 6])

    def slow(_unit, _table, address, _values):
        if address == 1:
            ask(write(2, 1))
            forking = threading.Thread(target=fork)
            forking.start()
            forking.join()

    context.add_observer(slow)
    ask(write(1, 1))
    assert os.waitpid(children[0], 0)[1] == 0
    assert [address for address, _ in heard] == [1, 2]
