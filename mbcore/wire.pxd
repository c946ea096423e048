# Bounds-checked reading and writing of wire fields: the only place with byte order. All 16-bit fields of a PDU are big-endian (AP 4.2).
#
# A reader or writer that meets its end says so once, in `failed`, and then yields zeros or writes nothing: a caller checks once, after
# a group of fields.

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove

ctypedef struct reader_t:
    const uint8_t* at
    const uint8_t* end
    bint failed

ctypedef struct writer_t:
    uint8_t* start
    uint8_t* at
    uint8_t* end
    bint failed


cdef inline reader_t read_from(const uint8_t* data, size_t length) noexcept nogil:
    cdef reader_t reader
    reader.at = data
    reader.end = data + length
    reader.failed = False
    return reader


cdef inline size_t left(const reader_t* reader) noexcept nogil:
    return reader.end - reader.at


cdef inline uint8_t get_u8(reader_t* reader) noexcept nogil:
    cdef uint8_t value
    if reader.end - reader.at < 1:
        reader.failed = True
        return 0
    value = reader.at[0]
    reader.at += 1
    return value


cdef inline uint16_t load_u16(const uint8_t* data) noexcept nogil:
    return <uint16_t> (data[0] << 8 | data[1])


cdef inline void store_u16(uint8_t* data, uint16_t value) noexcept nogil:
    data[0] = <uint8_t> (value >> 8)
    data[1] = <uint8_t> (value & 0xFF)


cdef inline void store_u16s(uint8_t* data, const uint16_t* values, size_t count) noexcept nogil:
    # Four at a time: the most of what a read of many registers costs. `data` need not be aligned.
    cdef uint64_t four
    cdef size_t i = 0
    if is_little_endian():
        while i + 4 <= count:
            memcpy(&four, values + i, sizeof(four))
            four = swapped(four)
            memcpy(data + 2 * i, &four, sizeof(four))
            i += 4
    while i < count:
        store_u16(data + 2 * i, values[i])
        i += 1


cdef inline void load_u16s(uint16_t* values, const uint8_t* data, size_t count) noexcept nogil:
    cdef uint64_t four
    cdef size_t i = 0
    if is_little_endian():
        while i + 4 <= count:
            memcpy(&four, data + 2 * i, sizeof(four))
            four = swapped(four)
            memcpy(values + i, &four, sizeof(four))
            i += 4
    while i < count:
        values[i] = load_u16(data + 2 * i)
        i += 1


cdef inline bint is_little_endian() noexcept nogil:
    # Known to the compiler.
    cdef uint16_t one = 1
    return (<const uint8_t*> &one)[0]


cdef inline uint64_t swapped(uint64_t four) noexcept nogil:
    # The bytes of each of four words.
    return (four & <uint64_t> 0x00FF00FF00FF00FF) << 8 | (four >> 8) & <uint64_t> 0x00FF00FF00FF00FF


cdef inline uint16_t get_u16(reader_t* reader) noexcept nogil:
    cdef uint16_t value
    if reader.end - reader.at < 2:
        reader.failed = True
        return 0
    value = load_u16(reader.at)
    reader.at += 2
    return value


cdef inline const uint8_t* get_bytes(reader_t* reader, size_t length) noexcept nogil:
    # The bytes stay where they are; NULL and `failed` where there are fewer.
    cdef const uint8_t* data = reader.at
    if <size_t> (reader.end - reader.at) < length:
        reader.failed = True
        return NULL
    reader.at += length
    return data


cdef inline writer_t write_to(uint8_t* data, size_t room) noexcept nogil:
    cdef writer_t writer
    writer.start = data
    writer.at = data
    writer.end = data + room
    writer.failed = False
    return writer


cdef inline size_t written(const writer_t* writer) noexcept nogil:
    return writer.at - writer.start


cdef inline void put_u8(writer_t* writer, uint8_t value) noexcept nogil:
    if writer.end - writer.at < 1:
        writer.failed = True
        return
    writer.at[0] = value
    writer.at += 1


cdef inline void put_u16(writer_t* writer, uint16_t value) noexcept nogil:
    if writer.end - writer.at < 2:
        writer.failed = True
        return
    store_u16(writer.at, value)
    writer.at += 2


cdef inline void put_bytes(writer_t* writer, const uint8_t* data, size_t length) noexcept nogil:
    # `data` may already stand where it is to go: a block writes its values there before the head is known.
    if <size_t> (writer.end - writer.at) < length:
        writer.failed = True
        return
    if length and data != writer.at:
        memmove(writer.at, data, length)
    writer.at += length
