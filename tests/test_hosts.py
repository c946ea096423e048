"""The hosts that compiled loops let in by themselves: those that ModbusAccessControl lets in, and nobody else."""

import sys
import threading
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mbcore import device, hosts
from mbcore.device import ModbusAccessControl
from mbcore.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("access_control")

# Of a few networks, where they meet, and of all.
ADDRESSES = st.one_of(
    st.ip_addresses(v=4, network="10.0.0.0/29"),
    st.ip_addresses(v=6, network="fd00::/125"),
    st.ip_addresses(v=6, network="::ffff:10.0.0.0/125"),
    st.ip_addresses(),
)
NETWORKS = ADDRESSES.flatmap(lambda one: st.integers(0, one.max_prefixlen).map(lambda bits: f"{one}/{bits}"))


def knows(host):
    """Whether a loop lets the host in, a text, without asking Python."""
    return hosts.lets_in(ip_address(host).packed)


def test_without_a_table_nobody_is_asked_for():
    assert hosts.lets_in(bytes(4))
    assert hosts.lets_in(b"")
    ModbusAccessControl().remove("127.0.0.1")
    assert knows("127.0.0.1")


def test_who_has_no_address_is_asked_for():
    ModbusAccessControl().add(["0.0.0.0/0", "::/0"])
    assert knows("192.0.2.7")
    assert knows("2001:db8::7")
    for host in (b"", bytes(3), bytes(5), bytes(17)):
        assert not hosts.lets_in(host)


@given(entries=st.lists(st.one_of(ADDRESSES.map(str), NETWORKS), max_size=6), asked=st.lists(ADDRESSES, min_size=1, max_size=6))
@example(["::/0", "::ffff:10.0.0.0/120", "::ffff:10.0.0.7/128"], [ip_address("10.0.0.7"), ip_address("::ffff:10.0.0.7")])
@example(["0.0.0.0/0"], [ip_address("::ffff:10.0.0.7"), ip_address("::10.0.0.7"), ip_address("fd00::")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_loop_lets_in_whom_the_table_lets_in(entries, asked):
    access = ModbusAccessControl()
    access.remove(list(access))
    access.add(entries)
    assert [hosts.lets_in(host.packed) for host in asked] == [str(host) in access for host in asked]
    access.remove(entries[:1])
    assert [hosts.lets_in(host.packed) for host in asked] == [str(host) in access for host in asked]


def test_an_address_of_a_link_is_pythons():
    """A loop can't tell on which link a host is; a network has none."""
    access = ModbusAccessControl()
    access.add(["fe80::1%eth0", "fe80::2", "fe80:1::%eth0/64", "::ffff:10.0.0.7%eth0"])
    assert "fe80::1%eth0" in access
    for host, known in {"fe80::1": False, "fe80::2": True, "fe80:1::7": True, "10.0.0.7": True}.items():
        assert knows(host) == (host in access) == known


@pytest.mark.parametrize("entry", [(bytes(5), 8), (b"", 0), (bytes(17), 8), (bytes(4), 33), (bytes(16), 129), (bytes(4), -1)])
def test_a_table_that_makes_no_sense_is_refused_and_the_old_one_stays(entry):
    ModbusAccessControl().add("10.0.0.1")
    with pytest.raises(ConfigurationError, match="is no network"):
        hosts.set_table({"good": (bytes(4), 32), "bad": entry})
    assert knows("10.0.0.1")
    assert not knows("0.0.0.0")


@pytest.mark.parametrize("last", ["add", "remove"])
def test_what_another_thread_changes_meanwhile_stays_changed(last):
    """It comes in wherever Python may let it, and comes to its end before this one."""
    access = ModbusAccessControl()
    changes = {"add": (access.add, "10.0.0.3"), "remove": (access.remove, "10.0.0.1")}
    (outer, host), (inner, other) = changes.pop(last), *changes.values()
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != device.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == place:
                thread = threading.Thread(target=inner, args=(other,))
                thread.start()
                thread.join()
        return trace

    for place in range(1, 100):
        access.remove(list(access))
        access.add(["10.0.0.1", "10.0.0.2"])
        lines, before = 0, sys.gettrace()
        sys.settrace(trace)
        try:
            outer(host)
        finally:
            sys.settrace(before)
        if lines < place:
            break
        assert [knows(f"10.0.0.{number}") for number in (1, 2, 3)] == [False, True, True]
    assert place > 10


@pytest.mark.parametrize("outer", [lambda: ModbusAccessControl().remove("10.0.0.9"), device.tell_loops], ids=["remove", "a server's start"])
def test_the_first_host_that_another_thread_adds_meanwhile_is_the_only_one(outer, monkeypatch):
    access = ModbusAccessControl()
    events = 0

    def trace(frame, event, _):
        nonlocal events
        if frame.f_code.co_filename != device.__file__:
            return None
        events += 1
        if events == place:
            thread = threading.Thread(target=access.add, args=("10.0.0.3",))
            thread.start()
            thread.join()
        return trace

    for place in range(1, 100):
        monkeypatch.setattr(ModbusAccessControl, "_filled", False)
        hosts.set_table(None)
        events, before = 0, sys.gettrace()
        sys.settrace(trace)
        try:
            outer()
        finally:
            sys.settrace(before)
        if events < place:
            break
        assert [knows(host) for host in ("10.0.0.3", "192.0.2.7")] == [True, False]
    assert place > 5


# ---- rules of the application's -------------------------------------------------------------------------------------------------------


REPLACED = {
    "check": lambda self, host: False,
    "__contains__": lambda self, host: False,
    "enforced": property(lambda self: False),
}


class Guard(ModbusAccessControl):
    def check(self, host):
        return super().check(host) and host != "10.0.0.1"


class Doorman:
    """No class of ours at all."""

    enforced = True

    def check(self, host):
        return True


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_rule_that_replaces_ours_is_asked_for_everyone(monkeypatch, name, change):
    access = ModbusAccessControl()
    access.add("10.0.0.1")
    with monkeypatch.context() as patched:
        patched.setattr(ModbusAccessControl, name, REPLACED[name])
        getattr(access, change)("10.0.0.2")
        assert not knows("10.0.0.1")
    getattr(access, change)("10.0.0.2")
    assert knows("10.0.0.1")


def test_a_rule_of_the_instance_is_asked_for_everyone(monkeypatch):
    access = ModbusAccessControl()
    monkeypatch.setattr(access, "check", lambda host: False, raising=False)
    access.add("10.0.0.1")
    assert not knows("10.0.0.1")


@pytest.mark.parametrize("kind", [Guard, Doorman])
def test_a_rule_of_a_class_in_the_place_of_ours_is_asked_for_everyone(monkeypatch, kind):
    access = ModbusAccessControl()
    access.add("10.0.0.2")
    monkeypatch.setattr(device, "ModbusAccessControl", kind)
    access.add("10.0.0.3")
    assert not knows("10.0.0.2")


def test_a_class_in_the_place_of_ours_that_has_our_rule_has_our_table(monkeypatch):
    monkeypatch.setattr(device, "ModbusAccessControl", type("Plain", (ModbusAccessControl,), {}))
    device.ModbusAccessControl().add("10.0.0.2")
    assert knows("10.0.0.2")
    assert not knows("10.0.0.3")
