"""A context that asks a client: one message for each request, and the other side's refusals."""

from types import SimpleNamespace

import pytest
from twisted.internet.defer import Deferred

from mbcore.datastore.remote import RemoteSlaveContext
from mbcore.errors import ModbusIOException, NotImplementedException, RequestError


def answer(**fields):
    return SimpleNamespace(isError=lambda: "exception_code" in fields, **fields)


class Client:
    """Answers everything with one response and notes what it is asked."""

    def __init__(self, response):
        self.response = response
        self.calls = []

    def __getattr__(self, method):
        def call(*arguments, **keywords):
            self.calls.append((method, *arguments, keywords))
            return self.response

        return call


@pytest.mark.parametrize(("fx", "method", "fields"), [
    (1, "read_coils", {"bits": [True] * 8}), (2, "read_discrete_inputs", {"bits": [True] * 8}),
    (3, "read_holding_registers", {"registers": [1, 1, 1]}), (4, "read_input_registers", {"registers": [1, 1, 1]}),
])
def test_a_read_is_one_message(fx, method, fields):
    client = Client(answer(**fields))
    context = RemoteSlaveContext(client, unit=5)
    assert context.validate(fx, 10, 3)
    assert context.getValues(fx, 10, 3) == [1, 1, 1]
    assert client.calls == [(method, 10, 3, {"unit": 5})]
    context.getValues(fx, 10, 3)
    assert len(client.calls) == 2


@pytest.mark.parametrize(("fx", "method"), [(5, "write_coils"), (15, "write_coils"), (6, "write_registers"), (16, "write_registers")])
def test_a_write_is_one_message(fx, method):
    client = Client(answer())
    context = RemoteSlaveContext(client)
    assert context.validate(fx, 10, 2)
    context.setValues(fx, 10, (1, 0))
    assert client.calls == [(method, 10, [1, 0], {})]


@pytest.mark.parametrize(("response", "code"), [(answer(exception_code=2), 2), (ModbusIOException("no answer"), 0x0B)])
@pytest.mark.parametrize("call", [lambda it: it.validate(3, 0, 1), lambda it: it.getValues(3, 0, 1), lambda it: it.setValues(6, 0, [1])])
def test_a_refusal_is_passed_on(call, response, code):
    with pytest.raises(RequestError) as refused:
        call(RemoteSlaveContext(Client(response)))
    assert refused.value.exception_code == code


def test_a_deferred_is_handed_on():
    pending = Deferred()
    context = RemoteSlaveContext(Client(pending))
    assert context.validate(3, 0, 2)
    values = []
    context.getValues(3, 0, 2).addCallback(values.extend)
    pending.callback(answer(registers=[7, 8]))
    assert values == [7, 8]


def test_a_remote_unit_is_not_reset():
    with pytest.raises(NotImplementedException):
        RemoteSlaveContext(None).reset()
