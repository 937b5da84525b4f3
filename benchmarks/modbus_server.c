/* A Modbus TCP server that is never the limit: any number of requests in flight, one epoll loop. Function 3, no other.
 * Register r of every unit holds r; with PERIOD_MS one more after every period, up to 255 more, and r again. Prints the
 * port it listens on. With `rtu` it speaks RTU frames, one request at a time.  modbus_server [PORT [PERIOD_MS [rtu]]] */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FDS = 4096, IN = 12 * 256, OUT = 259 * 256, REGISTERS = 65536, STEPS = 256 };

struct peer { size_t have; uint8_t in[IN]; };

static struct peer *peers[FDS];
static uint8_t memory[2 * (REGISTERS + STEPS + 256)];
static unsigned period_ms;
static int is_rtu;
static uint16_t crc_table[256];
static uint8_t out[OUT];

static int send_all(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0) return 0;
        data += n;
        size -= n;
    }
    return 1;
}

/* By how much all registers are larger now. */
static unsigned step(void) {
    struct timespec now;
    if (!period_ms) return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec * 1000ull + now.tv_nsec / 1000000) / period_ms % STEPS;
}

static uint16_t crc16(const uint8_t *data, size_t size) {
    uint16_t crc = 0xFFFF;
    while (size--) crc = crc >> 8 ^ crc_table[(crc ^ *data++) & 0xFF];
    return crc;
}

static void make_crc_table(void) {
    for (int i = 0; i < 256; i++) {
        uint16_t value = i;
        for (int bit = 0; bit < 8; bit++) value = value & 1 ? value >> 1 ^ 0xA001 : value >> 1;
        crc_table[i] = value;
    }
}

/* The same in RTU frames: unit, function, address, count, checksum. */
static int serve_rtu(int fd, struct peer *p) {
    ssize_t n = recv(fd, p->in + p->have, IN - p->have, 0);
    if (n <= 0) return 0;
    p->have += n;
    if (p->have < 8) return 1;
    const uint8_t *q = p->in;
    unsigned address = q[2] << 8 | q[3], count = q[4] << 8 | q[5], crc = crc16(q, 6);
    if (p->have > 8 || q[6] != (crc & 0xFF) || q[7] != crc >> 8 || q[1] != 3 || count < 1 || count > 125) return 0;
    out[0] = q[0], out[1] = 3, out[2] = 2 * count;
    memcpy(out + 3, memory + 2 * (address + step()), 2 * count);
    crc = crc16(out, 3 + 2 * count);
    out[3 + 2 * count] = crc & 0xFF, out[4 + 2 * count] = crc >> 8;
    p->have = 0;
    return send_all(fd, out, 5 + 2 * count);
}

/* Answer every whole request that has arrived. Returns 0 when the peer is to be dropped. */
static int serve(int fd, struct peer *p) {
    ssize_t n = recv(fd, p->in + p->have, IN - p->have, 0);
    if (n <= 0) return 0;
    p->have += n;
    size_t at = 0, filled = 0, more = step();
    for (; p->have - at >= 8 && p->have - at >= 6u + p->in[at + 5]; at += 6 + p->in[at + 5]) {
        const uint8_t *q = p->in + at;
        unsigned address = q[8] << 8 | q[9], count = q[10] << 8 | q[11];
        uint8_t *r = out + filled;
        memcpy(r, q, 4);
        if (q[5] < 2) return 0;
        if (q[7] != 3) { /* what a device answers that tells no nameplate */
            r[4] = 0, r[5] = 3, r[6] = q[6], r[7] = q[7] | 0x80, r[8] = 1;
            filled += 9;
            continue;
        }
        if (q[5] != 6 || count < 1 || count > 125) return 0;
        r[4] = 0, r[5] = 3 + 2 * count, r[6] = q[6], r[7] = 3, r[8] = 2 * count;
        memcpy(r + 9, memory + 2 * (address + more), 2 * count);
        filled += 9 + 2 * count;
    }
    memmove(p->in, p->in + at, p->have - at);
    p->have -= at;
    return send_all(fd, out, filled);
}

int main(int argc, char **argv) {
    for (int i = 0; i < REGISTERS + STEPS; i++) memory[2 * i] = i >> 8, memory[2 * i + 1] = i;
    period_ms = argc > 2 ? atoi(argv[2]) : 0;
    is_rtu = argc > 3 && !strcmp(argv[3], "rtu");
    make_crc_table();
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&at, size) || listen(listener, 512) || getsockname(listener, (void *)&at, &size)) {
        perror("modbus_server");
        return 1;
    }
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);
        for (int k = 0; k < n; k++) {
            int fd = ready[k].data.fd;
            if (fd != listener) {
                if (!(is_rtu ? serve_rtu : serve)(fd, peers[fd])) close(fd);
                continue;
            }
            int peer = accept(listener, NULL, NULL);
            if (peer < 0 || peer >= FDS) continue;
            setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            if (!peers[peer]) peers[peer] = malloc(sizeof(struct peer));
            peers[peer]->have = 0;
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = peer};
            epoll_ctl(poll, EPOLL_CTL_ADD, peer, &event);
        }
    }
}
