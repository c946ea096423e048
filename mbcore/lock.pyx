"""The one process-wide lock of the image. Knows nothing of what it guards."""

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)

cdef PyThread_type_lock image_lock = PyThread_allocate_lock()
if image_lock == NULL:
    raise MemoryError("no lock for the process image")


cdef void lock_image() noexcept nogil:
    PyThread_acquire_lock(image_lock, WAIT_LOCK)


cdef void unlock_image() noexcept nogil:
    PyThread_release_lock(image_lock)
