/* Stands between a program and libc (LD_PRELOAD) as the driver of one serial port and one GPIO chip: answers their ioctls by a script and
 * records what is asked, when. Everything else goes on to libc. What the words of the script mean stands in shim.py.
 *
 * Only the process that loaded it is watched; a child is, once it has executed a program of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <linux/serial.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { NOT_OURS, PORT, CHIP, LINE, KINDS };
enum { DESCRIPTORS = 4096, WORDS = 64, SHOWN = 4096 };
static const char *const KIND[KINDS] = {"-", "port", "chip", "line"};

static const struct { const char *name; int number; } ERRORS[] = {
    {"EACCES", EACCES}, {"EAGAIN", EAGAIN}, {"EBADF", EBADF}, {"EBUSY", EBUSY}, {"EFAULT", EFAULT}, {"EINTR", EINTR}, {"EINVAL", EINVAL},
    {"EIO", EIO}, {"ENODEV", ENODEV}, {"ENOENT", ENOENT}, {"ENOTTY", ENOTTY}, {"ENXIO", ENXIO}, {"EPERM", EPERM}, {"ETIMEDOUT", ETIMEDOUT},
};
static const struct { const char *name; unsigned bit; } FLAGS[] = {
    {"ENABLED", SER_RS485_ENABLED}, {"RTS_ON_SEND", SER_RS485_RTS_ON_SEND}, {"RTS_AFTER_SEND", SER_RS485_RTS_AFTER_SEND},
    {"RX_DURING_TX", SER_RS485_RX_DURING_TX}, {"TERMINATE_BUS", SER_RS485_TERMINATE_BUS},
};
/* What a script may let fail. */
static const char *const CALLS[] = {
    "open", "close", "read", "write", "tcdrain", "TIOCMGET", "TIOCMSET", "TIOCMBIS", "TIOCMBIC", "TIOCSRS485", "TIOCGRS485",
    "TIOCSERGETLSR", "TIOCGICOUNT", "TIOCGSERIAL", "TIOCSSERIAL", "GPIO_GET_CHIPINFO", "GPIO_V2_GET_LINE", "GPIO_V2_LINE_SET_VALUES",
    "GPIO_V2_LINE_GET_VALUES", "open_chip",
};

struct failure { const char *call; int error; long from; long seen; };
struct descriptor { unsigned char kind; unsigned offset; unsigned value; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct descriptor descriptors[DESCRIPTORS];
static struct failure failures[WORDS];
static int failure_count;
static pid_t watched;
static int record = -1;
static const char *device, *chip;

/* The driver's state and what the script says of it. */
static struct serial_rs485 mode;
static struct serial_icounter_struct counters;
static unsigned dropped, longest_delay = 100, lines = 28;
static int after_send_error, modem, port_flags;
static long busy_answers, busy_left;
static double character_time, free_at;

static int (*real_ioctl)(int, unsigned long, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static int (*real_fcntl)(int, int, ...);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_write)(int, const void *, size_t);

#define FIND(name) __extension__({ static __typeof__(name) *found; if (!found) found = dlsym(RTLD_NEXT, #name); found; })

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static _Noreturn void give_up(const char *reason, const char *word) {
    fprintf(stderr, "shim: %s: %s\n", reason, word);
    _exit(97);
}

static int error_number(const char *name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (!strcmp(ERRORS[i].name, name)) return ERRORS[i].number;
    give_up("unknown error", name);
}

static unsigned flag_bits(char *names) {
    unsigned bits = 0;
    char *rest = NULL;
    for (char *name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        unsigned bit = 0;
        for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++)
            if (!strcmp(FLAGS[i].name, name)) bit = FLAGS[i].bit;
        if (!bit) give_up("unknown flag", name);
        bits |= bit;
    }
    return bits;
}

static void learn_word(char *word) {
    char *value = strchr(word, '=');
    if (!value) give_up("a word without =", word);
    *value++ = 0;
    if (!strcmp(word, "drop")) dropped = flag_bits(value);
    else if (!strcmp(word, "mode")) mode.flags = flag_bits(value);
    else if (!strcmp(word, "longest_delay")) longest_delay = strtoul(value, NULL, 10);
    else if (!strcmp(word, "delay_after")) after_send_error = error_number(value);
    else if (!strcmp(word, "busy")) busy_answers = strtol(value, NULL, 10);
    else if (!strcmp(word, "character_time")) character_time = strtod(value, NULL);
    else if (!strcmp(word, "lines")) lines = strtoul(value, NULL, 10);
    else if (!strcmp(word, "frame")) counters.frame = strtol(value, NULL, 10);
    else if (!strcmp(word, "overrun")) counters.overrun = strtol(value, NULL, 10);
    else if (!strcmp(word, "parity")) counters.parity = strtol(value, NULL, 10);
    else if (!strcmp(word, "brk")) counters.brk = strtol(value, NULL, 10);
    else {
        char *from = strchr(value, '@');
        if (from) *from++ = 0;
        for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
            if (!strcmp(CALLS[i], word)) {
                if (failure_count == WORDS) give_up("too many words", word);
                failures[failure_count++] = (struct failure){CALLS[i], error_number(value), from ? strtol(from, NULL, 10) : 1, 0};
                return;
            }
        give_up("unknown word", word);
    }
}

static void start(void) {
    if (watched) return;
    real_ioctl = dlsym(RTLD_NEXT, "ioctl");
    real_openat = dlsym(RTLD_NEXT, "openat");
    real_close = dlsym(RTLD_NEXT, "close");
    real_fcntl = dlsym(RTLD_NEXT, "fcntl");
    real_read = dlsym(RTLD_NEXT, "read");
    real_write = dlsym(RTLD_NEXT, "write");
    device = getenv("MBCORE_SHIM_DEVICE");
    chip = getenv("MBCORE_SHIM_CHIP");
    static char script[4096];
    snprintf(script, sizeof script, "%s", getenv("MBCORE_SHIM_SCRIPT") ? getenv("MBCORE_SHIM_SCRIPT") : "");
    char *rest = NULL;
    for (char *word = strtok_r(script, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) learn_word(word);
    const char *path = getenv("MBCORE_SHIM_RECORD");
    if (!path) give_up("no MBCORE_SHIM_RECORD", "");
    int fd = real_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) give_up("the record does not open", path);
    /* Out of the way of programs that expect the lowest numbers. */
    record = real_fcntl(fd, F_DUPFD_CLOEXEC, 900);
    if (record < 0) record = fd;
    else real_close(fd);
    watched = getpid();
}

__attribute__((constructor)) static void loaded(void) { start(); }

/* A forked child may share memory with us, and its calls are none of the program's. */
static int is_watched(void) {
    start();
    return getpid() == watched;
}

static int kind_of(int fd) { return is_watched() && fd >= 0 && fd < DESCRIPTORS ? descriptors[fd].kind : NOT_OURS; }

static void note(double begin, const char *call, const char *target, const char *argument, long result) {
    char text[SHOWN + 256], outcome[32];
    int saved = errno;
    snprintf(outcome, sizeof outcome, "%ld", result);
    if (result == -1) {
        snprintf(outcome, sizeof outcome, "E%d", saved);
        for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
            if (ERRORS[i].number == saved) snprintf(outcome, sizeof outcome, "%s", ERRORS[i].name);
    }
    int length = snprintf(text, sizeof text, "%.9f %.9f %ld %s %s %s %s\n", begin, now(), (long)syscall(SYS_gettid), call, target,
                          *argument ? argument : "-", outcome);
    /* One write per line: lines of several threads don't mix. */
    if (real_write(record, text, length) != length) give_up("the record takes no more", call);
    errno = saved;
}

/* Whether the script lets this call fail; errno is then set. */
static int fails(const char *call) {
    int error = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < failure_count; i++)
        if (!strcmp(failures[i].call, call) && ++failures[i].seen >= failures[i].from) error = failures[i].error;
    pthread_mutex_unlock(&lock);
    if (error) errno = error;
    return error;
}

static void show_bytes(char *text, const unsigned char *data, ssize_t count) {
    for (ssize_t i = 0; i < count && i < SHOWN / 2 - 1; i++) sprintf(text + 2 * i, "%02x", data[i]);
}

/* Opening and closing ---------------------------------------------------------------------------------------------------------------- */

static int is_device(const char *path) {
    struct stat wanted, given;
    if (!device) return 0;
    if (!strcmp(path, device)) return 1;
    return !stat(path, &given) && S_ISCHR(given.st_mode) && !stat(device, &wanted) && given.st_rdev == wanted.st_rdev;
}

static void remember(int fd, int kind, unsigned offset) {
    if (fd >= DESCRIPTORS) give_up("a descriptor beyond the table", KIND[kind]);
    if (fd >= 0) descriptors[fd] = (struct descriptor){kind, offset, 0};
}

static int open_any(int folder, const char *path, int flags, mode_t permission) {
    start();
    int kind = !is_watched() ? NOT_OURS : chip && !strcmp(path, chip) ? CHIP : is_device(path) ? PORT : NOT_OURS;
    if (kind == NOT_OURS) return real_openat(folder, path, flags, permission);
    double begin = now();
    int fd = -1;
    if (!fails(kind == CHIP ? "open_chip" : "open")) fd = real_openat(folder, kind == CHIP ? "/dev/null" : path, flags, permission);
    remember(fd, kind, 0);
    note(begin, "open", KIND[kind], path, fd);
    return fd;
}

#define PERMISSION(flags)                                                   \
    mode_t permission = 0;                                                  \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        permission = va_arg(rest, unsigned);                                \
        va_end(rest);                                                       \
    }

int open(const char *path, int flags, ...) { PERMISSION(flags) return open_any(AT_FDCWD, path, flags, permission); }
int open64(const char *path, int flags, ...) { PERMISSION(flags) return open_any(AT_FDCWD, path, flags | O_LARGEFILE, permission); }
int openat(int folder, const char *path, int flags, ...) { PERMISSION(flags) return open_any(folder, path, flags, permission); }
int openat64(int folder, const char *path, int flags, ...) { PERMISSION(flags) return open_any(folder, path, flags | O_LARGEFILE, permission); }
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags | O_LARGEFILE, 0); }

int close(int fd) {
    int kind = kind_of(fd);
    if (kind == NOT_OURS) return real_close(fd);
    double begin = now();
    descriptors[fd].kind = NOT_OURS;
    int result = real_close(fd);
    if (!result && fails("close")) result = -1;
    note(begin, "close", KIND[kind], "", result);
    return result;
}

static int copied(int fd, int copy) {
    if (copy >= 0 && copy != fd && is_watched()) remember(copy, kind_of(fd), fd < DESCRIPTORS ? descriptors[fd].offset : 0);
    return copy;
}

int dup(int fd) { return copied(fd, FIND(dup)(fd)); }
int dup2(int fd, int copy) { return copied(fd, FIND(dup2)(fd, copy)); }
int dup3(int fd, int copy, int flags) { return copied(fd, FIND(dup3)(fd, copy, flags)); }

static int fcntl_any(int fd, int command, void *argument) {
    start();
    int result = real_fcntl(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}

#define ARGUMENT(last)             \
    va_list rest;                  \
    va_start(rest, last);          \
    void *argument = va_arg(rest, void *); \
    va_end(rest);

int fcntl(int fd, int command, ...) { ARGUMENT(command) return fcntl_any(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT(command) return fcntl_any(fd, command, argument); }

/* Bytes ------------------------------------------------------------------------------------------------------------------------------ */

ssize_t write(int fd, const void *data, size_t count) {
    int kind = kind_of(fd);
    if (kind == NOT_OURS) return real_write(fd, data, count);
    char shown[SHOWN] = "";
    double begin = now();
    ssize_t sent = fails("write") ? -1 : real_write(fd, data, count);
    if (sent > 0) {
        pthread_mutex_lock(&lock);
        busy_left = busy_answers;
        free_at = (free_at > begin ? free_at : begin) + sent * character_time;
        pthread_mutex_unlock(&lock);
    }
    show_bytes(shown, data, sent < 0 ? (ssize_t)count : sent);
    note(begin, "write", KIND[kind], shown, sent);
    return sent;
}

ssize_t read(int fd, void *data, size_t count) {
    int kind = kind_of(fd);
    if (kind == NOT_OURS) return real_read(fd, data, count);
    char shown[SHOWN] = "";
    double begin = now();
    ssize_t got = fails("read") ? -1 : real_read(fd, data, count);
    show_bytes(shown, data, got);
    note(begin, "read", KIND[kind], shown, got);
    return got;
}

ssize_t __read_chk(int fd, void *data, size_t count, size_t room) {
    if (count > room) abort();
    return read(fd, data, count);
}

int tcdrain(int fd) {
    int kind = kind_of(fd);
    if (kind == NOT_OURS) return FIND(tcdrain)(fd);
    double begin = now();
    int result = fails("tcdrain") ? -1 : FIND(tcdrain)(fd);
    note(begin, "tcdrain", KIND[kind], "", result);
    return result;
}

/* Waiting ---------------------------------------------------------------------------------------------------------------------------- */

static void show_time(char *text, const char *how, const struct timespec *t) {
    if (t) sprintf(text, "%s%.9f", how, t->tv_sec + t->tv_nsec * 1e-9);
    else sprintf(text, "%sforever", how);
}

int nanosleep(const struct timespec *duration, struct timespec *left) {
    if (!is_watched()) return FIND(nanosleep)(duration, left);
    char shown[64];
    double begin = now();
    show_time(shown, "for:", duration);
    int result = FIND(nanosleep)(duration, left);
    note(begin, "nanosleep", "-", shown, result);
    return result;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *when, struct timespec *left) {
    if (!is_watched()) return FIND(clock_nanosleep)(clock, flags, when, left);
    char shown[64];
    double begin = now();
    show_time(shown, flags & TIMER_ABSTIME ? "until:" : "for:", when);
    int error = FIND(clock_nanosleep)(clock, flags, when, left);
    errno = error ? error : errno;
    note(begin, "clock_nanosleep", "-", shown, error ? -1 : 0);
    return error;
}

int ppoll(struct pollfd *wanted, nfds_t count, const struct timespec *patience, const sigset_t *signals) {
    if (!is_watched()) return FIND(ppoll)(wanted, count, patience, signals);
    char shown[64];
    const char *target = "-";
    double begin = now();
    show_time(shown, "for:", patience);
    for (nfds_t i = 0; i < count; i++)
        if (kind_of(wanted[i].fd) != NOT_OURS) target = KIND[kind_of(wanted[i].fd)];
    int result = FIND(ppoll)(wanted, count, patience, signals);
    note(begin, "ppoll", target, shown, result);
    return result;
}

int __ppoll_chk(struct pollfd *wanted, nfds_t count, const struct timespec *patience, const sigset_t *signals, size_t room) {
    if (count > room / sizeof *wanted) abort();
    return ppoll(wanted, count, patience, signals);
}

int timerfd_settime(int fd, int flags, const struct itimerspec *next, struct itimerspec *before) {
    if (!is_watched()) return FIND(timerfd_settime)(fd, flags, next, before);
    char shown[64];
    double begin = now();
    show_time(shown, flags & TFD_TIMER_ABSTIME ? "until:" : "for:", &next->it_value);
    int result = FIND(timerfd_settime)(fd, flags, next, before);
    note(begin, "timerfd_settime", "-", shown, result);
    return result;
}

/* The driver ------------------------------------------------------------------------------------------------------------------------- */

static int refuse(int error) {
    errno = error;
    return -1;
}

/* As the kernel's serial core does: what the driver does not know is dropped, and RTS differs while sending if it can. */
static int set_mode(struct serial_rs485 *wish) {
    if ((wish->flags & SER_RS485_ENABLED) && wish->delay_rts_after_send && after_send_error) return refuse(after_send_error);
    wish->flags &= ~dropped;
    if (wish->flags & SER_RS485_ENABLED) {
        if (!(wish->flags & SER_RS485_RTS_ON_SEND) == !(wish->flags & SER_RS485_RTS_AFTER_SEND)) {
            wish->flags &= ~(SER_RS485_RTS_ON_SEND | SER_RS485_RTS_AFTER_SEND);
            wish->flags |= ~dropped & (dropped & SER_RS485_RTS_ON_SEND ? SER_RS485_RTS_AFTER_SEND : SER_RS485_RTS_ON_SEND);
        }
        if (wish->delay_rts_before_send > longest_delay) wish->delay_rts_before_send = longest_delay;
        if (wish->delay_rts_after_send > longest_delay) wish->delay_rts_after_send = longest_delay;
    } else {
        memset(wish, 0, sizeof *wish);
    }
    mode = *wish;
    return 0;
}

static void show_mode(char *text, const struct serial_rs485 *shown) {
    int length = 0;
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++)
        if (shown->flags & FLAGS[i].bit) length += sprintf(text + length, "%s%s", length ? "|" : "", FLAGS[i].name);
    sprintf(text + length, "%s,%u,%u", length ? "" : "off", shown->delay_rts_before_send, shown->delay_rts_after_send);
}

static void show_modem(char *text, int bits) {
    sprintf(text, "%s%s%s", bits & TIOCM_DTR ? "DTR" : "", (bits & TIOCM_DTR) && (bits & TIOCM_RTS) ? "|" : "",
            bits & TIOCM_RTS ? "RTS" : "");
}

static int ioctl_of_port(unsigned long request, void *argument, const char **name, char *shown) {
    int *number = argument;
    struct serial_struct *settings = argument;
    switch (request) {
    case TIOCMGET: *name = "TIOCMGET"; break;
    case TIOCMSET: *name = "TIOCMSET"; show_modem(shown, *number); break;
    case TIOCMBIS: *name = "TIOCMBIS"; show_modem(shown, *number); break;
    case TIOCMBIC: *name = "TIOCMBIC"; show_modem(shown, *number); break;
    case TIOCSRS485: *name = "TIOCSRS485"; show_mode(shown, argument); break;
    case TIOCGRS485: *name = "TIOCGRS485"; break;
    case TIOCSERGETLSR: *name = "TIOCSERGETLSR"; break;
    case TIOCGICOUNT: *name = "TIOCGICOUNT"; break;
    case TIOCGSERIAL: *name = "TIOCGSERIAL"; break;
    case TIOCSSERIAL: *name = "TIOCSSERIAL"; sprintf(shown, "flags:%#x", settings->flags); break;
    default: return 0;
    }
    if (fails(*name)) return -1;
    int result = 0;
    pthread_mutex_lock(&lock);
    switch (request) {
    case TIOCMGET: *number = modem; show_modem(shown, modem); break;
    case TIOCMSET: modem = *number; break;
    case TIOCMBIS: modem |= *number; break;
    case TIOCMBIC: modem &= ~*number; break;
    case TIOCSRS485: result = set_mode(argument); break;
    case TIOCGRS485: *(struct serial_rs485 *)argument = mode; show_mode(shown, &mode); break;
    case TIOCSERGETLSR:
        *number = busy_left > 0 || now() < free_at ? 0 : TIOCSER_TEMT;
        if (busy_left > 0) busy_left--;
        strcpy(shown, *number ? "empty" : "busy");
        break;
    case TIOCGICOUNT: *(struct serial_icounter_struct *)argument = counters; break;
    case TIOCGSERIAL: memset(settings, 0, sizeof *settings); settings->flags = port_flags; break;
    case TIOCSSERIAL: port_flags = settings->flags; break;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int is_taken(unsigned offset) {
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (descriptors[fd].kind == LINE && descriptors[fd].offset == offset) return 1;
    return 0;
}

static int get_line(struct gpio_v2_line_request *request) {
    if (request->num_lines != 1 || request->offsets[0] >= lines || request->config.num_attrs) return refuse(EINVAL);
    if (is_taken(request->offsets[0])) return refuse(EBUSY);
    request->fd = real_openat(AT_FDCWD, "/dev/null", O_RDONLY | O_CLOEXEC);
    remember(request->fd, LINE, request->offsets[0]);
    return request->fd < 0 ? -1 : 0;
}

static int ioctl_of_gpio(int fd, int kind, unsigned long request, void *argument, const char **name, char *shown) {
    struct gpio_v2_line_request *wish = argument;
    struct gpio_v2_line_values *values = argument;
    struct gpiochip_info *information = argument;
    if (kind == CHIP && request == GPIO_GET_CHIPINFO_IOCTL) {
        *name = "GPIO_GET_CHIPINFO";
        if (fails(*name)) return -1;
        *information = (struct gpiochip_info){"gpiochip", "shim", lines};
        return 0;
    }
    if (kind == CHIP && request == GPIO_V2_GET_LINE_IOCTL) {
        *name = "GPIO_V2_GET_LINE";
        sprintf(shown, "%u,%s%s,%.31s", wish->offsets[0], wish->config.flags & GPIO_V2_LINE_FLAG_OUTPUT ? "OUTPUT" : "",
                wish->config.flags & GPIO_V2_LINE_FLAG_ACTIVE_LOW ? "|ACTIVE_LOW" : "", wish->consumer);
        return fails(*name) ? -1 : get_line(wish);
    }
    if (kind == LINE && request == GPIO_V2_LINE_SET_VALUES_IOCTL) {
        *name = "GPIO_V2_LINE_SET_VALUES";
        sprintf(shown, "%d", (int)(values->bits & 1));
        if (fails(*name)) return -1;
        if (values->mask != 1) return refuse(EINVAL);
        descriptors[fd].value = values->bits & 1;
        return 0;
    }
    if (kind == LINE && request == GPIO_V2_LINE_GET_VALUES_IOCTL) {
        *name = "GPIO_V2_LINE_GET_VALUES";
        if (fails(*name)) return -1;
        values->bits = descriptors[fd].value & values->mask;
        return 0;
    }
    *name = "ioctl";
    return refuse(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...) {
    ARGUMENT(request)
    int kind = kind_of(fd);
    if (kind == NOT_OURS) return real_ioctl(fd, request, argument);
    const char *name = NULL;
    char shown[256] = "";
    double begin = now();
    int result = kind == PORT ? ioctl_of_port(request, argument, &name, shown) : ioctl_of_gpio(fd, kind, request, argument, &name, shown);
    if (!name) return real_ioctl(fd, request, argument);
    note(begin, name, KIND[kind], shown, result);
    return result;
}
