"""How the kernel schedules the thread of a compiled loop."""

import ctypes
import errno
import os
import platform
import socket
import struct
import threading

import pytest

from mbcore import ModbusServerContext, ModbusSlaveContext, ModbusSocketFramer
from mbcore.engine.tcp import TcpLoop
from mbcore.session import Session

# sched_getattr, by the machine's name and the size of a pointer.
NUMBERS = {("x86_64", 8): 315, ("aarch64", 8): 275, ("riscv64", 8): 275, ("armv7l", 4): 381, ("armv6l", 4): 381}
# ... of a program with 32 bits on a kernel with 64.
NUMBERS |= {("aarch64", 4): 381, ("armv8l", 4): 381}
# sched_setattr, by the number of sched_getattr: the one before, where a machine has both in one list.
SET = {315: 314, 275: 274, 381: 380}
LINUX = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2] if number.isdigit())


def schedule_of(thread_id):
    """Policy, nice value and slice in nanoseconds."""
    number = NUMBERS.get((platform.machine(), ctypes.sizeof(ctypes.c_void_p)))
    if number is None:
        pytest.skip(f"no number of sched_getattr for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = ctypes.create_string_buffer(48)
    if libc.syscall(number, thread_id, attributes, 48, 0):
        pytest.skip(f"sched_getattr is refused: {os.strerror(ctypes.get_errno())}")
    _, policy, _, nice, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
    return policy, nice, runtime


def schedule_in_a_thread(policy):
    """The schedule of a thread with ``policy``."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        os.sched_setscheduler(thread.native_id, policy, os.sched_param(0))
        return schedule_of(thread.native_id)
    finally:
        done.set()
        thread.join()


def schedule_in_a_loop(policy=None):
    """The schedule of a loop's thread while it serves; ``policy`` is the thread's own before that."""
    context = ModbusServerContext(slaves=ModbusSlaveContext(), single=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = TcpLoop(listener.fileno(), lambda: Session(ModbusSocketFramer, context), 10)

        def run():
            if policy is not None:
                os.sched_setscheduler(0, policy, os.sched_param(0))
            loop.run()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), timeout=30) as client:
                client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0001"))
                assert client.recv(100) == bytes.fromhex("0001 0000 0005 01 03 02 0000")
                return schedule_of(thread.native_id)
        finally:
            loop.stop()
            thread.join(30)


@pytest.mark.skipif(LINUX < (6, 12), reason="before Linux 6.12 no thread of the normal schedule has a slice of its own")
def test_a_loop_has_short_slices_and_keeps_the_rest():
    policy, nice, slice_of_others = schedule_of(threading.get_native_id())
    # Who runs this in another schedule than the normal one has chosen it.
    assert schedule_in_a_loop() == (policy, nice, 100_000 if policy == os.SCHED_OTHER else slice_of_others)


def asks_for_slices(slices):
    """sched_setattr of the calling thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, 0, 0, slices, 0, 0)
    assert libc.syscall(SET[NUMBERS[platform.machine(), ctypes.sizeof(ctypes.c_void_p)]], 0, attributes, 0) == 0


@pytest.mark.skipif(LINUX < (6, 12), reason="before Linux 6.12 no thread of the normal schedule has a slice of its own")
def test_other_threads_have_long_slices_from_then_on_unless_they_have_asked_for_others():
    if schedule_of(threading.get_native_id())[0] != os.SCHED_OTHER:
        pytest.skip("who runs this in another schedule has chosen it")
    ready, done = threading.Barrier(4), threading.Event()

    def run(slices):
        asks_for_slices(slices)
        ready.wait(30)
        done.wait()

    threads = [threading.Thread(target=run, args=(slices,)) for slices in (0, 700_000, 50_000_000)]
    for thread in threads:
        thread.start()
    ready.wait(30)
    usual = schedule_of(threads[0].native_id)[2]
    try:
        schedule_in_a_loop()
        assert [schedule_of(thread.native_id)[2] for thread in threads] == [max(usual, 4_000_000), 700_000, 50_000_000]
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_loop_serves_though_it_cannot_tell_which_threads_there_are(monkeypatch):
    """As where a process has no descriptor left."""

    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(os, "listdir", fail)
    before = schedule_of(threading.get_native_id())
    # It answers.
    schedule_in_a_loop()
    assert schedule_of(threading.get_native_id()) == before


def test_a_schedule_that_somebody_has_chosen_stays():
    chosen = schedule_in_a_thread(os.SCHED_BATCH)
    assert chosen[0] == os.SCHED_BATCH
    # Before Linux 6.12 no slice is told.
    assert schedule_in_a_loop(os.SCHED_BATCH) == chosen
