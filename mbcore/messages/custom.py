"""Custom function codes: a user's request class answers. Knows no frames."""

from collections.abc import Callable
from typing import Any

from mbcore.constants import ExceptionCode, Limit
from mbcore.control import ModbusControlBlock
from mbcore.errors import ModbusError, RequestError


def execute_custom(
    decoder: Any,
    pdu: bytes,
    context: Any,
    control: ModbusControlBlock,
    unit_id: int,
    transaction_id: int,
    report: Callable[[str, BaseException], object] | None,
) -> bytes:
    """Return the response PDU that the class registered with ``decoder`` makes of the request ``pdu``; b"" where it does not respond.

    What ``execute`` raises is an answer: a RequestError its own exception code, anything else 04.
    """
    code = pdu[0]
    try:
        request = decoder.decode(pdu)
        request.unit_id, request.transaction_id, request.control, request.report = unit_id, transaction_id, control, report
        response = request.execute(context)
        if response is None or not getattr(response, "should_respond", True):
            return b""
        answer = bytes([response.function_code]) + bytes(response.encode())
        if len(answer) > Limit.MAX_PDU:
            raise ModbusError(f"the response {response!r} has {len(answer)} bytes; {int(Limit.MAX_PDU)} fit a PDU")
    except RequestError as error:
        return bytes([code | 0x80, error.exception_code])
    except (Exception, SystemExit) as error:
        if report is not None:
            name = decoder.lookupPduClass(code).__name__
            report(f"{name} failed at function {code}; the master is answered with exception 04", error)
        return bytes([code | 0x80, ExceptionCode.SERVER_DEVICE_FAILURE])
    return answer
