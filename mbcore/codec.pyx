"""PDUs and C structs: requests and responses, both directions, and the one table function code -> length. Knows no store and no frame.

Source: Modbus Application Protocol V1.1b3, clause 6. Server, client, sniffer and gateway share this room.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset

from cpython.bytes cimport PyBytes_AsStringAndSize, PyBytes_FromStringAndSize

from mbcore.constants cimport *
from mbcore.wire cimport (
    get_bytes, get_u8, get_u16, left, load_u16, put_bytes, put_u8, put_u16, read_from, reader_t, write_to, writer_t, written,
)

from mbcore.errors import ConfigurationError, FramingError, RequestError


# ---- lengths --------------------------------------------------------------------------------------------------------------------------

cdef int diagnostics_length(const uint8_t* pdu, int available) noexcept nogil:
    # Only "return query data" has data of any length (AP 6.8.1).
    cdef uint16_t sub_function
    if available < 3:
        return LENGTH_NEEDS_MORE
    sub_function = load_u16(pdu + 1)
    if RESTART_COMMUNICATIONS_OPTION <= sub_function <= FORCE_LISTEN_ONLY_MODE:
        return 5
    if CLEAR_COUNTERS_AND_DIAGNOSTIC_REGISTER <= sub_function <= CLEAR_OVERRUN_COUNTER_AND_FLAG:
        return 5
    return LENGTH_BY_CHECKSUM


cdef int request_length_of(const uint8_t* pdu, int available) noexcept nogil:
    """The length that the request at `pdu` says it has, LENGTH_NEEDS_MORE, or LENGTH_BY_CHECKSUM where its function has none."""
    cdef uint8_t function_code
    if available < 1:
        return LENGTH_NEEDS_MORE
    function_code = pdu[0]
    if READ_COILS <= function_code <= WRITE_SINGLE_REGISTER:
        return 5
    elif function_code == WRITE_MULTIPLE_COILS or function_code == WRITE_MULTIPLE_REGISTERS:
        return 6 + pdu[5] if available >= 6 else LENGTH_NEEDS_MORE
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        return 10 + pdu[9] if available >= 10 else LENGTH_NEEDS_MORE
    elif function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD:
        return 2 + pdu[1] if available >= 2 else LENGTH_NEEDS_MORE
    elif function_code == MASK_WRITE_REGISTER:
        return 7
    elif function_code == READ_FIFO_QUEUE:
        return 3
    elif function_code == DIAGNOSTICS:
        return diagnostics_length(pdu, available)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        if available < 2:
            return LENGTH_NEEDS_MORE
        return 4 if pdu[1] == MEI_READ_DEVICE_IDENTIFICATION else LENGTH_BY_CHECKSUM
    elif (
        function_code == READ_EXCEPTION_STATUS or function_code == GET_COMM_EVENT_COUNTER
        or function_code == GET_COMM_EVENT_LOG or function_code == REPORT_SERVER_ID
    ):
        return 1
    return LENGTH_BY_CHECKSUM


cdef int custom_length_of(const custom_t* custom, const uint8_t* pdu, int available) noexcept nogil:
    """As `request_length_of`, for a custom function code. Sizes and positions count unit id and CRC, as pymodbus' classes do."""
    cdef int position = custom.count_position[pdu[0]]
    if custom.frame_size[pdu[0]]:
        return custom.frame_size[pdu[0]] - 3
    if not position:
        return LENGTH_BY_CHECKSUM
    return position + pdu[position - 1] if available >= position else LENGTH_NEEDS_MORE


cdef int identification_length(const uint8_t* pdu, int available) noexcept nogil:
    cdef int at = 7, _
    if available < at:
        return LENGTH_NEEDS_MORE
    for _ in range(pdu[6]):
        if available < at + 2:
            return LENGTH_NEEDS_MORE
        at += 2 + pdu[at + 1]
    return at


cdef int response_length_of(const uint8_t* pdu, int available) noexcept nogil:
    """As `request_length_of`; LENGTH_IMPOSSIBLE where the byte count can't be, so that a request's first bytes are not taken for one."""
    cdef uint8_t function_code
    cdef int byte_count
    if available < 1:
        return LENGTH_NEEDS_MORE
    function_code = pdu[0]
    if function_code & 0x80:
        return 2
    elif (
        READ_COILS <= function_code <= READ_INPUT_REGISTERS or function_code == READ_WRITE_MULTIPLE_REGISTERS
        or function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD
        or function_code == GET_COMM_EVENT_LOG or function_code == REPORT_SERVER_ID
    ):
        if available < 2:
            return LENGTH_NEEDS_MORE
        byte_count = pdu[1]
        if not byte_count or function_code == GET_COMM_EVENT_LOG and byte_count < 6:
            return LENGTH_IMPOSSIBLE
        if byte_count % 2 and READ_HOLDING_REGISTERS <= function_code and (
            function_code <= READ_INPUT_REGISTERS or function_code == READ_WRITE_MULTIPLE_REGISTERS
        ):
            return LENGTH_IMPOSSIBLE
        return 2 + byte_count
    elif (
        function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER or function_code == WRITE_MULTIPLE_COILS
        or function_code == WRITE_MULTIPLE_REGISTERS or function_code == GET_COMM_EVENT_COUNTER
    ):
        return 5
    elif function_code == READ_EXCEPTION_STATUS:
        return 2
    elif function_code == DIAGNOSTICS:
        return diagnostics_length(pdu, available)
    elif function_code == MASK_WRITE_REGISTER:
        return 7
    elif function_code == READ_FIFO_QUEUE:
        return 3 + load_u16(pdu + 1) if available >= 3 else LENGTH_NEEDS_MORE
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        if available < 2:
            return LENGTH_NEEDS_MORE
        return identification_length(pdu, available) if pdu[1] == MEI_READ_DEVICE_IDENTIFICATION else LENGTH_BY_CHECKSUM
    return LENGTH_BY_CHECKSUM


# ---- requests -------------------------------------------------------------------------------------------------------------------------

cdef int read_read_file(const request_t* request) noexcept nogil:
    # Groups of 7 bytes, and an answer that fits one PDU (AP 6.14). What they point at is the store's to judge.
    cdef reader_t groups = read_from(request.data, request.data_length)
    cdef int answer = 2
    cdef uint16_t record_length
    if request.data_length < MIN_READ_FILE_BYTES or request.data_length > MAX_READ_FILE_BYTES or request.data_length % 7:
        return ILLEGAL_DATA_VALUE
    while left(&groups):
        get_bytes(&groups, 5)
        record_length = get_u16(&groups)
        if not record_length or record_length > MAX_PDU // 2:
            return ILLEGAL_DATA_VALUE
        answer += 2 + 2 * record_length
    return 0 if answer <= MAX_PDU else ILLEGAL_DATA_VALUE


cdef int read_write_file(const request_t* request) noexcept nogil:
    cdef reader_t groups = read_from(request.data, request.data_length)
    cdef uint16_t record_length
    if request.data_length < MIN_WRITE_FILE_BYTES or request.data_length > MAX_WRITE_FILE_BYTES:
        return ILLEGAL_DATA_VALUE
    while left(&groups):
        get_bytes(&groups, 5)
        record_length = get_u16(&groups)
        get_bytes(&groups, 2 * <size_t> record_length)
        if groups.failed or not record_length:
            return ILLEGAL_DATA_VALUE
    return 0


cdef int read_diagnostics(request_t* request) noexcept nogil:
    cdef uint16_t sub_function = request.sub_function, value
    if sub_function == RETURN_QUERY_DATA:
        return ILLEGAL_DATA_VALUE if not request.data_length or request.data_length % 2 else 0
    if not (
        RESTART_COMMUNICATIONS_OPTION <= sub_function <= FORCE_LISTEN_ONLY_MODE
        or CLEAR_COUNTERS_AND_DIAGNOSTIC_REGISTER <= sub_function <= RETURN_BUS_CHARACTER_OVERRUN_COUNT
        or sub_function == CLEAR_OVERRUN_COUNTER_AND_FLAG
    ):
        return ILLEGAL_FUNCTION
    if request.data_length != 2:
        return ILLEGAL_DATA_VALUE
    value = load_u16(request.data)
    if sub_function == RESTART_COMMUNICATIONS_OPTION:
        return 0 if value == 0x0000 or value == 0xFF00 else ILLEGAL_DATA_VALUE
    if sub_function == CHANGE_ASCII_INPUT_DELIMITER:
        # A colon starts a frame: as its end no frame would ever end, and nothing could undo it.
        return ILLEGAL_DATA_VALUE if value & 0xFF or value >> 8 == 58 else 0
    return ILLEGAL_DATA_VALUE if value else 0


cdef int read_request(const uint8_t* pdu, int length, request_t* request) noexcept nogil:
    """Take the request apart. Returns 0, or the exception code that it deserves whatever the store holds: 01, then 03 (AP 6)."""
    cdef reader_t reader = read_from(pdu, length)
    cdef uint8_t function_code = get_u8(&reader), byte_count
    memset(request, 0, sizeof(request_t))
    request.function_code = function_code
    if READ_COILS <= function_code <= READ_INPUT_REGISTERS:
        request.address = get_u16(&reader)
        request.quantity = get_u16(&reader)
        if reader.failed or left(&reader) or not request.quantity:
            return ILLEGAL_DATA_VALUE
        if request.quantity > (MAX_READ_REGISTERS if function_code >= READ_HOLDING_REGISTERS else MAX_READ_BITS):
            return ILLEGAL_DATA_VALUE
    elif function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER:
        request.address = get_u16(&reader)
        request.value = get_u16(&reader)
        request.quantity = 1
        if reader.failed or left(&reader):
            return ILLEGAL_DATA_VALUE
        if function_code == WRITE_SINGLE_COIL and request.value != 0x0000 and request.value != 0xFF00:
            return ILLEGAL_DATA_VALUE
    elif function_code == WRITE_MULTIPLE_COILS or function_code == WRITE_MULTIPLE_REGISTERS:
        request.address = get_u16(&reader)
        request.quantity = get_u16(&reader)
        byte_count = get_u8(&reader)
        request.data_length = <uint16_t> left(&reader)
        request.data = get_bytes(&reader, request.data_length)
        if reader.failed or not request.quantity or request.data_length != byte_count:
            return ILLEGAL_DATA_VALUE
        if function_code == WRITE_MULTIPLE_COILS:
            if request.quantity > MAX_WRITE_BITS or byte_count != (request.quantity + 7) // 8:
                return ILLEGAL_DATA_VALUE
        elif request.quantity > MAX_WRITE_REGISTERS or byte_count != 2 * request.quantity:
            return ILLEGAL_DATA_VALUE
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        request.address = get_u16(&reader)
        request.quantity = get_u16(&reader)
        request.write_address = get_u16(&reader)
        request.write_quantity = get_u16(&reader)
        byte_count = get_u8(&reader)
        request.data_length = <uint16_t> left(&reader)
        request.data = get_bytes(&reader, request.data_length)
        if reader.failed or not request.quantity or request.quantity > MAX_READ_REGISTERS:
            return ILLEGAL_DATA_VALUE
        if not request.write_quantity or request.write_quantity > MAX_READ_WRITE_REGISTERS:
            return ILLEGAL_DATA_VALUE
        if byte_count != 2 * request.write_quantity or request.data_length != byte_count:
            return ILLEGAL_DATA_VALUE
    elif function_code == MASK_WRITE_REGISTER:
        request.address = get_u16(&reader)
        request.and_mask = get_u16(&reader)
        request.or_mask = get_u16(&reader)
        request.quantity = 1
        if reader.failed or left(&reader):
            return ILLEGAL_DATA_VALUE
    elif function_code == READ_FIFO_QUEUE:
        request.address = get_u16(&reader)
        if reader.failed or left(&reader):
            return ILLEGAL_DATA_VALUE
    elif function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD:
        byte_count = get_u8(&reader)
        request.data_length = <uint16_t> left(&reader)
        request.data = get_bytes(&reader, request.data_length)
        if reader.failed or request.data_length != byte_count:
            return ILLEGAL_DATA_VALUE
        return read_read_file(request) if function_code == READ_FILE_RECORD else read_write_file(request)
    elif function_code == DIAGNOSTICS:
        request.sub_function = get_u16(&reader)
        request.data_length = <uint16_t> left(&reader)
        request.data = get_bytes(&reader, request.data_length)
        return ILLEGAL_DATA_VALUE if reader.failed else read_diagnostics(request)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        request.sub_function = get_u8(&reader)
        if reader.failed:
            return ILLEGAL_DATA_VALUE
        if request.sub_function != MEI_READ_DEVICE_IDENTIFICATION:
            return ILLEGAL_FUNCTION
        request.read_code = get_u8(&reader)
        request.object_id = get_u8(&reader)
        if reader.failed or left(&reader) or not 1 <= request.read_code <= 4:
            return ILLEGAL_DATA_VALUE
    elif (
        function_code == READ_EXCEPTION_STATUS or function_code == GET_COMM_EVENT_COUNTER
        or function_code == GET_COMM_EVENT_LOG or function_code == REPORT_SERVER_ID
    ):
        if left(&reader):
            return ILLEGAL_DATA_VALUE
    else:
        return ILLEGAL_FUNCTION
    return 0


cdef void write_request(const request_t* request, writer_t* writer) noexcept nogil:
    """Write the request PDU; `writer.failed` where it does not fit."""
    cdef uint8_t function_code = request.function_code
    put_u8(writer, function_code)
    if READ_COILS <= function_code <= READ_INPUT_REGISTERS:
        put_u16(writer, request.address)
        put_u16(writer, request.quantity)
    elif function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER:
        put_u16(writer, request.address)
        put_u16(writer, request.value)
    elif function_code == WRITE_MULTIPLE_COILS or function_code == WRITE_MULTIPLE_REGISTERS:
        put_u16(writer, request.address)
        put_u16(writer, request.quantity)
        put_u8(writer, <uint8_t> request.data_length)
        put_bytes(writer, request.data, request.data_length)
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        put_u16(writer, request.address)
        put_u16(writer, request.quantity)
        put_u16(writer, request.write_address)
        put_u16(writer, request.write_quantity)
        put_u8(writer, <uint8_t> request.data_length)
        put_bytes(writer, request.data, request.data_length)
    elif function_code == MASK_WRITE_REGISTER:
        put_u16(writer, request.address)
        put_u16(writer, request.and_mask)
        put_u16(writer, request.or_mask)
    elif function_code == READ_FIFO_QUEUE:
        put_u16(writer, request.address)
    elif function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD:
        put_u8(writer, <uint8_t> request.data_length)
        put_bytes(writer, request.data, request.data_length)
    elif function_code == DIAGNOSTICS:
        put_u16(writer, request.sub_function)
        put_bytes(writer, request.data, request.data_length)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        put_u8(writer, <uint8_t> request.sub_function)
        put_u8(writer, request.read_code)
        put_u8(writer, request.object_id)


# ---- responses ------------------------------------------------------------------------------------------------------------------------

cdef int response_head(uint8_t function_code) noexcept nogil:
    """How many bytes of a response PDU stand before its `data`."""
    if function_code == DIAGNOSTICS:
        return 3
    elif function_code == READ_FIFO_QUEUE:
        return 5
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        return 7
    elif function_code == GET_COMM_EVENT_LOG:
        return 8
    return 2


cdef void write_response(const response_t* response, writer_t* writer) noexcept nogil:
    """Write the response PDU; `writer.failed` where it does not fit."""
    cdef uint8_t function_code = response.function_code
    if response.exception_code:
        put_u8(writer, function_code | 0x80)
        put_u8(writer, response.exception_code)
        return
    put_u8(writer, function_code)
    if (
        READ_COILS <= function_code <= READ_INPUT_REGISTERS or function_code == READ_WRITE_MULTIPLE_REGISTERS
        or function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD or function_code == REPORT_SERVER_ID
    ):
        put_u8(writer, <uint8_t> response.data_length)
        put_bytes(writer, response.data, response.data_length)
    elif function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER:
        put_u16(writer, response.address)
        put_u16(writer, response.value)
    elif function_code == WRITE_MULTIPLE_COILS or function_code == WRITE_MULTIPLE_REGISTERS:
        put_u16(writer, response.address)
        put_u16(writer, response.quantity)
    elif function_code == MASK_WRITE_REGISTER:
        put_u16(writer, response.address)
        put_u16(writer, response.and_mask)
        put_u16(writer, response.or_mask)
    elif function_code == READ_FIFO_QUEUE:
        # The byte count covers the FIFO count, which is in registers (AP 6.18).
        put_u16(writer, response.data_length + 2)
        put_u16(writer, response.data_length // 2)
        put_bytes(writer, response.data, response.data_length)
    elif function_code == READ_EXCEPTION_STATUS:
        put_u8(writer, <uint8_t> response.status)
    elif function_code == DIAGNOSTICS:
        put_u16(writer, response.sub_function)
        put_bytes(writer, response.data, response.data_length)
    elif function_code == GET_COMM_EVENT_COUNTER:
        put_u16(writer, response.status)
        put_u16(writer, response.event_count)
    elif function_code == GET_COMM_EVENT_LOG:
        put_u8(writer, <uint8_t> (response.data_length + 6))
        put_u16(writer, response.status)
        put_u16(writer, response.event_count)
        put_u16(writer, response.message_count)
        put_bytes(writer, response.data, response.data_length)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        put_u8(writer, <uint8_t> response.sub_function)
        put_u8(writer, response.read_code)
        put_u8(writer, response.conformity)
        put_u8(writer, response.more_follows)
        put_u8(writer, response.next_object)
        put_u8(writer, response.object_count)
        put_bytes(writer, response.data, response.data_length)


cdef int read_response(const uint8_t* pdu, int length, response_t* response) noexcept nogil:
    """Take the response apart. Returns 0, or -1 where it is no valid response of its function."""
    cdef reader_t reader = read_from(pdu, length)
    cdef uint8_t function_code = get_u8(&reader)
    cdef int byte_count = -1
    memset(response, 0, sizeof(response_t))
    if reader.failed:
        return -1
    response.function_code = function_code & 0x7F
    if function_code & 0x80:
        response.exception_code = get_u8(&reader)
        return 0 if not reader.failed and not left(&reader) and response.exception_code else -1
    if (
        READ_COILS <= function_code <= READ_INPUT_REGISTERS or function_code == READ_WRITE_MULTIPLE_REGISTERS
        or function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD or function_code == REPORT_SERVER_ID
    ):
        byte_count = get_u8(&reader)
        if function_code >= READ_HOLDING_REGISTERS and function_code != REPORT_SERVER_ID:
            if byte_count % 2 and function_code != WRITE_FILE_RECORD:
                return -1
    elif function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER:
        response.address = get_u16(&reader)
        response.value = get_u16(&reader)
        if function_code == WRITE_SINGLE_COIL and response.value != 0x0000 and response.value != 0xFF00:
            return -1
    elif function_code == WRITE_MULTIPLE_COILS or function_code == WRITE_MULTIPLE_REGISTERS:
        response.address = get_u16(&reader)
        response.quantity = get_u16(&reader)
    elif function_code == MASK_WRITE_REGISTER:
        response.address = get_u16(&reader)
        response.and_mask = get_u16(&reader)
        response.or_mask = get_u16(&reader)
    elif function_code == READ_FIFO_QUEUE:
        byte_count = get_u16(&reader) - 2
        response.quantity = get_u16(&reader)
        if byte_count != 2 * response.quantity:
            return -1
    elif function_code == READ_EXCEPTION_STATUS:
        response.status = get_u8(&reader)
    elif function_code == DIAGNOSTICS:
        response.sub_function = get_u16(&reader)
        byte_count = <int> left(&reader)
    elif function_code == GET_COMM_EVENT_COUNTER:
        response.status = get_u16(&reader)
        response.event_count = get_u16(&reader)
    elif function_code == GET_COMM_EVENT_LOG:
        byte_count = get_u8(&reader) - 6
        response.status = get_u16(&reader)
        response.event_count = get_u16(&reader)
        response.message_count = get_u16(&reader)
        if byte_count < 0:
            return -1
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        response.sub_function = get_u8(&reader)
        response.read_code = get_u8(&reader)
        response.conformity = get_u8(&reader)
        response.more_follows = get_u8(&reader)
        response.next_object = get_u8(&reader)
        response.object_count = get_u8(&reader)
        if response.sub_function != MEI_READ_DEVICE_IDENTIFICATION or identification_length(pdu, length) != length:
            return -1
        byte_count = <int> left(&reader)
    else:
        return -1
    if byte_count >= 0:
        response.data = get_bytes(&reader, byte_count)
        response.data_length = <uint16_t> byte_count
    return -1 if reader.failed or left(&reader) else 0


# ---- the Python face: dicts of fields -------------------------------------------------------------------------------------------------

cdef int whole(object value, str what, int function_code, int low, int high) except -1:
    if not hasattr(value, "__index__") or not low <= value.__index__() <= high:
        raise ConfigurationError(f"{what} {value!r} of function {function_code} is not a whole number {low}..{high}")
    return value.__index__()


cdef int field(dict fields, str name, int function_code, int low, int high) except -1:
    if name not in fields:
        raise ConfigurationError(f"function {function_code} needs the field {name!r}")
    return whole(fields.pop(name), name, function_code, low, high)


cdef list sequence(dict fields, str name, int function_code):
    value = fields.pop(name, ())
    if not hasattr(value, "__iter__") or isinstance(value, str):
        raise ConfigurationError(f"{name} {value!r} of function {function_code} is not a list")
    return list(value)


cdef bytes plain_bytes(dict fields, str name, int function_code, bytes default):
    value = fields.pop(name, default)
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ConfigurationError(f"{name} {value!r} of function {function_code} is not bytes")
    return bytes(value)


cdef bytes register_bytes(list values, str name, int function_code):
    result = bytearray()
    for value in values:
        result += whole(value, f"a value of {name},", function_code, 0, 0xFFFF).to_bytes(2, "big")
    return bytes(result)


cdef bytes bit_bytes(list values):
    cdef int i
    result = bytearray((len(values) + 7) // 8)
    for i, value in enumerate(values):
        if value:
            result[i // 8] |= 1 << i % 8
    return bytes(result)


cdef bytes group_bytes(list groups, int function_code):
    result = bytearray()
    for group in groups:
        if not isinstance(group, (tuple, list)) or len(group) != 3:
            raise ConfigurationError(f"the entry {group!r} of groups of function {function_code} is not a tuple of three")
        file_number, record_number, length = group
        records = []
        if function_code == WRITE_FILE_RECORD:
            records = sequence({"groups": length}, "groups", function_code)
            length = len(records)
        result += bytes([FILE_REFERENCE_TYPE]) + register_bytes([file_number, record_number, length], "groups", function_code)
        result += register_bytes(records, "groups", function_code)
    return bytes(result)


cdef list registers_of(const uint8_t* data, int quantity):
    return [load_u16(data + 2 * i) for i in range(quantity)]


cdef list bits_of(const uint8_t* data, int quantity):
    return [bool(data[i >> 3] >> (i & 7) & 1) for i in range(quantity)]


cdef const uint8_t* bytes_at(bytes data, Py_ssize_t* length) except NULL:
    cdef char* at
    PyBytes_AsStringAndSize(data, &at, length)
    return <const uint8_t*> at


cdef bytes finished(writer_t* writer, int function_code):
    if writer.failed:
        raise ConfigurationError(f"this message of function {function_code} does not fit the 253 bytes of a PDU")
    return PyBytes_FromStringAndSize(<char*> writer.start, written(writer))


cdef void no_more(dict fields, int function_code) except *:
    if fields:
        raise ConfigurationError(f"function {function_code} has no field {next(iter(fields))!r}")


def request_length(pdu):
    """Return the length in bytes that the request ``pdu`` (a beginning of it suffices) says it has.

    None where more bytes are needed to tell, -1 where only a checksum or the transport's length can tell.
    """
    cdef Py_ssize_t length
    cdef bytes data = bytes(memoryview(pdu))
    cdef const uint8_t* at = bytes_at(data, &length)
    return request_length_of(at, <int> length) or None


def response_length(pdu):
    """Return the length in bytes that the response ``pdu`` says it has; see :func:`request_length`. An impossible byte count gives -1."""
    cdef Py_ssize_t length
    cdef bytes data = bytes(memoryview(pdu))
    cdef const uint8_t* at = bytes_at(data, &length)
    cdef int said = response_length_of(at, <int> length)
    return LENGTH_BY_CHECKSUM if said == LENGTH_IMPOSSIBLE else said or None


def encode_request(int function_code, **fields):
    """Return the request PDU of ``function_code`` as bytes.

    Fields by function (AP 6): 1-4 ``address, quantity``; 5, 6 ``address, value``; 8 ``sub_function, data``; 15 ``address, bits``;
    16 ``address, registers``; 20 ``groups=[(file, record, length)]``; 21 ``groups=[(file, record, registers)]``; 22 ``address, and_mask,
    or_mask``; 23 ``address, quantity, write_address, registers``; 24 ``address``; 43 ``read_code, object_id`` (and ``mei_type``, 14).
    The limits of quantities are the server's to check, so that a test can break them.

    :raises ConfigurationError: a field is missing, unknown or not in its range
    """
    cdef request_t request
    cdef uint8_t[512] buffer
    cdef writer_t writer = write_to(buffer, MAX_PDU)
    cdef bytes data = b""
    cdef Py_ssize_t length
    memset(&request, 0, sizeof(request))
    request.function_code = whole(function_code, "function_code", function_code, 1, 127)
    if 1 <= function_code <= 6 or function_code in (15, 16, 22, 23, 24):
        request.address = field(fields, "address", function_code, 0, 0xFFFF)
    if 1 <= function_code <= 4 or function_code == 23:
        request.quantity = field(fields, "quantity", function_code, 0, 0xFFFF)
    if function_code == WRITE_SINGLE_COIL:
        request.value = 0xFF00 if field(fields, "value", function_code, 0, 1) else 0
    elif function_code == WRITE_SINGLE_REGISTER:
        request.value = field(fields, "value", function_code, 0, 0xFFFF)
    elif function_code == DIAGNOSTICS:
        request.sub_function = field(fields, "sub_function", function_code, 0, 0xFFFF)
        data = plain_bytes(fields, "data", function_code, b"\0\0")
    elif function_code == WRITE_MULTIPLE_COILS:
        values = sequence(fields, "bits", function_code)
        request.quantity = whole(len(values), "the number of bits,", function_code, 1, MAX_WRITE_BITS)
        data = bit_bytes(values)
    elif function_code == WRITE_MULTIPLE_REGISTERS:
        values = sequence(fields, "registers", function_code)
        request.quantity = whole(len(values), "the number of registers,", function_code, 1, MAX_WRITE_REGISTERS)
        data = register_bytes(values, "registers", function_code)
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        request.write_address = field(fields, "write_address", function_code, 0, 0xFFFF)
        values = sequence(fields, "registers", function_code)
        request.write_quantity = whole(len(values), "the number of registers,", function_code, 1, MAX_READ_WRITE_REGISTERS)
        data = register_bytes(values, "registers", function_code)
    elif function_code == MASK_WRITE_REGISTER:
        request.and_mask = field(fields, "and_mask", function_code, 0, 0xFFFF)
        request.or_mask = field(fields, "or_mask", function_code, 0, 0xFFFF)
    elif function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD:
        data = group_bytes(sequence(fields, "groups", function_code), function_code)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        request.sub_function = field(fields, "mei_type", function_code, 0, 255) if "mei_type" in fields else MEI_READ_DEVICE_IDENTIFICATION
        request.read_code = field(fields, "read_code", function_code, 0, 255)
        request.object_id = field(fields, "object_id", function_code, 0, 255)
    elif function_code not in (1, 2, 3, 4, 7, 11, 12, 17, 24):
        raise ConfigurationError(f"function {function_code} is not one of Modbus' public functions")
    no_more(fields, function_code)
    request.data = bytes_at(data, &length)
    request.data_length = <uint16_t> min(length, 0xFFFF)
    write_request(&request, &writer)
    return finished(&writer, function_code)


def decode_request(pdu):
    """Return the fields of the request ``pdu`` as a dict, ``function_code`` among them; names as in :func:`encode_request`.

    :raises RequestError: the request deserves an exception response whatever the store holds; its ``exception_code`` is 1 or 3
    """
    cdef request_t request
    cdef Py_ssize_t length
    cdef bytes held = bytes(memoryview(pdu))
    cdef const uint8_t* at = bytes_at(held, &length)
    cdef int function_code, refused = read_request(at, <int> length, &request)
    cdef dict fields
    if refused:
        raise RequestError(refused)
    function_code = request.function_code
    fields = {"function_code": function_code}
    if 1 <= function_code <= 6 or function_code in (15, 16, 22, 23, 24):
        fields["address"] = request.address
    if 1 <= function_code <= 4 or function_code == 23:
        fields["quantity"] = request.quantity
    if function_code == WRITE_SINGLE_COIL:
        fields["value"] = request.value == 0xFF00
    elif function_code == WRITE_SINGLE_REGISTER:
        fields["value"] = request.value
    elif function_code == WRITE_MULTIPLE_COILS:
        fields["bits"] = bits_of(request.data, request.quantity)
    elif function_code == WRITE_MULTIPLE_REGISTERS:
        fields["registers"] = registers_of(request.data, request.data_length // 2)
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        fields["write_address"] = request.write_address
        fields["registers"] = registers_of(request.data, request.data_length // 2)
    elif function_code == MASK_WRITE_REGISTER:
        fields["and_mask"] = request.and_mask
        fields["or_mask"] = request.or_mask
    elif function_code == DIAGNOSTICS:
        fields["sub_function"] = request.sub_function
        fields["data"] = request.data[:request.data_length]
    elif function_code == READ_FILE_RECORD or function_code == WRITE_FILE_RECORD:
        fields["groups"] = request_groups(&request)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        fields["mei_type"] = request.sub_function
        fields["read_code"] = request.read_code
        fields["object_id"] = request.object_id
    return fields


cdef list request_groups(const request_t* request):
    cdef reader_t reader = read_from(request.data, request.data_length)
    groups = []
    while left(&reader):
        get_u8(&reader)
        file_number, record_number, record_length = get_u16(&reader), get_u16(&reader), get_u16(&reader)
        if request.function_code == WRITE_FILE_RECORD:
            groups.append((file_number, record_number, [get_u16(&reader) for _ in range(record_length)]))
        else:
            groups.append((file_number, record_number, record_length))
    return groups


def encode_response(int function_code, **fields):
    """Return the response PDU of ``function_code`` as bytes.

    ``exception_code=`` makes an exception response. Otherwise, by function (AP 6): 1, 2 ``bits``; 3, 4, 23, 24 ``registers``; 5, 6
    ``address, value``; 7 ``status``; 8 ``sub_function, data``; 11 ``status, event_count``; 12 ``status, event_count, message_count,
    events``; 15, 16 ``address, quantity``; 17 ``server_id``; 20 ``groups=[registers]``; 21 as the request; 22 ``address, and_mask,
    or_mask``; 43 ``read_code, conformity, more_follows, next_object, objects={id: bytes}``.

    :raises ConfigurationError: a field is missing, unknown or not in its range
    """
    cdef response_t response
    cdef uint8_t[512] buffer
    cdef writer_t writer = write_to(buffer, MAX_PDU)
    cdef bytes data = b""
    cdef Py_ssize_t length
    memset(&response, 0, sizeof(response))
    response.function_code = whole(function_code, "function_code", function_code, 0, 127)
    if "exception_code" in fields:
        response.exception_code = field(fields, "exception_code", function_code, 1, 255)
    elif function_code in (1, 2):
        data = bit_bytes(sequence(fields, "bits", function_code))
    elif function_code in (3, 4, 23, 24):
        data = register_bytes(sequence(fields, "registers", function_code), "registers", function_code)
    elif function_code in (5, 6, 15, 16, 22):
        response.address = field(fields, "address", function_code, 0, 0xFFFF)
        if function_code == WRITE_SINGLE_COIL:
            response.value = 0xFF00 if field(fields, "value", function_code, 0, 1) else 0
        elif function_code == WRITE_SINGLE_REGISTER:
            response.value = field(fields, "value", function_code, 0, 0xFFFF)
        elif function_code == MASK_WRITE_REGISTER:
            response.and_mask = field(fields, "and_mask", function_code, 0, 0xFFFF)
            response.or_mask = field(fields, "or_mask", function_code, 0, 0xFFFF)
        else:
            response.quantity = field(fields, "quantity", function_code, 0, 0xFFFF)
    elif function_code == READ_EXCEPTION_STATUS:
        response.status = field(fields, "status", function_code, 0, 255)
    elif function_code == DIAGNOSTICS:
        response.sub_function = field(fields, "sub_function", function_code, 0, 0xFFFF)
        data = plain_bytes(fields, "data", function_code, b"\0\0")
    elif function_code == GET_COMM_EVENT_COUNTER or function_code == GET_COMM_EVENT_LOG:
        response.status = field(fields, "status", function_code, 0, 0xFFFF)
        response.event_count = field(fields, "event_count", function_code, 0, 0xFFFF)
        if function_code == GET_COMM_EVENT_LOG:
            response.message_count = field(fields, "message_count", function_code, 0, 0xFFFF)
            data = plain_bytes(fields, "events", function_code, b"")
    elif function_code == REPORT_SERVER_ID:
        data = plain_bytes(fields, "server_id", function_code, b"")
    elif function_code == READ_FILE_RECORD:
        for group in sequence(fields, "groups", function_code):
            records = register_bytes(sequence({"groups": group}, "groups", function_code), "groups", function_code)
            data += bytes([whole(len(records) + 1, "the length of a group,", function_code, 1, 0xFF), FILE_REFERENCE_TYPE]) + records
    elif function_code == WRITE_FILE_RECORD:
        data = group_bytes(sequence(fields, "groups", function_code), function_code)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        response.sub_function = MEI_READ_DEVICE_IDENTIFICATION
        fields.pop("mei_type", None)
        response.read_code = field(fields, "read_code", function_code, 1, 4)
        response.conformity = field(fields, "conformity", function_code, 0, 255)
        response.more_follows = 0xFF if fields.pop("more_follows", False) else 0
        response.next_object = field(fields, "next_object", function_code, 0, 255) if "next_object" in fields else 0
        objects = fields.pop("objects", {})
        if not isinstance(objects, dict):
            raise ConfigurationError(f"objects {objects!r} of function {function_code} is not a dict {{object id: bytes}}")
        response.object_count = whole(len(objects), "the number of objects,", function_code, 0, 0xFF)
        for object_id in objects:
            text = plain_bytes({"objects": objects[object_id]}, "objects", function_code, b"")
            data += bytes([whole(object_id, "an object id,", function_code, 0, 0xFF)])
            data += bytes([whole(len(text), "the length of a text,", function_code, 0, 0xFF)]) + text
    else:
        raise ConfigurationError(f"function {function_code} is not one of Modbus' public functions")
    no_more(fields, function_code)
    response.data = bytes_at(data, &length)
    response.data_length = <uint16_t> min(length, 0xFFFF)
    write_response(&response, &writer)
    return finished(&writer, function_code)


def decode_response(pdu):
    """Return the fields of the response ``pdu`` as a dict, ``function_code`` without 0x80 among them; names as in :func:`encode_response`.

    An exception response has ``exception_code`` and nothing more. ``bits`` are as many as the bytes hold, eight a byte.

    :raises FramingError: these bytes are no valid response of their function
    """
    cdef response_t response
    cdef request_t request
    cdef Py_ssize_t length
    cdef bytes held = bytes(memoryview(pdu))
    cdef const uint8_t* at = bytes_at(held, &length)
    cdef reader_t reader
    cdef int function_code
    cdef dict fields
    if read_response(at, <int> length, &response):
        raise FramingError(f"{held.hex(' ') or 'an empty PDU'} is no valid response of its function")
    function_code = response.function_code
    fields = {"function_code": function_code}
    if response.exception_code:
        fields["exception_code"] = response.exception_code
    elif function_code in (1, 2):
        fields["bits"] = bits_of(response.data, 8 * response.data_length)
    elif function_code in (3, 4, 23, 24):
        fields["registers"] = registers_of(response.data, response.data_length // 2)
    elif function_code in (5, 6, 15, 16, 22):
        fields["address"] = response.address
        if function_code == WRITE_SINGLE_COIL:
            fields["value"] = response.value == 0xFF00
        elif function_code == WRITE_SINGLE_REGISTER:
            fields["value"] = response.value
        elif function_code == MASK_WRITE_REGISTER:
            fields["and_mask"] = response.and_mask
            fields["or_mask"] = response.or_mask
        else:
            fields["quantity"] = response.quantity
    elif function_code == READ_EXCEPTION_STATUS:
        fields["status"] = response.status
    elif function_code == DIAGNOSTICS:
        fields["sub_function"] = response.sub_function
        fields["data"] = response.data[:response.data_length]
    elif function_code == GET_COMM_EVENT_COUNTER:
        fields["status"] = response.status
        fields["event_count"] = response.event_count
    elif function_code == GET_COMM_EVENT_LOG:
        fields["status"] = response.status
        fields["event_count"] = response.event_count
        fields["message_count"] = response.message_count
        fields["events"] = response.data[:response.data_length]
    elif function_code == REPORT_SERVER_ID:
        fields["server_id"] = response.data[:response.data_length]
    elif function_code == READ_FILE_RECORD:
        fields["groups"] = response_groups(&response)
    elif function_code == WRITE_FILE_RECORD:
        request.function_code = WRITE_FILE_RECORD
        request.data = response.data
        request.data_length = response.data_length
        if read_write_file(&request):
            raise FramingError("the groups of the file record response do not add up")
        fields["groups"] = request_groups(&request)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        fields["mei_type"] = response.sub_function
        fields["read_code"] = response.read_code
        fields["conformity"] = response.conformity
        fields["more_follows"] = response.more_follows != 0
        fields["next_object"] = response.next_object
        fields["objects"] = objects = {}
        reader = read_from(response.data, response.data_length)
        while left(&reader):
            object_id, text_length = get_u8(&reader), get_u8(&reader)
            text = get_bytes(&reader, text_length)
            objects[object_id] = text[:text_length]
    return fields


cdef list response_groups(const response_t* response):
    cdef reader_t reader = read_from(response.data, response.data_length)
    cdef const uint8_t* records
    cdef int length
    groups = []
    while left(&reader):
        length = get_u8(&reader) - 1
        get_u8(&reader)
        records = get_bytes(&reader, max(length, 0))
        if reader.failed or length < 0 or length % 2:
            raise FramingError("a group of the file record response has a length that does not add up")
        groups.append(registers_of(records, length // 2))
    return groups
