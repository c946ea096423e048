/* mbload - Modbus TCP / UDP / RTU load generator that checks every answer.
 *
 *   cc -O2 -Wall -Wextra -o mbload mbload.c          (Linux, no dependencies)
 *
 * Closed loop: every connection keeps P requests in flight, for D seconds after a warm-up; with --gap it pauses when they are answered.
 * Each answer is checked (transaction id, protocol id, length, unit, function code, byte count, echo, CRC in RTU mode, and with
 * --expect pattern the values too).  With --pid the CPU time that the server's process used in the measured window is read
 * at its very beginning and end.  One JSON object on stdout; exit status 0 only if nothing went wrong.
 *
 * The pattern a server must hold for --expect pattern:   (writes send the same values, so it survives them)
 *   register a = (a * 40503 + 0x1234) & 0xFFFF           coil / discrete input a = popcount(a) & 1
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { MAXP = 1024, INBUF = 1 << 16, MAXADU = 260 };
enum { E_TID, E_PID, E_LEN, E_UNIT, E_FC, E_COUNT, E_VALUE, E_ECHO, E_CRC, E_TIMEOUT, E_CLOSED, E_CONNECT, E_N };
static const char *const e_name[E_N] = {"tid", "pid", "len", "unit", "fc", "count", "value", "echo", "crc",
                                        "timeout", "closed", "connect"};

/* ---- options ---------------------------------------------------------------------------------------------- */
static struct {
    const char *host, *port, *rtu, *type, *label;
    int conns, depth, n, addr, vary, unit, udp, expect, baud, split, spin, pid;
    double warm, dur, timeout, gap, split_delay, connect_gap;
    long long limit;
    int parity, stop;
} o = {.host = "127.0.0.1", .port = "5020", .type = "fc3", .label = "", .conns = 1, .depth = 1, .n = 10, .unit = 1,
       .baud = 115200, .warm = 1, .dur = 3, .timeout = 2, .parity = 'N', .stop = 1};

/* ---- statistics ------------------------------------------------------------------------------------------- */
#define SUB 7 /* 128 sub-buckets per power of two: below 0.8 % error */
static uint64_t hist[(64 - SUB + 1) << SUB], st_req, st_exc, st_exc_code[256], st_err[E_N], st_reconn, st_ooo, st_pad, st_left;
static uint64_t st_max, st_min = UINT64_MAX, st_sum;
static double st_server_cpu = -1; /* seconds, all threads of the server; below zero: not asked for */

static int bucket(uint64_t v) {
    if (v < (2u << SUB)) return (int)v;
    int sh = 63 - __builtin_clzll(v) - SUB;
    return (sh << SUB) + (int)(v >> sh);
}
static double bucket_mid(int b) {
    if (b < (2 << SUB)) return b;
    int sh = (b >> SUB) - 1;
    uint64_t lo = (uint64_t)(b - (sh << SUB)) << sh;
    return (double)lo + (double)(1ull << sh) / 2;
}
static double quantile(double q) {
    uint64_t want = (uint64_t)(q * (double)st_req), seen = 0;
    if (!st_req) return 0;
    for (int i = 0; i < (int)(sizeof hist / sizeof *hist); i++)
        if ((seen += hist[i]) > want || seen == st_req) return bucket_mid(i) / 1e3;
    return 0;
}
static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}
static void done(uint64_t ns) {
    st_req++;
    st_sum += ns;
    hist[bucket(ns)]++;
    if (ns > st_max) st_max = ns;
    if (ns < st_min) st_min = ns;
}

/* ---- PDUs ------------------------------------------------------------------------------------------------- */
struct req { uint64_t sent; uint16_t tid, addr, n; uint8_t fc, busy; };

static uint16_t reg_at(unsigned a) { return (uint16_t)((a & 0xFFFF) * 40503u + 0x1234); }
static int bit_at(unsigned a) { return __builtin_popcount(a & 0xFFFF) & 1; }
static void put16(uint8_t *p, unsigned v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }

static int clampn(int n, int max) { return n < 1 ? 1 : n > max ? max : n; }

/* what the seq-th request is */
static void choose(struct req *r, uint64_t seq) {
    static const struct { uint8_t fc; uint8_t n; } mix[16] = {
        {3, 10}, {4, 10}, {3, 125}, {1, 16}, {6, 1}, {3, 10}, {2, 16}, {16, 10}, {3, 2}, {4, 2}, {3, 10}, {5, 1},
        {3, 60}, {15, 16}, {23, 10}, {3, 10}};
    int n = o.n;
    if (!strcmp(o.type, "mix")) {
        r->fc = mix[seq & 15].fc;
        n = mix[seq & 15].n;
    } else
        r->fc = (uint8_t)atoi(o.type + 2);
    int max = r->fc <= 2 ? 2000 : r->fc <= 4 ? 125 : r->fc <= 6 ? 1 : r->fc == 15 ? 1968 : r->fc == 16 ? 123 : 121;
    r->n = (uint16_t)clampn(n, max);
    r->addr = (uint16_t)(o.addr + (o.vary ? (int)(seq % (uint64_t)o.vary) : 0));
}
static int put_regs(uint8_t *p, const struct req *r) {
    for (int i = 0; i < r->n; i++) put16(p + 2 * i, reg_at(r->addr + (unsigned)i));
    return 2 * r->n;
}
static int put_bits(uint8_t *p, const struct req *r) {
    int nb = (r->n + 7) / 8;
    memset(p, 0, (size_t)nb);
    for (int i = 0; i < r->n; i++) p[i >> 3] |= (uint8_t)(bit_at(r->addr + (unsigned)i) << (i & 7));
    return nb;
}
/* request PDU; returns its length */
static int encode(uint8_t *p, const struct req *r) {
    p[0] = r->fc;
    put16(p + 1, r->addr);
    put16(p + 3, r->n);
    switch (r->fc) {
    case 5: put16(p + 3, bit_at(r->addr) ? 0xFF00 : 0); return 5;
    case 6: put16(p + 3, reg_at(r->addr)); return 5;
    case 15: return 6 + (p[5] = (uint8_t)put_bits(p + 6, r));
    case 16: return 6 + (p[5] = (uint8_t)put_regs(p + 6, r));
    case 23:
        put16(p + 5, r->addr);
        put16(p + 7, r->n);
        return 10 + (p[9] = (uint8_t)put_regs(p + 10, r));
    default: return 5;
    }
}
/* checks a response PDU; returns -1 when good (or a well-formed exception) and the kind of error otherwise */
static int verify(const uint8_t *p, int len, const struct req *r) {
    if (len < 2) return E_LEN;
    if (p[0] == (r->fc | 0x80)) {
        if (len != 2) return E_LEN;
        st_exc++;
        st_exc_code[p[1]]++;
        return -1;
    }
    if (p[0] != r->fc) return E_FC;
    uint8_t want[256];
    switch (r->fc) {
    case 1: case 2: {
        int nb = (r->n + 7) / 8;
        if (p[1] != nb) return E_COUNT;
        if (len != 2 + nb) return E_LEN;
        if ((r->n & 7) && p[1 + nb] >> (r->n & 7)) { st_pad++; }
        if (o.expect) {
            put_bits(want, r);
            if ((r->n & 7) == 0 ? memcmp(want, p + 2, (size_t)nb) != 0
                                : memcmp(want, p + 2, (size_t)nb - 1) != 0 ||
                                      ((want[nb - 1] ^ p[1 + nb]) & ((1 << (r->n & 7)) - 1)))
                return E_VALUE;
        }
        return -1;
    }
    case 3: case 4: case 23:
        if (p[1] != (uint8_t)(2 * r->n)) return E_COUNT;
        if (len != 2 + 2 * r->n) return E_LEN;
        if (o.expect && (put_regs(want, r), memcmp(want, p + 2, (size_t)(2 * r->n)))) return E_VALUE;
        return -1;
    default: /* 5 6 15 16: the first five bytes of the request come back */
        if (len != 5) return E_LEN;
        uint8_t q[MAXADU];
        encode(q, r);
        return memcmp(q, p, 5) ? E_ECHO : -1;
    }
}
static uint16_t crc16(const uint8_t *p, int n) {
    static uint16_t t[256];
    if (!t[1])
        for (unsigned i = 0; i < 256; i++) {
            unsigned c = i;
            for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xA001 : c >> 1;
            t[i] = (uint16_t)c;
        }
    unsigned c = 0xFFFF;
    while (n--) c = c >> 8 ^ t[(c ^ *p++) & 0xFF];
    return (uint16_t)c;
}
static int want_rtu_len(const uint8_t *b, int have) { /* whole RTU answer's length, 0 while unknown */
    if (have < 3) return 0;
    if (b[1] & 0x80) return 5;
    if (b[1] <= 4 || b[1] == 23) return 5 + b[2];
    return 8;
}

/* ---- TCP and UDP ------------------------------------------------------------------------------------------ */
struct conn {
    int fd, inflight, rlen, wlen, woff, armed;
    uint16_t tid;
    uint64_t seq, completed, due; /* not before then does it ask again */
    struct req *slot;
    uint8_t *in, *out;
    size_t outcap;
};
static struct addrinfo *target;
static int ep;
static uint64_t sent_total;
static int stopping;

static int dial(void) {
    int fd = socket(target->ai_family, o.udp ? SOCK_DGRAM : SOCK_STREAM, 0), one = 1;
    if (fd < 0) return -1;
    if (connect(fd, target->ai_addr, target->ai_addrlen)) { close(fd); return -1; }
    if (!o.udp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}
static void watch(struct conn *c, int op, uint32_t ev) {
    struct epoll_event e = {.events = ev, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &e);
}
static int frame(uint8_t *b, struct conn *c, struct req *r, uint64_t t) { /* a new request into slot r */
    choose(r, c->seq++);
    r->tid = ++c->tid;
    r->sent = t;
    r->busy = 1;
    c->inflight++;
    sent_total++;
    put16(b, r->tid);
    put16(b + 2, 0);
    b[6] = (uint8_t)o.unit;
    int n = encode(b + 7, r);
    put16(b + 4, (unsigned)n + 1);
    return n + 7;
}
static void flush_out(struct conn *c) {
    while (c->woff < c->wlen) {
        int n = c->wlen - c->woff;
        if (o.split && n > o.split) n = o.split;
        ssize_t k = send(c->fd, c->out + c->woff, (size_t)n, MSG_NOSIGNAL);
        if (k < 0) {
            if (errno == EAGAIN && !c->armed) { c->armed = 1; watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT); }
            return; /* a broken socket is seen on the read side */
        }
        c->woff += (int)k;
        if (o.split && o.split_delay > 0 && c->woff < c->wlen) usleep((useconds_t)(o.split_delay * 1e6));
    }
    c->woff = c->wlen = 0;
    if (c->armed) { c->armed = 0; watch(c, EPOLL_CTL_MOD, EPOLLIN); }
}
static void refill(struct conn *c) {
    uint64_t t = 0;
    if (c->woff) memmove(c->out, c->out + c->woff, (size_t)(c->wlen -= c->woff)), c->woff = 0;
    for (int i = 0; i < o.depth && c->inflight < o.depth && !stopping; i++) {
        if (c->slot[i].busy) continue;
        if (o.limit && sent_total >= (uint64_t)o.limit) break;
        if (!t) t = now_ns();
        if (o.udp) {
            uint8_t b[MAXADU];
            int n = frame(b, c, &c->slot[i], t);
            if (send(c->fd, b, (size_t)n, MSG_NOSIGNAL) < 0) st_err[E_CLOSED]++;
        } else
            c->wlen += frame(c->out + c->wlen, c, &c->slot[i], t);
    }
    if (c->wlen) flush_out(c);
}
static void reconnect(struct conn *c) {
    close(c->fd);
    st_reconn++;
    c->inflight = c->rlen = c->wlen = c->woff = c->armed = 0;
    for (int i = 0; i < o.depth; i++) c->slot[i].busy = 0;
    if ((c->fd = dial()) < 0) { st_err[E_CONNECT]++; return; }
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    refill(c);
}
/* one whole ADU: 0 good, 1 wrong but the stream is still in step */
static int answer(struct conn *c, const uint8_t *b, int len, uint64_t t) {
    unsigned tid = get16(b);
    struct req *r = NULL, *oldest = NULL;
    for (int i = 0; i < o.depth; i++) {
        struct req *s = &c->slot[i];
        if (!s->busy) continue;
        if (!oldest || (int16_t)(s->tid - oldest->tid) < 0) oldest = s;
        if (s->tid == tid) r = s;
    }
    if (!r) { st_err[E_TID]++; return 1; }
    if (r != oldest) st_ooo++;
    int e = b[6] != o.unit ? E_UNIT : verify(b + 7, len - 7, r);
    if (e >= 0) st_err[e]++;
    else { done(t - r->sent); c->completed++; }
    r->busy = 0;
    c->inflight--;
    return e >= 0;
}
static void readable(struct conn *c) {
    for (;;) {
        ssize_t k = recv(c->fd, c->in + c->rlen, (size_t)(INBUF - c->rlen), 0);
        uint64_t t = now_ns();
        if (k < 0 && errno == EAGAIN) break;
        if (k <= 0) {
            if (stopping) return;
            st_err[E_CLOSED]++;
            if (!o.udp) { reconnect(c); return; }
            break;
        }
        if (o.udp) {
            if (k < 9 || get16(c->in + 4) + 6 != (unsigned)k) st_err[E_LEN]++;
            else if (get16(c->in + 2)) st_err[E_PID]++;
            else answer(c, c->in, (int)k, t);
            continue;
        }
        c->rlen += (int)k;
        int p = 0;
        while (c->rlen - p >= 7) {
            unsigned len = get16(c->in + p + 4);
            if (get16(c->in + p + 2) || len < 3 || len > 254) {
                st_err[get16(c->in + p + 2) ? E_PID : E_LEN]++;
                reconnect(c);
                return;
            }
            if (c->rlen - p < (int)len + 6) break;
            answer(c, c->in + p, (int)len + 6, t);
            p += (int)len + 6;
        }
        if (p) memmove(c->in, c->in + p, (size_t)(c->rlen -= p));
        if (k < 16384) break; /* the socket is drained, most likely: epoll tells if not */
    }
    if (o.gap > 0) c->due = now_ns() + (uint64_t)(o.gap * 1e9);
    else refill(c);
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6 + (double)u.ru_stime.tv_sec +
           (double)u.ru_stime.tv_usec / 1e6;
}
static double server_cpu_s(void) {
    clockid_t clock;
    struct timespec t;
    if (!o.pid || clock_getcpuclockid(o.pid, &clock) || clock_gettime(clock, &t)) return -1;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
static void zero_stats(void) {
    memset(hist, 0, sizeof hist);
    memset(st_exc_code, 0, sizeof st_exc_code);
    st_req = st_exc = st_max = st_sum = st_ooo = st_pad = 0;
    st_min = UINT64_MAX; /* errors of the warm-up are kept on purpose */
}
static int report(uint64_t reqs, double secs, double cpu, int conns, double connect_s, uint64_t cmin, uint64_t cmax) {
    uint64_t errors = 0;
    for (int i = 0; i < E_N; i++) errors += st_err[i];
    printf("{\"label\":\"%s\",\"mode\":\"%s\",\"type\":\"%s\",\"n\":%d,\"conns\":%d,\"depth\":%d,\"seconds\":%.3f,"
           "\"requests\":%llu,\"rps\":%.1f,\"mean_us\":%.2f,\"min_us\":%.2f,\"p50_us\":%.2f,\"p90_us\":%.2f,"
           "\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f,\"errors\":%llu,\"exceptions\":%llu,\"out_of_order\":%llu,"
           "\"padding_bits_set\":%llu,\"unanswered\":%llu,\"reconnects\":%llu,\"connect_s\":%.3f,\"conn_min\":%llu,\"conn_max\":%llu,"
           "\"client_cpu\":%.3f",
           o.label, o.rtu ? "rtu" : o.udp ? "udp" : "tcp", o.type, o.n, conns, o.depth, secs,
           (unsigned long long)reqs, (double)reqs / secs, st_req ? (double)st_sum / (double)st_req / 1e3 : 0,
           st_req ? (double)st_min / 1e3 : 0, quantile(.5), quantile(.9), quantile(.99), quantile(.999),
           (double)st_max / 1e3, (unsigned long long)errors, (unsigned long long)st_exc, (unsigned long long)st_ooo,
           (unsigned long long)st_pad, (unsigned long long)st_left, (unsigned long long)st_reconn, connect_s, (unsigned long long)cmin,
           (unsigned long long)cmax, cpu / secs);
    if (st_server_cpu >= 0) printf(",\"server_cpu_s\":%.9f", st_server_cpu);
    if (errors) {
        printf(",\"error_kinds\":{");
        for (int i = 0, k = 0; i < E_N; i++)
            if (st_err[i]) printf("%s\"%s\":%llu", k++ ? "," : "", e_name[i], (unsigned long long)st_err[i]);
        printf("}");
    }
    if (st_exc) {
        printf(",\"exception_codes\":{");
        for (int i = 0, k = 0; i < 256; i++)
            if (st_exc_code[i]) printf("%s\"%d\":%llu", k++ ? "," : "", i, (unsigned long long)st_exc_code[i]);
        printf("}");
    }
    printf("}\n");
    return errors || !st_req ? 1 : 0;
}

static int run_net(void) {
    struct addrinfo hint = {.ai_socktype = o.udp ? SOCK_DGRAM : SOCK_STREAM};
    int rc = getaddrinfo(o.host, o.port, &hint, &target);
    if (rc) { fprintf(stderr, "mbload: %s: %s\n", o.host, gai_strerror(rc)); return 2; }
    struct rlimit rl;
    if (!getrlimit(RLIMIT_NOFILE, &rl)) { rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl); }
    ep = epoll_create1(0);
    struct conn *cs = calloc((size_t)o.conns, sizeof *cs);
    uint64_t t0 = now_ns();
    int up = 0;
    for (int i = 0; i < o.conns; i++) {
        struct conn *c = &cs[i];
        c->slot = calloc((size_t)o.depth, sizeof *c->slot);
        c->in = malloc(INBUF);
        c->outcap = (size_t)o.depth * MAXADU * 2;
        c->out = malloc(c->outcap);
        c->seq = (uint64_t)i;
        if ((c->fd = dial()) < 0) { st_err[E_CONNECT]++; continue; }
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
        up++;
        if (o.connect_gap > 0) usleep((useconds_t)(o.connect_gap * 1e6));
    }
    double connect_s = (double)(now_ns() - t0) / 1e9;
    if (!up) { fprintf(stderr, "mbload: no connection: %s\n", strerror(errno)); return report(0, 1, 0, 0, connect_s, 0, 0); }
    for (int i = 0; i < o.conns; i++) {
        if (cs[i].fd < 0) continue;
        if (o.gap > 0) cs[i].due = now_ns() + (uint64_t)(o.gap * 1e9 * i / o.conns); /* each at its own time */
        else refill(&cs[i]);
    }
    uint64_t start = now_ns(), warm_end = start + (uint64_t)(o.warm * 1e9), end = warm_end + (uint64_t)(o.dur * 1e9);
    uint64_t next_check = start + 100000000ull, t, begin = start;
    /* Two turns at least, however long the server needs: of one the ends weigh as much as the middle. */
    uint64_t enough = o.gap > 0 ? 1 : 2ull * (uint64_t)o.conns * (uint64_t)o.depth;
    int warm = o.warm > 0;
    double cpu0 = cpu_s(), server0 = server_cpu_s();
    struct epoll_event ev[256];
    for (;;) {
        int k = epoll_wait(ep, ev, 256, o.spin ? 0 : o.gap > 0 ? 1 : 50);
        for (int i = 0; i < k; i++) {
            struct conn *c = ev[i].data.ptr;
            if (ev[i].events & EPOLLOUT) flush_out(c);
            if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        t = now_ns();
        for (int i = 0; o.gap > 0 && i < o.conns; i++)
            if (cs[i].fd >= 0 && !cs[i].inflight && t >= cs[i].due) refill(&cs[i]);
        if (warm && t >= warm_end) {
            zero_stats();
            for (int i = 0; i < o.conns; i++) cs[i].completed = 0;
            begin = t;
            end = t + (uint64_t)(o.dur * 1e9);
            cpu0 = cpu_s();
            server0 = server_cpu_s();
            warm = 0;
        }
        if (t >= next_check) { /* lost answers */
            next_check = t + 100000000ull;
            for (int i = 0; i < o.conns; i++)
                for (int j = 0; j < o.depth; j++) {
                    struct req *r = &cs[i].slot[j];
                    if (!r->busy || (double)(int64_t)(t - r->sent) < o.timeout * 1e9) continue; /* sent after `t`, perhaps */
                    st_err[E_TIMEOUT]++;
                    if (!o.udp) { reconnect(&cs[i]); break; }
                    r->busy = 0;
                    cs[i].inflight--;
                    refill(&cs[i]);
                }
        }
        if (o.limit) {
            int busy = 0;
            for (int i = 0; i < o.conns && !busy; i++) busy = cs[i].inflight;
            if (!busy && sent_total >= (uint64_t)o.limit) break;
        }
        if ((!warm && t >= end && st_req >= enough) || (t - start > (uint64_t)((o.warm + o.dur + o.timeout + 5) * 1e9))) break;
    }
    stopping = 1;
    double secs = (double)(now_ns() - begin) / 1e9, cpu = cpu_s() - cpu0;
    if (server0 >= 0) st_server_cpu = server_cpu_s() - server0;
    uint64_t got = st_req, drain = now_ns() + 300000000ull; /* part in peace: closing over unread answers is a reset */
    for (int busy = 1; busy && now_ns() < drain;) {
        int k = epoll_wait(ep, ev, 256, 20);
        for (int i = 0; i < k; i++)
            if (ev[i].events & EPOLLIN) readable(ev[i].data.ptr);
        busy = 0;
        for (int i = 0; i < o.conns && !busy; i++) busy = cs[i].inflight;
    }
    uint64_t cmin = UINT64_MAX, cmax = 0;
    for (int i = 0; i < o.conns; i++) {
        if (cs[i].fd < 0) continue;
        if (cs[i].completed < cmin) cmin = cs[i].completed;
        if (cs[i].completed > cmax) cmax = cs[i].completed;
        close(cs[i].fd);
        st_left += (uint64_t)cs[i].inflight; /* never answered, and not yet timed out */
    }
    return report(got, secs, cpu, up, connect_s, cmin, cmax);
}

/* ---- RTU on a tty or pty ---------------------------------------------------------------------------------- */
static int run_rtu(void) {
    static const struct { int b; speed_t s; } speeds[] = {
        {1200, B1200}, {2400, B2400}, {4800, B4800}, {9600, B9600}, {19200, B19200}, {38400, B38400}, {57600, B57600},
        {115200, B115200}, {230400, B230400}, {460800, B460800}, {921600, B921600}};
    int fd = strncmp(o.rtu, "fd:", 3) ? open(o.rtu, O_RDWR | O_NOCTTY | O_NONBLOCK) : atoi(o.rtu + 3);
    if (fd < 0) { perror(o.rtu); return 2; }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (strncmp(o.rtu, "fd:", 3)) { /* what is open is set: the two ends of a pty share one termios, which is the server's there */
        struct termios tio;
        if (tcgetattr(fd, &tio)) { perror("tcgetattr"); return 2; }
        cfmakeraw(&tio);
        tio.c_cflag |= CLOCAL | CREAD;
        tio.c_cflag &= ~(tcflag_t)(PARENB | PARODD | CSTOPB | CRTSCTS);
        if (o.parity != 'N') tio.c_cflag |= PARENB | (o.parity == 'O' ? PARODD : 0);
        if (o.stop == 2) tio.c_cflag |= CSTOPB;
        for (unsigned i = 0; i < sizeof speeds / sizeof *speeds; i++)
            if (speeds[i].b == o.baud) cfsetspeed(&tio, speeds[i].s);
        tcsetattr(fd, TCSANOW, &tio);
    }
    tcflush(fd, TCIOFLUSH);
    uint64_t start = now_ns(), begin = start, seq = 0;
    int warm = o.warm > 0;
    double cpu0 = cpu_s(), server0 = server_cpu_s();
    for (;;) {
        uint64_t t = now_ns();
        if (warm && (double)(t - start) >= o.warm * 1e9) { zero_stats(); begin = t; cpu0 = cpu_s(); server0 = server_cpu_s(); warm = 0; }
        if (!warm && (double)(t - begin) >= o.dur * 1e9) break;
        if (o.limit && seq >= (uint64_t)o.limit) break;
        uint8_t b[MAXADU], a[512];
        struct req r = {0};
        choose(&r, seq++);
        b[0] = (uint8_t)o.unit;
        int n = 1 + encode(b + 1, &r), have = 0, want = 0, e = -1;
        uint16_t crc = crc16(b, n);
        b[n++] = (uint8_t)crc;
        b[n++] = (uint8_t)(crc >> 8);
        uint64_t sent = now_ns();
        for (int off = 0; off < n;) {
            int part = o.split && n - off > o.split ? o.split : n - off;
            ssize_t k = write(fd, b + off, (size_t)part);
            if (k < 0 && errno != EAGAIN) { perror("write"); return 2; }
            if (k > 0) off += (int)k;
            if (o.split && off < n) usleep((useconds_t)(o.split_delay * 1e6));
        }
        while (!want || have < want) {
            struct pollfd pf = {.fd = fd, .events = POLLIN};
            double left = o.timeout - (double)(now_ns() - sent) / 1e9;
            int pr = left <= 0 ? 0 : poll(&pf, 1, o.spin ? 0 : (int)(left * 1000) + 1);
            if (left <= 0) { e = E_TIMEOUT; break; }
            if (pr <= 0) continue;
            ssize_t k = read(fd, a + have, sizeof a - (size_t)have);
            if (k <= 0) { if (k < 0 && errno == EAGAIN) continue; e = E_CLOSED; break; }
            have += (int)k;
            want = want_rtu_len(a, have);
            if (have >= (int)sizeof a) break;
        }
        uint64_t got = now_ns();
        if (e < 0) {
            if (have != want) e = E_LEN;
            else if (crc16(a, have - 2) != (a[have - 2] | a[have - 1] << 8)) e = E_CRC;
            else if (a[0] != o.unit) e = E_UNIT;
            else e = verify(a + 1, have - 3, &r);
        }
        if (e < 0) done(got - sent);
        else {
            st_err[e]++;
            if (e == E_CLOSED) break;
            usleep(50000); /* let the line fall silent, then drop what is left */
            tcflush(fd, TCIFLUSH);
        }
        if (o.gap > 0) usleep((useconds_t)(o.gap * 1e6));
    }
    double secs = (double)(now_ns() - begin) / 1e9, cpu = cpu_s() - cpu0;
    if (server0 >= 0) st_server_cpu = server_cpu_s() - server0;
    close(fd);
    o.depth = 1;
    return report(st_req, secs, cpu, 1, 0, st_req, st_req);
}

static void usage(void) {
    puts("mbload [options]                       Modbus load generator; every answer is checked; prints one JSON line\n"
         "  -H, --host H          (127.0.0.1)    -p, --port N      (5020)     -u, --unit N     (1)\n"
         "  -c, --conns C         (1)            -P, --depth P     (1) requests in flight on each connection\n"
         "  -t, --type T          fc1 fc2 fc3 fc4 fc5 fc6 fc15 fc16 fc23 mix    (fc3)\n"
         "  -n, --count N         registers or coils per request (10)\n"
         "  -a, --addr A          first address (0)     --vary N   cycle over N start addresses (0: do not)\n"
         "  -w, --warmup S        (1)            -d, --duration S  (3)        --timeout S      (2)\n"
         "      --requests N      stop after N requests in all (use with -w 0)\n"
         "      --expect pattern  check the values too (see the head of mbload.c)\n"
         "  -U, --udp             Modbus over UDP, one request per datagram\n"
         "      --rtu PATH        RTU on a tty or pty (or fd:N, an open descriptor, as it is set), one request at a time;\n"
         "                        --baud N (115200) --parity N|E|O --stop 1|2\n"
         "      --gap S           pause of a connection, silence of a line after each answer (0)\n"
         "      --split N         send N bytes at a time (--split-delay S between the pieces)\n"
         "      --connect-gap S   pause after each connect (0: a connect storm)\n"
         "      --spin            poll without sleeping       --label TEXT\n"
         "      --pid N           process whose CPU time is reported as server_cpu_s");
}
int main(int argc, char **argv) {
    enum { L_VARY = 256, L_TIMEOUT, L_REQ, L_EXPECT, L_RTU, L_BAUD, L_PAR, L_STOP, L_GAP, L_SPLIT, L_SDEL, L_SPIN, L_LABEL, L_CGAP,
           L_PID };
    static const struct option lo[] = {
        {"host", 1, 0, 'H'}, {"port", 1, 0, 'p'}, {"unit", 1, 0, 'u'}, {"conns", 1, 0, 'c'}, {"depth", 1, 0, 'P'},
        {"type", 1, 0, 't'}, {"count", 1, 0, 'n'}, {"addr", 1, 0, 'a'}, {"vary", 1, 0, L_VARY}, {"warmup", 1, 0, 'w'},
        {"duration", 1, 0, 'd'}, {"timeout", 1, 0, L_TIMEOUT}, {"requests", 1, 0, L_REQ}, {"expect", 1, 0, L_EXPECT},
        {"udp", 0, 0, 'U'}, {"rtu", 1, 0, L_RTU}, {"baud", 1, 0, L_BAUD}, {"parity", 1, 0, L_PAR},
        {"stop", 1, 0, L_STOP}, {"gap", 1, 0, L_GAP}, {"split", 1, 0, L_SPLIT}, {"split-delay", 1, 0, L_SDEL},
        {"spin", 0, 0, L_SPIN}, {"label", 1, 0, L_LABEL}, {"connect-gap", 1, 0, L_CGAP}, {"pid", 1, 0, L_PID},
        {"help", 0, 0, 'h'}, {0, 0, 0, 0}};
    int k;
    while ((k = getopt_long(argc, argv, "H:p:u:c:P:t:n:a:w:d:Uh", lo, NULL)) != -1) switch (k) {
        case 'H': o.host = optarg; break;
        case 'p': o.port = optarg; break;
        case 'u': o.unit = atoi(optarg); break;
        case 'c': o.conns = atoi(optarg); break;
        case 'P': o.depth = atoi(optarg); break;
        case 't': o.type = optarg; break;
        case 'n': o.n = atoi(optarg); break;
        case 'a': o.addr = atoi(optarg); break;
        case 'w': o.warm = atof(optarg); break;
        case 'd': o.dur = atof(optarg); break;
        case 'U': o.udp = 1; break;
        case L_VARY: o.vary = atoi(optarg); break;
        case L_TIMEOUT: o.timeout = atof(optarg); break;
        case L_REQ: o.limit = atoll(optarg); break;
        case L_EXPECT: o.expect = !strcmp(optarg, "pattern"); break;
        case L_RTU: o.rtu = optarg; break;
        case L_BAUD: o.baud = atoi(optarg); break;
        case L_PAR: o.parity = optarg[0]; break;
        case L_STOP: o.stop = atoi(optarg); break;
        case L_GAP: o.gap = atof(optarg); break;
        case L_SPLIT: o.split = atoi(optarg); break;
        case L_SDEL: o.split_delay = atof(optarg); break;
        case L_SPIN: o.spin = 1; break;
        case L_LABEL: o.label = optarg; break;
        case L_CGAP: o.connect_gap = atof(optarg); break;
        case L_PID: o.pid = atoi(optarg); break;
        case 'h': usage(); return 0;
        default: usage(); return 2;
        }
    static const char *const types[] = {"fc1", "fc2", "fc3", "fc4", "fc5", "fc6", "fc15", "fc16", "fc23", "mix"};
    int ok = 0;
    for (unsigned i = 0; i < sizeof types / sizeof *types; i++) ok |= !strcmp(types[i], o.type);
    if (!ok || o.conns < 1 || o.depth < 1 || o.depth > MAXP) { usage(); return 2; }
    signal(SIGPIPE, SIG_IGN);
    return o.rtu ? run_rtu() : run_net();
}
