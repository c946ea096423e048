"""Diagnostic counters, event log, listen-only mode, exception status and identity of one server. Knows no messages and no registers.

Sources: Application Protocol V1.1b3, 6.7-6.10, 6.13, 6.21; Serial Line V1.02, appendix A. One object per server, never process-wide: two
servers in one process do not share counters or listen-only mode.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize

from mbcore.constants cimport *
from mbcore.lock cimport lock_image, unlock_image

from weakref import WeakKeyDictionary

from mbcore.errors import ConfigurationError
from mbcore.version import __version__

# One object of 43/14 must fit a PDU of 253 bytes behind seven bytes of head and two of its own.
cdef enum:
    MAX_OBJECT_TEXT = MAX_PDU - 7 - 2


# ---- in C, with the image locked ------------------------------------------------------------------------------------------------------

cdef void add_event(control_t* control, uint8_t event) noexcept nogil:
    control.newest = (control.newest + 1) % MAX_EVENTS
    control.events[control.newest] = event
    if control.logged < MAX_EVENTS:
        control.logged += 1


cdef int copy_events(const control_t* control, uint8_t* out) noexcept nogil:
    """Copy the log, newest first; returns how many."""
    cdef int i
    for i in range(<int> control.logged):
        out[i] = control.events[(control.newest - i + MAX_EVENTS) % MAX_EVENTS]
    return <int> control.logged


cdef uint16_t* counter_of(control_t* control, int index) noexcept nogil:
    # As COUNTER_NAMES counts them.
    return &control.event_count if index == COUNTERS else &control.counters[index]


cdef void clear_counters(control_t* control) noexcept nogil:
    # AP 6.8.1, sub-function 10: all counters and the diagnostic register.
    memset(control.counters, 0, sizeof(control.counters))
    control.event_count = 0
    control.diagnostic_register = 0


cdef void restart_communications(control_t* control, bint clear_log) noexcept nogil:
    # AP 6.8.1, sub-function 1: the answer goes out first. The restart itself is an event, and the only one left where the log is cleared
    # (AP 6.10).
    add_event(control, SENT | (SENT_LISTEN_ONLY if control.listen_only else 0))
    memset(control.counters, 0, sizeof(control.counters))
    control.event_count = 0
    control.listen_only = False
    if clear_log:
        control.logged = 0
    add_event(control, COMMUNICATION_RESTART)


cdef void count_received(control_t* control, bint broadcast) noexcept nogil:
    """A message for this server came in; stored before it is acted on (AP 6.10)."""
    control.counters[SERVER_MESSAGE] += 1
    add_event(
        control,
        RECEIVED | (RECEIVED_BROADCAST if broadcast else 0) | (RECEIVED_LISTEN_ONLY if control.listen_only else 0),
    )


cdef void count_error(control_t* control) noexcept nogil:
    """A frame came in damaged: it may have been for us (SL appendix A, CPT2)."""
    control.counters[BUS_COMMUNICATION_ERROR] += 1
    add_event(control, RECEIVED | RECEIVED_COMMUNICATION_ERROR | (RECEIVED_LISTEN_ONLY if control.listen_only else 0))


cdef void count_completed(control_t* control, uint8_t function_code, uint8_t exception_code, bint answered) noexcept nogil:
    """A message was acted on, or refused; `answered` is false for a broadcast and in listen-only mode."""
    cdef uint8_t event = SENT
    if exception_code:
        # CPT3 counts the errors of broadcasts too (SL appendix A).
        control.counters[BUS_EXCEPTION_ERROR] += 1
        if exception_code <= ILLEGAL_DATA_VALUE:
            event |= SENT_EXCEPTION_1_TO_3
        elif exception_code == SERVER_DEVICE_FAILURE:
            event |= SENT_EXCEPTION_4
        elif exception_code == ACKNOWLEDGE or exception_code == SERVER_DEVICE_BUSY:
            event |= SENT_EXCEPTION_5_OR_6
            if exception_code == SERVER_DEVICE_BUSY:
                control.counters[SERVER_BUSY] += 1
        elif exception_code == NEGATIVE_ACKNOWLEDGE:
            event |= SENT_EXCEPTION_7
            control.counters[SERVER_NAK] += 1
    elif function_code != GET_COMM_EVENT_COUNTER and function_code != GET_COMM_EVENT_LOG:
        # AP 6.9: not by exceptions, poll commands or fetch event counter commands.
        control.event_count += 1
    if not answered:
        control.counters[SERVER_NO_RESPONSE] += 1
        if control.listen_only:
            event |= SENT_LISTEN_ONLY
    add_event(control, event)


# ---- identity -------------------------------------------------------------------------------------------------------------------------

cdef tuple OBJECT_NAMES = (
    "VendorName", "ProductCode", "MajorMinorRevision", "VendorUrl", "ProductName", "ModelName", "UserApplicationName",
)
# AP 6.21.
cdef object RESERVED = range(0x07, 0x80)


cdef object pairs(object info):
    return info.items() if hasattr(info, "items") else info


cdef class ModbusDeviceIdentification:
    """The objects of 43/14 Read Device Identification, and what 17 Report Server ID answers (AP 6.13, 6.21).

    Each object is a str or bytes of up to 244 bytes; live, so what a script assigns a master sees. An empty one is not there, except for
    the basic ones (0..2), which every device has.

    :param info: a dict {object id 0..255: text}: 0 vendor name, 1 product code, 2 revision, 3 vendor URL, 4 product name, 5 model name,
        6 user application name, 0x80..0xFF the device's own; those between are the specification's to define and left out
    :param info_name: the same by name: {"VendorName": text, ...}
    :raises ConfigurationError: an object id, a name or a text is out of its range
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.objects, 0, sizeof(self.objects))
        self.texts = {}
        self.encoded = {}

    def __init__(self, info=None, info_name=None):
        self.update({object_id: text for object_id, text in pairs(info or {}) if object_id not in RESERVED})
        for name, text in (info_name or {}).items():
            if name not in OBJECT_NAMES:
                raise ConfigurationError(f"info_name has no object {name!r}; use {', '.join(OBJECT_NAMES)}")
            self[OBJECT_NAMES.index(name)] = text

    def __iter__(self):
        """Iterate over (object id, text)."""
        return iter(sorted(self.texts.items()))

    def __contains__(self, object_id):
        return object_id in self.texts

    def __getitem__(self, object_id):
        """Return the text of the object, "" where there is none."""
        return self.texts.get(object_id, "")

    def __setitem__(self, object_id, text):
        """Set the text of the object; 7 and 8 stay empty, as in pymodbus."""
        cdef int number
        cdef bytes encoded
        if not isinstance(object_id, int) or not 0 <= object_id <= 0xFF:
            raise ConfigurationError(f"the identification object {object_id!r} is not in 0..255")
        if object_id in (7, 8):
            return
        if isinstance(text, (list, tuple, dict)):
            raise ConfigurationError(f"the identification object {object_id} is {text!r}; give it one text, a str or bytes")
        encoded = bytes(text) if isinstance(text, (bytes, bytearray)) else str(text).encode()
        if len(encoded) > MAX_OBJECT_TEXT:
            raise ConfigurationError(f"the identification object {object_id} has {len(encoded)} bytes; {MAX_OBJECT_TEXT} fit one response")
        number = object_id
        held = self.encoded.get(number)
        lock_image()
        self.objects.text[number] = <const uint8_t*> PyBytes_AsString(encoded) if encoded else NULL
        self.objects.length[number] = <uint8_t> len(encoded)
        unlock_image()
        self.texts[number] = text
        self.encoded[number] = encoded
        # The old text goes only now that no one can read it any more.
        del held

    def update(self, info):
        """Set every object of ``info``, a dict {object id: text} or another identification."""
        for object_id, text in pairs(info):
            self[object_id] = text

    def summary(self):
        """Return the named objects as a dict {name: text}."""
        return {name: self[object_id] for object_id, name in enumerate(OBJECT_NAMES)}

    def __str__(self):
        return "DeviceIdentity"

    def __repr__(self):
        return f"{type(self).__name__}({self.texts})"

    @property
    def VendorName(self):
        return self[0]

    @VendorName.setter
    def VendorName(self, text):
        self[0] = text

    @property
    def ProductCode(self):
        return self[1]

    @ProductCode.setter
    def ProductCode(self, text):
        self[1] = text

    @property
    def MajorMinorRevision(self):
        return self[2]

    @MajorMinorRevision.setter
    def MajorMinorRevision(self, text):
        self[2] = text

    @property
    def VendorUrl(self):
        return self[3]

    @VendorUrl.setter
    def VendorUrl(self, text):
        self[3] = text

    @property
    def ProductName(self):
        return self[4]

    @ProductName.setter
    def ProductName(self, text):
        self[4] = text

    @property
    def ModelName(self):
        return self[5]

    @ModelName.setter
    def ModelName(self, text):
        self[5] = text

    @property
    def UserApplicationName(self):
        return self[6]

    @UserApplicationName.setter
    def UserApplicationName(self, text):
        self[6] = text


# ---- counters and log -----------------------------------------------------------------------------------------------------------------

cdef tuple COUNTER_NAMES = (
    "BusMessage", "BusCommunicationError", "BusExceptionError", "SlaveMessage", "SlaveNoResponse", "SlaveNAK", "SlaveBusy",
    "BusCharacterOverrun", "Event",
)


def counter_property(index):
    def get(self):
        return (<ModbusControlBlock> self._control)._counter(index)

    def set_(self, value):
        (<ModbusControlBlock> self._control)._set_counter(index, value)

    return property(get, set_)


@cython.embedsignature(False)  # a class of Python's has them anyway
class ModbusCountersHandler:
    """The counters of one server, live, each 16 bits and wrapping (SL appendix A).

    ``BusMessage`` CPT1, ``BusCommunicationError`` CPT2, ``BusExceptionError`` CPT3, ``SlaveMessage`` CPT4, ``SlaveNoResponse`` CPT5,
    ``SlaveNAK`` CPT6, ``SlaveBusy`` CPT7, ``BusCharacterOverrun`` CPT8; ``Event`` is the comm event counter of 11 and 12.
    """

    __slots__ = ("_control",)

    def __init__(self, control=None):
        self._control = ModbusControlBlock() if control is None else control

    def __iter__(self):
        """Iterate over (name, value)."""
        return iter([(name, getattr(self, name)) for name in COUNTER_NAMES])

    def summary(self):
        """Return a number 0..255 that says which counters are not 0: bit 0 ``BusMessage``, CPT1, to bit 7 ``BusCharacterOverrun``, CPT8."""
        return sum(1 << bit for bit, name in enumerate(COUNTER_NAMES[:COUNTERS]) if getattr(self, name))

    def update(self, values):
        """Add to every counter named in ``values``, a dict {name: number}."""
        for name, value in values.items():
            if name not in COUNTER_NAMES:
                raise ConfigurationError(f"there is no counter {name!r}; use {', '.join(COUNTER_NAMES)}")
            (<ModbusControlBlock> self._control)._add_to_counter(COUNTER_NAMES.index(name), value)

    def reset(self):
        """Set every counter to 0."""
        for name in COUNTER_NAMES:
            setattr(self, name, 0)


for counter_index, counter_name in enumerate(COUNTER_NAMES):
    setattr(ModbusCountersHandler, counter_name, counter_property(counter_index))


cdef class ModbusControlBlock:
    """Counters, event log, listen-only mode, exception status and identity of one server.

    :param identity: what 43/14 and 17 answer; kept, not copied. None: a plain one that says mbcore.
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.control, 0, sizeof(self.control))
        self.control.delimiter = b"\n"
        self.control.run_indicator = 0xFF
        self.Identity = ModbusDeviceIdentification({0: "mbcore", 1: "mbcore", 2: __version__})

    def __init__(self, identity=None):
        if identity is not None:
            self.Identity = identity

    @property
    def Identity(self):
        """The :class:`ModbusDeviceIdentification`, live and assignable."""
        return self.identity

    @Identity.setter
    def Identity(self, ModbusDeviceIdentification identity not None):
        held = self.identity
        lock_image()
        self.control.identity = &identity.objects
        unlock_image()
        self.identity = identity
        del held

    @property
    def Counter(self):
        """The :class:`ModbusCountersHandler`, live."""
        return ModbusCountersHandler(self)

    @property
    def ListenOnly(self):
        """Whether the server only listens (08, sub-functions 4 and 1)."""
        return self.control.listen_only

    @ListenOnly.setter
    def ListenOnly(self, listen_only):
        self.control.listen_only = bool(listen_only)

    @property
    def Delimiter(self):
        """The last character of an ASCII frame (08, sub-function 3), one byte; a str, bytes or int may be assigned."""
        return bytes([self.control.delimiter])

    @Delimiter.setter
    def Delimiter(self, delimiter):
        code = ord(delimiter) if isinstance(delimiter, (str, bytes)) and len(delimiter) == 1 else delimiter
        if not isinstance(code, int) or not 0 <= code <= 0xFF or code == ord(":"):
            raise ConfigurationError(f"the ASCII delimiter {delimiter!r} is not one character other than a colon, which starts a frame")
        self.control.delimiter = code

    @property
    def exception_status(self):
        """What 07 Read Exception Status answers, 0..255; the application's to set."""
        return self.control.exception_status

    @exception_status.setter
    def exception_status(self, status):
        self.control.exception_status = checked(status, 0xFF, "exception status")

    @property
    def diagnostic_register(self):
        """What 08 sub-function 2 answers, 0..65535; the application's to set, cleared by sub-function 10."""
        return self.control.diagnostic_register

    @diagnostic_register.setter
    def diagnostic_register(self, value):
        self.control.diagnostic_register = checked(value, 0xFFFF, "diagnostic register")

    @property
    def program_busy(self):
        """Whether 11 and 12 say that a program command still runs (status 0xFFFF); the application's to set."""
        return self.control.status != 0

    @program_busy.setter
    def program_busy(self, busy):
        self.control.status = 0xFFFF if busy else 0

    @property
    def running(self):
        """The run indicator that 17 Report Server ID ends with; the application's to set."""
        return self.control.run_indicator != 0

    @running.setter
    def running(self, running):
        self.control.run_indicator = 0xFF if running else 0

    @property
    def events(self):
        """The event log as bytes, newest first, at most 64 (AP 6.10)."""
        cdef uint8_t[64] log
        cdef int count
        lock_image()
        count = copy_events(&self.control, log)
        unlock_image()
        return PyBytes_FromStringAndSize(<char*> log, count)

    def addEvent(self, event):
        """Put an event byte (or an object whose ``encode()`` is one) at the head of the log and count it."""
        cdef int code = event if isinstance(event, int) else event.encode()[0]
        if not 0 <= code <= 0xFF:
            raise ConfigurationError(f"the event {event!r} is not one byte")
        lock_image()
        add_event(&self.control, <uint8_t> code)
        self.control.event_count += 1
        unlock_image()

    def getEvents(self):
        """Return the event log as bytes, newest first."""
        return self.events

    def clearEvents(self):
        """Empty the event log."""
        lock_image()
        self.control.logged = 0
        unlock_image()

    def reset(self):
        """Empty the log, clear the counters and the diagnostic register."""
        lock_image()
        clear_counters(&self.control)
        self.control.logged = 0
        unlock_image()

    # Set and added to with the image locked: else what the bus counts meanwhile is lost, or undoes what was set.

    def _counter(self, int index):
        return counter_of(&self.control, index)[0]

    def _set_counter(self, int index, value):
        cdef uint16_t wrapped = value & 0xFFFF
        lock_image()
        counter_of(&self.control, index)[0] = wrapped
        unlock_image()

    def _add_to_counter(self, int index, value):
        cdef uint16_t wrapped = value & 0xFFFF
        lock_image()
        counter_of(&self.control, index)[0] += wrapped
        unlock_image()


cdef object checked(object value, int high, str what):
    if not isinstance(value, int) or not 0 <= value <= high:
        raise ConfigurationError(f"the {what} {value!r} is not in 0..{high}")
    return value


#: The control blocks of this process' servers as keys, the first server's first; they leave when they are dropped or their server stops.
server_blocks = WeakKeyDictionary()
