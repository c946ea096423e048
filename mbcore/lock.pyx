"""The one process-wide lock of the image, and how it fares in a fork. Knows nothing of what it guards.

It is the system's own mutex: CPython's locks read the clock each time they are taken, and don't lend their holder the priority of a
real-time thread that waits.
"""

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_mutexattr_t:
        pass
    const int PTHREAD_PRIO_INHERIT
    int pthread_mutexattr_init(pthread_mutexattr_t* attributes)
    int pthread_mutexattr_setprotocol(pthread_mutexattr_t* attributes, int protocol)
    int pthread_mutexattr_destroy(pthread_mutexattr_t* attributes)
    int pthread_mutex_init(pthread_mutex_t* mutex, const pthread_mutexattr_t* attributes)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)

cdef pthread_mutex_t image_lock
cdef unsigned int forks = 0


cdef void lock_image() noexcept nogil:
    pthread_mutex_lock(&image_lock)


cdef void unlock_image() noexcept nogil:
    pthread_mutex_unlock(&image_lock)


cdef void make_lock() noexcept nogil:
    cdef pthread_mutexattr_t attributes
    pthread_mutexattr_init(&attributes)
    # Where the kernel has no such thing it is a lock all the same.
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT)
    if pthread_mutex_init(&image_lock, &attributes):
        pthread_mutex_init(&image_lock, NULL)
    pthread_mutexattr_destroy(&attributes)


cdef void begin_child() noexcept nogil:
    global forks
    make_lock()
    forks += 1


cdef unsigned int fork_count() noexcept nogil:
    return forks


make_lock()
# A child has a free lock and a whole image, whatever other threads were doing.
if pthread_atfork(lock_image, unlock_image, begin_child):
    raise MemoryError("no memory for the lock of the process image")
