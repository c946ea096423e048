/* server_c - a minimal Modbus server: one thread; TCP from one epoll set, or RTU on one serial line.
 *
 *   cc -O2 -Wall -Wextra -o server_c server_c.c
 *
 * The limit that other servers are compared with: every request is decoded, checked (01, 03, 02, in the order of the
 * Application Protocol) and answered from a real store; all requests of one read are answered by one send.
 * Function codes 1-6, 15, 16, 23. On TCP it answers every unit id, has no limits on connections and no time-outs. On a line it is
 * unit 1; a frame's length follows from its function code, and after a silence or a wrong frame it starts over.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

enum { MBAP = 7, MAX_ADU = 260, UNIT = 1, SILENCE_MS = 50, TABLE = 1000, IN_SIZE = 4096, OUT_SIZE = 8192 };
enum { ILLEGAL_FUNCTION = 1, ILLEGAL_ADDRESS = 2, ILLEGAL_VALUE = 3 };

static uint8_t coils[TABLE], discrete_inputs[TABLE];
static uint16_t holding_registers[TABLE], input_registers[TABLE];

static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static void put16(uint8_t *p, unsigned v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static int inside(unsigned address, unsigned quantity) { return address + quantity <= TABLE; }

/* ---- request PDU -> response PDU ---------------------------------------------------------------------------- */
static int refuse(const uint8_t *q, uint8_t *r, int exception) {
    r[0] = q[0] | 0x80;
    r[1] = (uint8_t)exception;
    return 2;
}
static int echo(const uint8_t *q, uint8_t *r) {
    memcpy(r, q, 5);
    return 5;
}
static int read_bits(const uint8_t *q, int n, uint8_t *r, const uint8_t *table) {
    unsigned address = get16(q + 1), quantity = get16(q + 3), bytes = (quantity + 7) / 8;
    if (n != 5 || quantity < 1 || quantity > 2000) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(address, quantity)) return refuse(q, r, ILLEGAL_ADDRESS);
    r[0] = q[0];
    r[1] = (uint8_t)bytes;
    memset(r + 2, 0, bytes);
    for (unsigned i = 0; i < quantity; i++) r[2 + i / 8] |= (uint8_t)(table[address + i] << i % 8);
    return 2 + (int)bytes;
}
static int put_registers(uint8_t *r, uint8_t function_code, const uint16_t *table, unsigned address, unsigned quantity) {
    r[0] = function_code;
    r[1] = (uint8_t)(2 * quantity);
    for (unsigned i = 0; i < quantity; i++) put16(r + 2 + 2 * i, table[address + i]);
    return 2 + 2 * (int)quantity;
}
static int read_registers(const uint8_t *q, int n, uint8_t *r, const uint16_t *table) {
    unsigned address = get16(q + 1), quantity = get16(q + 3);
    if (n != 5 || quantity < 1 || quantity > 125) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(address, quantity)) return refuse(q, r, ILLEGAL_ADDRESS);
    return put_registers(r, q[0], table, address, quantity);
}
static int write_coil(const uint8_t *q, int n, uint8_t *r) {
    unsigned address = get16(q + 1), value = get16(q + 3);
    if (n != 5 || (value != 0 && value != 0xFF00)) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(address, 1)) return refuse(q, r, ILLEGAL_ADDRESS);
    coils[address] = value != 0;
    return echo(q, r);
}
static int write_register(const uint8_t *q, int n, uint8_t *r) {
    unsigned address = get16(q + 1);
    if (n != 5) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(address, 1)) return refuse(q, r, ILLEGAL_ADDRESS);
    holding_registers[address] = (uint16_t)get16(q + 3);
    return echo(q, r);
}
static int write_coils(const uint8_t *q, int n, uint8_t *r) {
    if (n < 6) return refuse(q, r, ILLEGAL_VALUE);
    unsigned address = get16(q + 1), quantity = get16(q + 3), bytes = (quantity + 7) / 8;
    if (quantity < 1 || quantity > 1968 || q[5] != bytes || n != 6 + (int)bytes) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(address, quantity)) return refuse(q, r, ILLEGAL_ADDRESS);
    for (unsigned i = 0; i < quantity; i++) coils[address + i] = q[6 + i / 8] >> i % 8 & 1;
    return echo(q, r);
}
static int write_registers(const uint8_t *q, int n, uint8_t *r) {
    if (n < 6) return refuse(q, r, ILLEGAL_VALUE);
    unsigned address = get16(q + 1), quantity = get16(q + 3);
    if (quantity < 1 || quantity > 123 || q[5] != 2 * quantity || n != 6 + q[5]) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(address, quantity)) return refuse(q, r, ILLEGAL_ADDRESS);
    for (unsigned i = 0; i < quantity; i++) holding_registers[address + i] = (uint16_t)get16(q + 6 + 2 * i);
    return echo(q, r);
}
static int read_write_registers(const uint8_t *q, int n, uint8_t *r) {
    if (n < 10) return refuse(q, r, ILLEGAL_VALUE);
    unsigned from = get16(q + 1), wanted = get16(q + 3), to = get16(q + 5), given = get16(q + 7);
    if (wanted < 1 || wanted > 125 || given < 1 || given > 121 || q[9] != 2 * given || n != 10 + q[9]) return refuse(q, r, ILLEGAL_VALUE);
    if (!inside(from, wanted) || !inside(to, given)) return refuse(q, r, ILLEGAL_ADDRESS);
    for (unsigned i = 0; i < given; i++) holding_registers[to + i] = (uint16_t)get16(q + 10 + 2 * i);
    return put_registers(r, q[0], holding_registers, from, wanted);
}
static int answer(const uint8_t *q, int n, uint8_t *r) {
    switch (q[0]) {
    case 1: return read_bits(q, n, r, coils);
    case 2: return read_bits(q, n, r, discrete_inputs);
    case 3: return read_registers(q, n, r, holding_registers);
    case 4: return read_registers(q, n, r, input_registers);
    case 5: return write_coil(q, n, r);
    case 6: return write_register(q, n, r);
    case 15: return write_coils(q, n, r);
    case 16: return write_registers(q, n, r);
    case 23: return read_write_registers(q, n, r);
    default: return refuse(q, r, ILLEGAL_FUNCTION);
    }
}

/* ---- connections -------------------------------------------------------------------------------------------- */
struct connection {
    int fd, in_used, out_used, waits_to_write;
    uint8_t in[IN_SIZE], out[OUT_SIZE];
};
static int epoll;

/* Answers whole frames at the head of `in` while there is room for the answers. Frames consumed, -1: not a Modbus stream. */
static int answer_frames(struct connection *c) {
    int at = 0, frames = 0;
    while (c->in_used - at > MBAP && OUT_SIZE - c->out_used >= MAX_ADU) {
        const uint8_t *q = c->in + at;
        uint8_t *r = c->out + c->out_used;
        int length = (int)get16(q + 4); /* unit id and PDU */
        if (length < 2 || length > 254) return -1;
        if (c->in_used - at < MBAP - 1 + length) break;
        at += MBAP - 1 + length;
        frames++;
        if (get16(q + 2) != 0) continue; /* another protocol: discarded */
        memcpy(r, q, MBAP);
        int n = answer(q + MBAP, length - 1, r + MBAP);
        put16(r + 4, (unsigned)n + 1);
        c->out_used += MBAP + n;
    }
    memmove(c->in, c->in + at, (size_t)(c->in_used -= at));
    return frames;
}
/* Sends what is in `out`. 1: all sent, 0: the socket is full, -1: it is broken. */
static int flush(struct connection *c) {
    if (!c->out_used) return 1;
    ssize_t n = send(c->fd, c->out, (size_t)c->out_used, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    memmove(c->out, c->out + n, (size_t)(c->out_used -= (int)n));
    return !c->out_used;
}
/* While answers wait to be sent nothing is read: a client that does not read is not read from. */
static int wait_for(struct connection *c, int to_write) {
    if (c->waits_to_write == to_write) return 0;
    c->waits_to_write = to_write;
    return epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){.events = to_write ? EPOLLOUT : EPOLLIN, .data.ptr = c});
}
/* -1: the connection is over. */
static int serve(struct connection *c, uint32_t events) {
    if (!c->waits_to_write) {
        ssize_t n = recv(c->fd, c->in + c->in_used, (size_t)(IN_SIZE - c->in_used), 0);
        if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : -1;
        c->in_used += (int)n;
    } else if (events & (EPOLLHUP | EPOLLERR))
        return -1;
    for (;;) {
        int frames = answer_frames(c), sent = flush(c);
        if (frames < 0 || sent < 0) return -1;
        if (!sent) return wait_for(c, 1);
        if (!frames || c->in_used <= MBAP) return wait_for(c, 0);
    }
}
static void accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
    if (fd < 0) return;
    struct connection *c = malloc(sizeof *c);
    if (!c) { close(fd); return; }
    c->fd = fd;
    c->in_used = c->out_used = c->waits_to_write = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
}

/* ---- serial line -------------------------------------------------------------------------------------------- */
static uint16_t crc_table[256];

static void fill_crc_table(void) {
    for (unsigned i = 0; i < 256; i++) {
        unsigned crc = i;
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xA001 : crc >> 1;
        crc_table[i] = (uint16_t)crc;
    }
}
static unsigned crc16(const uint8_t *p, int n) {
    unsigned crc = 0xFFFF;
    while (n--) crc = crc >> 8 ^ crc_table[(crc ^ *p++) & 0xFF];
    return crc;
}
/* A request's length with unit and CRC. 0: not known yet, -1: no such function. */
static int rtu_length(const uint8_t *b, int have) {
    if (have < 2) return 0;
    switch (b[1]) {
    case 1: case 2: case 3: case 4: case 5: case 6: return 8;
    case 15: case 16: return have < 7 ? 0 : 9 + b[6];
    case 23: return have < 11 ? 0 : 13 + b[10];
    default: return -1;
    }
}
static int open_line(const char *path) {
    struct termios settings;
    int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || tcgetattr(fd, &settings)) return -1;
    cfmakeraw(&settings);
    settings.c_cflag |= CLOCAL | CREAD;
    cfsetspeed(&settings, B115200);
    return tcsetattr(fd, TCSANOW, &settings) ? -1 : fd;
}
/* Serves until the line is gone. */
static void serve_line(int fd) {
    uint8_t in[2 * MAX_ADU], out[MAX_ADU];
    int used = 0, length;
    for (;;) {
        struct pollfd line = {.fd = fd, .events = POLLIN};
        if (!poll(&line, 1, used ? SILENCE_MS : -1)) used = 0;
        ssize_t n = read(fd, in + used, sizeof in - (size_t)used);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0) return;
        used += (int)n;
        while ((length = rtu_length(in, used)) && length <= used) {
            if (length < 0 || crc16(in, length)) { /* over a frame with its CRC it is 0 */
                used = 0;
                break;
            }
            if (in[0] == UNIT) {
                out[0] = UNIT;
                int size = 1 + answer(in + 1, length - 3, out + 1);
                unsigned crc = crc16(out, size);
                out[size++] = (uint8_t)crc;
                out[size++] = (uint8_t)(crc >> 8);
                if (write(fd, out, (size_t)size) != size) return;
            }
            memmove(in, in + length, (size_t)(used -= length));
        }
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"port", required_argument, NULL, 'p'}, {"serial", required_argument, NULL, 's'}, {0}};
    const char *serial = NULL;
    int port = 0, one = 1, option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1 && option != '?')
        if (option == 's') serial = optarg;
        else port = atoi(optarg);
    if (option != -1 || (!serial && (port < 1 || port > 65535))) {
        fprintf(stderr, "usage: server_c --port N | --serial PATH\n");
        return 2;
    }
    for (unsigned a = 0; a < TABLE; a++) { /* the pattern that mbload --expect pattern knows */
        holding_registers[a] = input_registers[a] = (uint16_t)(a * 40503u + 0x1234);
        coils[a] = discrete_inputs[a] = __builtin_popcount(a) & 1;
    }
    if (serial) {
        int line = open_line(serial);
        if (line < 0) {
            perror(serial);
            return 1;
        }
        fill_crc_table();
        puts("ready");
        fflush(stdout);
        serve_line(line);
        fprintf(stderr, "server_c: %s is gone\n", serial);
        return 1;
    }
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, SOMAXCONN)) {
        perror("server_c");
        return 1;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    for (;;) {
        struct epoll_event ready[64];
        int n = epoll_wait(epoll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) accept_one(listener);
            else if (serve(c, ready[i].events) < 0) {
                close(c->fd);
                free(c);
            }
        }
    }
}
