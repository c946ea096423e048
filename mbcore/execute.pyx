"""Request -> action on store and control -> response. The only room that knows codec, store and control.

`execute` runs without the GIL and with the image locked; it returns 0, an exception code, or EXECUTE_IN_PYTHON where the table, or the
whole context, is Python's. Order of checks: what `codec.read_request` found (01, 03), then the addresses (02), then the action (04). A
request that is refused has changed nothing.

Source: Modbus Application Protocol V1.1b3, the state diagram of each function in clause 6.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongAndOverflow

from mbcore.codec cimport bits_of, read_request, registers_of, request_t, response_head, response_t, write_response
from mbcore.constants cimport *
from mbcore.control cimport (
    BUS_CHARACTER_OVERRUN, BUS_MESSAGE, ENTERED_LISTEN_ONLY, ModbusControlBlock, add_event, clear_counters, control_t, copy_events,
    identity_t, restart_communications,
)
from mbcore.datastore.context cimport ModbusSlaveContext, numbered, unit_of, unit_t
from mbcore.datastore.observers cimport Observers, span_t
from mbcore.datastore.store cimport (
    COILS, DISCRETE_INPUTS, FILE_RECORDS, HOLDING_REGISTERS, INPUT_REGISTERS, image_t, load_bits, load_registers, locate, store_bits,
    store_registers,
)
from mbcore.lock cimport lock_image, unlock_image
from mbcore.wire cimport (
    get_bytes, get_u8, get_u16, left, load_u16, put_bytes, put_u8, read_from, reader_t, store_u16, write_to, writer_t, written,
)

from mbcore.errors import ConfigurationError, RequestError

# Wire addresses are 0..65535 (AP 4.4).
cdef enum:
    WIRE_ADDRESSES = 65536
    # Of a group of 21: reference type, file, record, length (AP 6.15).
    GROUP_HEAD = 7


cdef bint writes(uint8_t function_code) noexcept nogil:
    """Whether the function writes to the store: what a broadcast may ask for (SL 2.1), and what observers hear of."""
    return (
        function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER or function_code == WRITE_MULTIPLE_COILS
        or function_code == WRITE_MULTIPLE_REGISTERS or function_code == WRITE_FILE_RECORD or function_code == MASK_WRITE_REGISTER
        or function_code == READ_WRITE_MULTIPLE_REGISTERS
    )


# ---- the four tables ------------------------------------------------------------------------------------------------------------------

cdef int table_of(uint8_t function_code) noexcept nogil:
    if function_code == READ_COILS or function_code == WRITE_SINGLE_COIL or function_code == WRITE_MULTIPLE_COILS:
        return COILS
    elif function_code == READ_DISCRETE_INPUTS:
        return DISCRETE_INPUTS
    elif function_code == READ_INPUT_REGISTERS:
        return INPUT_REGISTERS
    return HOLDING_REGISTERS


cdef bint needs_python(const unit_t* unit, uint8_t function_code) noexcept nogil:
    """Whether a writing function would be Python's to execute."""
    return function_code != WRITE_FILE_RECORD and unit.tables[table_of(function_code)] == NULL


cdef int64_t find(const unit_t* unit, const image_t* image, uint16_t address, uint16_t quantity) noexcept nogil:
    if <uint32_t> address + quantity > WIRE_ADDRESSES:
        return -1
    return locate(image, address + unit.offset, quantity)


cdef int execute_on_table(unit_t* unit, const request_t* request, response_t* response, uint8_t* data) noexcept nogil:
    cdef uint8_t function_code = request.function_code
    cdef image_t* image = unit.tables[table_of(function_code)]
    cdef uint16_t quantity = request.quantity
    cdef int64_t index, write_index
    if image == NULL:
        return EXECUTE_IN_PYTHON
    index = find(unit, image, request.address, quantity)
    if index < 0:
        return ILLEGAL_DATA_ADDRESS
    if function_code == READ_COILS or function_code == READ_DISCRETE_INPUTS:
        load_bits(image, index, quantity, data)
        response.data_length = (quantity + 7) // 8
    elif function_code == READ_HOLDING_REGISTERS or function_code == READ_INPUT_REGISTERS:
        load_registers(image, index, quantity, data)
        response.data_length = 2 * quantity
    elif function_code == WRITE_SINGLE_COIL:
        image.words[index] = request.value != 0
    elif function_code == WRITE_SINGLE_REGISTER:
        image.words[index] = request.value
    elif function_code == WRITE_MULTIPLE_COILS:
        store_bits(image, index, quantity, request.data)
    elif function_code == WRITE_MULTIPLE_REGISTERS:
        store_registers(image, index, quantity, request.data)
    elif function_code == MASK_WRITE_REGISTER:
        image.words[index] = masked(image.words[index], request)
        response.value = image.words[index]
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        write_index = find(unit, image, request.write_address, request.write_quantity)
        if write_index < 0:
            return ILLEGAL_DATA_ADDRESS
        store_registers(image, write_index, request.write_quantity, request.data)
        load_registers(image, index, quantity, data)
        response.data_length = 2 * quantity
    return 0


cdef uint16_t masked(uint16_t current, const request_t* request) noexcept nogil:
    # AP 6.16
    return (current & request.and_mask) | (request.or_mask & ~request.and_mask)


# ---- files and FIFO queues ------------------------------------------------------------------------------------------------------------

cdef image_t* find_records(unit_t* unit, reader_t* groups, uint16_t* record_number, uint16_t* length) noexcept nogil:
    """The image that the next group points into, NULL where it points nowhere; takes the group's head from `groups`."""
    cdef uint8_t reference_type = get_u8(groups)
    cdef uint16_t file_number = get_u16(groups)
    cdef image_t* image
    record_number[0] = get_u16(groups)
    length[0] = get_u16(groups)
    if reference_type != FILE_REFERENCE_TYPE or not file_number:
        return NULL
    if <uint32_t> record_number[0] + length[0] > MAX_RECORD_NUMBER + 1:
        return NULL
    image = numbered(unit.files, unit.file_count, file_number)
    return image if image != NULL and locate(image, record_number[0], length[0]) >= 0 else NULL


cdef int read_files(unit_t* unit, const request_t* request, response_t* response, uint8_t* data) noexcept nogil:
    cdef reader_t groups = read_from(request.data, request.data_length)
    cdef writer_t writer = write_to(data, MAX_PDU - 2)
    cdef image_t* image
    cdef uint16_t record_number, length
    while left(&groups):
        if find_records(unit, &groups, &record_number, &length) == NULL:
            return ILLEGAL_DATA_ADDRESS
    groups = read_from(request.data, request.data_length)
    while left(&groups):
        image = find_records(unit, &groups, &record_number, &length)
        put_u8(&writer, <uint8_t> (2 * length + 1))
        put_u8(&writer, FILE_REFERENCE_TYPE)
        load_registers(image, locate(image, record_number, length), length, writer.at)
        put_bytes(&writer, writer.at, 2 * <size_t> length)
    response.data_length = <uint16_t> written(&writer)
    return 0


cdef int write_files(unit_t* unit, const request_t* request, response_t* response) noexcept nogil:
    cdef reader_t groups = read_from(request.data, request.data_length)
    cdef image_t* image
    cdef uint16_t record_number, length
    while left(&groups):
        if find_records(unit, &groups, &record_number, &length) == NULL:
            return ILLEGAL_DATA_ADDRESS
        get_bytes(&groups, 2 * <size_t> length)
    groups = read_from(request.data, request.data_length)
    while left(&groups):
        image = find_records(unit, &groups, &record_number, &length)
        store_registers(image, locate(image, record_number, length), length, get_bytes(&groups, 2 * <size_t> length))
    response.data = request.data
    response.data_length = request.data_length
    return 0


cdef int read_fifo(unit_t* unit, const request_t* request, response_t* response, uint8_t* data) noexcept nogil:
    cdef const image_t* image = numbered(unit.fifos, unit.fifo_count, request.address)
    if image == NULL:
        return ILLEGAL_DATA_ADDRESS
    if image.count > MAX_FIFO_COUNT:
        return ILLEGAL_DATA_VALUE
    load_registers(image, 0, image.count, data)
    response.data_length = <uint16_t> (2 * image.count)
    return 0


# ---- the server itself ----------------------------------------------------------------------------------------------------------------

cdef int execute_diagnostics(control_t* control, const request_t* request, response_t* response, uint8_t* data) noexcept nogil:
    cdef uint16_t sub_function = request.sub_function
    # All but the ones that ask for a value are answered by an echo (AP 6.8.1).
    response.data = request.data
    response.data_length = request.data_length
    if sub_function == RESTART_COMMUNICATIONS_OPTION:
        restart_communications(control, load_u16(request.data) == 0xFF00)
    elif sub_function == CHANGE_ASCII_INPUT_DELIMITER:
        control.delimiter = request.data[0]
    elif sub_function == FORCE_LISTEN_ONLY_MODE:
        control.listen_only = True
        add_event(control, ENTERED_LISTEN_ONLY)
    elif sub_function == CLEAR_COUNTERS_AND_DIAGNOSTIC_REGISTER:
        clear_counters(control)
    elif sub_function == CLEAR_OVERRUN_COUNTER_AND_FLAG:
        control.counters[BUS_CHARACTER_OVERRUN] = 0
    elif sub_function == RETURN_DIAGNOSTIC_REGISTER:
        store_u16(data, control.diagnostic_register)
        response.data = data
    elif RETURN_BUS_MESSAGE_COUNT <= sub_function <= RETURN_BUS_CHARACTER_OVERRUN_COUNT:
        store_u16(data, control.counters[sub_function - RETURN_BUS_MESSAGE_COUNT])
        response.data = data
    return 0


cdef void report_server_id(const unit_t* unit, const control_t* control, response_t* response, uint8_t* data) noexcept nogil:
    # AP 6.13: the server id is device specific. Ours: vendor-product-revision, then the run indicator.
    cdef writer_t writer = write_to(data, MAX_PDU - 2)
    cdef const identity_t* identity = control.identity
    cdef int object_id
    if unit.server_id != NULL:
        put_bytes(&writer, unit.server_id, unit.server_id_length)
    else:
        # What is too long is cut off; there is always room for the indicator.
        writer.end -= 1
        for object_id in range(3):
            if object_id:
                put_u8(&writer, 45)
            put_bytes(&writer, identity.text[object_id], min(<size_t> identity.length[object_id], <size_t> (writer.end - writer.at)))
        writer.end += 1
        put_u8(&writer, control.run_indicator)
    response.data_length = <uint16_t> written(&writer)


cdef bint has_object(const identity_t* identity, int object_id) noexcept nogil:
    # The basic ones are mandatory (AP 6.21): there even when empty.
    return object_id <= 2 or identity.text[object_id] != NULL


cdef int identify(const identity_t* identity, const request_t* request, response_t* response, uint8_t* data) noexcept nogil:
    cdef writer_t writer = write_to(data, MAX_PDU - 7)
    cdef int first = request.object_id, last = 0xFF, object_id
    cdef bint regular = False, extended = False
    for object_id in range(3, 0x100):
        if has_object(identity, object_id):
            regular = regular or object_id < 0x80
            extended = extended or object_id >= 0x80
    response.sub_function = MEI_READ_DEVICE_IDENTIFICATION
    response.read_code = request.read_code
    # 0x80: single objects can be asked for.
    response.conformity = 0x83 if extended else 0x82 if regular else 0x81
    if request.read_code == 4:
        if not has_object(identity, first):
            return ILLEGAL_DATA_ADDRESS
        last = first
    else:
        last = 0x02 if request.read_code == 1 else 0x7F if request.read_code == 2 else 0xFF
        if first > last or not has_object(identity, first):
            first = 0
    for object_id in range(first, last + 1):
        if not has_object(identity, object_id):
            continue
        if writer.end - writer.at < 2 + identity.length[object_id]:
            response.more_follows = 0xFF
            response.next_object = <uint8_t> object_id
            break
        put_u8(&writer, <uint8_t> object_id)
        put_u8(&writer, identity.length[object_id])
        put_bytes(&writer, identity.text[object_id], identity.length[object_id])
        response.object_count += 1
    response.data_length = <uint16_t> written(&writer)
    return 0


# ---- all ------------------------------------------------------------------------------------------------------------------------------

cdef int execute(unit_t* unit, control_t* control, const request_t* request, response_t* response, uint8_t* data) noexcept nogil:
    """Act on the request; `data` is where the response's data may be written, `codec.response_head` bytes into the reply's PDU."""
    cdef uint8_t function_code = request.function_code
    response.data = data
    response.address = request.address
    response.quantity = request.quantity
    response.value = request.value
    if function_code == READ_FILE_RECORD:
        return read_files(unit, request, response, data)
    elif function_code == WRITE_FILE_RECORD:
        return write_files(unit, request, response)
    elif function_code == READ_FIFO_QUEUE:
        return read_fifo(unit, request, response, data)
    elif function_code == DIAGNOSTICS:
        response.sub_function = request.sub_function
        return execute_diagnostics(control, request, response, data)
    elif function_code == READ_EXCEPTION_STATUS:
        response.status = control.exception_status
    elif function_code == GET_COMM_EVENT_COUNTER:
        response.status = control.status
        response.event_count = control.event_count
    elif function_code == GET_COMM_EVENT_LOG:
        response.status = control.status
        response.event_count = control.event_count
        response.message_count = control.counters[BUS_MESSAGE]
        response.data_length = <uint16_t> copy_events(control, data)
    elif function_code == REPORT_SERVER_ID:
        report_server_id(unit, control, response, data)
    elif function_code == ENCAPSULATED_INTERFACE_TRANSPORT:
        return identify(control.identity, request, response, data)
    else:
        response.and_mask = request.and_mask
        response.or_mask = request.or_mask
        return execute_on_table(unit, request, response, data)
    return 0


# ---- where the table is Python's ------------------------------------------------------------------------------------------------------

@cython.embedsignature(False)  # a class of Python's has them anyway
class Later(BaseException):
    """A user's code answers later: :attr:`deferred` will have it. Nobody but the session catches this."""

    def __init__(self, deferred):
        self.deferred = deferred


cdef class Dialogue:
    """Asks a user's context, and says Later where the answer is a Deferred.

    What it has answered is known from then on: whoever has the answer puts it into `known`, or `error`, and executes the request again,
    which goes on where it stopped.
    """

    cdef bint is_known(self) except -1:
        if self.step < len(self.known):
            return True
        if self.error is not None:
            raise self.error
        return False

    cdef object again(self):
        self.step += 1
        return self.known[self.step - 1]

    cdef object heard(self, object answer):
        if type(answer) is not list and type(answer) is not bool and answer is not None and hasattr(answer, "addCallbacks"):
            raise Later(answer)
        self.known.append(answer)
        self.step += 1
        return answer

    cdef object validate(self, int function_code, int address, int quantity):
        if self.is_known():
            return self.again()
        if self.plain is None:
            return self.heard(self.context.validate(function_code, address, quantity))
        return self.heard(self.plain.block_of(function_code).validate(address + <int> self.plain.unit.offset, quantity))

    cdef object get_values(self, int function_code, int address, int quantity):
        if self.is_known():
            return self.again()
        if self.plain is None:
            return self.heard(self.context.getValues(function_code, address, quantity))
        return self.heard(self.plain.block_of(function_code).getValues(address + <int> self.plain.unit.offset, quantity))

    cdef int set_values(self, int function_code, int address, list values) except -1:
        if self.is_known():
            self.again()
        elif self.plain is None:
            self.heard(self.context.setValues(function_code, address, values))
        else:
            self.heard(self.plain.block_of(function_code).setValues(address + <int> self.plain.unit.offset, values))
        return 0


cdef Dialogue dialogue_with(object context, int unit_id=0):
    cdef Dialogue dialogue = Dialogue.__new__(Dialogue)
    dialogue.unit_id = unit_id
    dialogue.context = context
    if type(context) is ModbusSlaveContext:
        dialogue.plain = context
    dialogue.known = []
    return dialogue


cdef object values_of(Dialogue dialogue, int function_code, int address, int quantity):
    """What the user's `getValues` answers, checked."""
    values = dialogue.get_values(function_code, address, quantity)
    try:
        # A copy: a value of the user's own kind may run code that changes a list of his.
        copy = list(values)
    except TypeError:
        raise ConfigurationError(f"getValues({function_code}, {address}, {quantity}) returned {values!r}; it must return a list") from None
    if len(copy) != quantity:
        raise ConfigurationError(f"getValues({function_code}, {address}, {quantity}) returned {len(copy)} values instead of {quantity}")
    return copy


cdef int put_values(list values, uint8_t function_code, response_t* response, uint8_t* data) except -1:
    cdef int i
    if function_code == READ_COILS or function_code == READ_DISCRETE_INPUTS:
        response.data_length = <uint16_t> ((len(values) + 7) // 8)
        for i in range(response.data_length):
            data[i] = 0
        for i, value in enumerate(values):
            if value:
                data[i >> 3] |= <uint8_t> (1 << (i & 7))
    else:
        response.data_length = <uint16_t> (2 * len(values))
        for i, value in enumerate(values):
            store_u16(data + 2 * i, register_from(value))
    return 0


cdef uint16_t register_from(object value) except? 0xFFFF:
    cdef int overflow = 0
    cdef long number = PyLong_AsLongAndOverflow(value, &overflow) if isinstance(value, int) else -1
    if 0 <= number <= 0xFFFF:
        return <uint16_t> number
    if not hasattr(value, "__index__") or not 0 <= value.__index__() <= 0xFFFF:
        raise ConfigurationError(f"getValues returned {value!r}, which is not a whole number 0..65535")
    return value.__index__()


cdef int call(Dialogue dialogue, const request_t* request, response_t* response, uint8_t* data) except -1:
    cdef uint8_t function_code = request.function_code
    cdef int address = request.address, quantity = request.quantity
    if address + quantity > WIRE_ADDRESSES or not dialogue.validate(function_code, address, quantity):
        return ILLEGAL_DATA_ADDRESS
    if READ_COILS <= function_code <= READ_INPUT_REGISTERS:
        put_values(values_of(dialogue, function_code, address, quantity), function_code, response, data)
    elif function_code == WRITE_SINGLE_COIL:
        dialogue.set_values(function_code, address, [request.value != 0])
    elif function_code == WRITE_SINGLE_REGISTER:
        dialogue.set_values(function_code, address, [request.value])
    elif function_code == WRITE_MULTIPLE_COILS:
        dialogue.set_values(function_code, address, bits_of(request.data, quantity))
    elif function_code == WRITE_MULTIPLE_REGISTERS:
        dialogue.set_values(function_code, address, registers_of(request.data, quantity))
    elif function_code == MASK_WRITE_REGISTER:
        response.value = masked(register_from(values_of(dialogue, function_code, address, 1)[0]), request)
        dialogue.set_values(function_code, address, [response.value])
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        if <uint32_t> request.write_address + request.write_quantity > WIRE_ADDRESSES:
            return ILLEGAL_DATA_ADDRESS
        if not dialogue.validate(function_code, request.write_address, request.write_quantity):
            return ILLEGAL_DATA_ADDRESS
        dialogue.set_values(function_code, request.write_address, registers_of(request.data, request.write_quantity))
        put_values(values_of(dialogue, function_code, address, quantity), function_code, response, data)
    return 0


cdef int execute_in_python(Dialogue dialogue, const request_t* request, response_t* response, uint8_t* data, object report) except -1:
    """Act on the request by the context's own methods; returns 0 or an exception code, or raises Later. The image is not locked.

    The one place where a user's code runs on behalf of a master: whatever it raises is an answer.
    """
    dialogue.step = 0
    try:
        return call(dialogue, request, response, data)
    except RequestError as error:
        return error.exception_code
    except (Exception, SystemExit) as error:
        if report is not None:
            place = f"function {request.function_code}, address {request.address}"
            report(f"a data block failed at {place}; the master is answered with exception 04", error)
        return SERVER_DEVICE_FAILURE


cdef bint next_span(const request_t* request, const response_t* response, int* at, span_t* span) noexcept nogil:
    """The values that a write has left in one place after the other; False behind the last. `at` is 0 at first."""
    cdef uint8_t function_code = request.function_code
    cdef reader_t groups
    memset(span, 0, sizeof(span_t))
    if function_code == WRITE_FILE_RECORD:
        if at[0] >= request.data_length:
            return False
        groups = read_from(request.data + at[0], request.data_length - at[0])
        get_u8(&groups)
        span.table = FILE_RECORDS
        span.number, span.address, span.count = get_u16(&groups), get_u16(&groups), get_u16(&groups)
        span.data = request.data + at[0] + GROUP_HEAD
        at[0] += GROUP_HEAD + 2 * span.count
        return True
    if at[0]:
        return False
    at[0] = 1
    span.table = table_of(function_code)
    span.address, span.count = request.address, 1
    if function_code == WRITE_SINGLE_COIL or function_code == WRITE_SINGLE_REGISTER:
        span.value = request.value
    elif function_code == MASK_WRITE_REGISTER:
        span.value = response.value
    elif function_code == READ_WRITE_MULTIPLE_REGISTERS:
        span.address, span.count, span.data = request.write_address, request.write_quantity, request.data
    else:
        span.count, span.data = request.quantity, request.data
    return True


cdef void enter_write(
    Observers observers, int unit_id, int owner, const request_t* request, const response_t* response
) noexcept nogil:
    """Have the observers told of a write that has succeeded in a unit; `owner` as for `Observers.enter`."""
    cdef span_t span
    cdef int at = 0
    while next_span(request, response, &at, &span):
        observers.enter(unit_id, owner, &span)


# ---- one request as bytes: what message objects call ----------------------------------------------------------------------------------

def execute_request(context, ModbusControlBlock control not None, pdu, report=None):
    """Act on the request ``pdu`` with a slave context and return the response PDU, an exception response where it is refused.

    :param context: a ModbusSlaveContext, or any object with its ``validate``, ``getValues`` and ``setValues``
    :param control: counters and identity that 07, 08, 11, 12, 17 and 43 speak of
    :param report: called with (sentence, exception) when the context raised
    :raises ConfigurationError: the context answers with a Deferred
    """
    cdef bytes held = bytes(memoryview(pdu))
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(held)
    cdef uint8_t[MAX_PDU + 8] buffer
    cdef writer_t writer = write_to(buffer, MAX_PDU)
    cdef request_t request
    cdef response_t response
    cdef unit_t* unit = unit_of(context)
    cdef uint8_t* data
    cdef int refused
    memset(&response, 0, sizeof(response))
    refused = read_request(at, <int> len(held), &request)
    response.function_code = request.function_code
    data = buffer + response_head(request.function_code)
    if not refused:
        lock_image()
        refused = execute(unit, &control.control, &request, &response, data)
        unlock_image()
    if refused == EXECUTE_IN_PYTHON:
        try:
            refused = execute_in_python(dialogue_with(context), &request, &response, data, report)
        except Later as later:
            raise ConfigurationError(f"{context!r} answers later, by {later.deferred!r}: only a server's session waits for that") from None
    response.exception_code = <uint8_t> refused
    write_response(&response, &writer)
    return PyBytes_FromStringAndSize(<char*> buffer, written(&writer))
