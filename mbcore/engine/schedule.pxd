# How the kernel schedules the thread of a loop. What it refuses is told by an error number, or makes no difference but in time.

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    struct sched_param:
        int sched_priority
    const int SCHED_FIFO
    const int SCHED_OTHER
    pthread_t pthread_self()
    # The C library of Alpine has no sched_setscheduler.
    int pthread_setschedparam(pthread_t thread, int policy, const sched_param* parameters)

cdef extern from "<sys/syscall.h>" nogil:
    # The C library has no functions for these before glibc 2.41.
    const long SYS_sched_getattr
    const long SYS_sched_setattr

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)

# Of the kernel's <linux/sched/types.h>, its first version.
ctypedef struct sched_attr_t:
    uint32_t size
    uint32_t policy
    uint64_t flags
    int32_t nice
    uint32_t priority
    uint64_t runtime
    uint64_t deadline
    uint64_t period

cdef enum:
    # Nanoseconds; the kernel takes no shorter one.
    SHORT_SLICE = 100000
    # More than the kernel gives by itself, 2.8 ms where it has many processors, and no more than one tick of most.
    LONG_SLICE = 4000000


cdef inline uint64_t take_short_slices() noexcept nogil:
    """Have this thread run as soon as it is woken, where others have longer slices: it does little at a time. From Linux 6.12.

    Returns the slice of a thread that has asked for none, nanoseconds; 0 where this one's schedule is not the normal one, or has no slices.
    """
    cdef sched_attr_t schedule
    cdef uint64_t usual
    memset(&schedule, 0, sizeof(schedule))
    if syscall(SYS_sched_getattr, 0, &schedule, sizeof(schedule), 0) or schedule.policy != <uint32_t> SCHED_OTHER:
        return 0
    # It may have been born with another one.
    schedule.runtime = 0
    syscall(SYS_sched_setattr, 0, &schedule, 0)
    syscall(SYS_sched_getattr, 0, &schedule, sizeof(schedule), 0)
    usual = schedule.runtime
    schedule.runtime = SHORT_SLICE
    syscall(SYS_sched_setattr, 0, &schedule, 0)
    return usual


cdef inline void give_long_slices(int thread, uint64_t usual) noexcept nogil:
    """Have a thread that has the `usual` slice hold up nobody who is woken and has that one too.

    What a serial line's driver has received is handed on by such a thread of the kernel.
    """
    cdef sched_attr_t schedule
    memset(&schedule, 0, sizeof(schedule))
    if syscall(SYS_sched_getattr, thread, &schedule, sizeof(schedule), 0) or schedule.policy != <uint32_t> SCHED_OTHER:
        return
    if schedule.runtime == usual and usual < <uint64_t> LONG_SLICE:
        schedule.runtime = LONG_SLICE
        syscall(SYS_sched_setattr, thread, &schedule, 0)


cdef inline int take_priority(int priority) noexcept nogil:
    """Have this thread run before all others; 0, or why the system does not let it."""
    cdef sched_param parameters
    parameters.sched_priority = priority
    return pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters)
