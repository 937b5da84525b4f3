/* A Modbus server around libmodbus' own mapping, for tests against a server that was not written here.
 *
 * build: gcc -O2 -Wall -o modbus_libserver modbus_libserver.c $(pkg-config --cflags --libs libmodbus)
 * run:   modbus_libserver tcp            prints "port N", serves many clients on loopback
 *        modbus_libserver rtu DEVICE     prints "ready", answers as unit 17 on a serial line
 * Ends when its standard input is closed, and then prints "writes N": how many requests were no reads.
 *
 * Addresses 100..299 exist in every table; all others are refused with exception 2.
 *   coils and discrete inputs: 1 where the address is divisible by 3
 *   input registers: three times the address
 *   holding registers: 100 float 21.5 (ABCD), 102 float -0.25 (CDAB), 104 float 1e6 (BADC), 106 float 3.5 (DCBA),
 *   108 int32 -7 as two words, 110.. "PUMP 7", 120 how many requests were answered, else the address itself
 */
#include <errno.h>
#include <modbus.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

enum { FIRST = 100, COUNT = 200 };
static int writes = 0;

static void fill(modbus_mapping_t *map) {
    for (int i = 0; i < COUNT; i++) {
        map->tab_bits[i] = map->tab_input_bits[i] = (FIRST + i) % 3 == 0;
        map->tab_input_registers[i] = 3 * (FIRST + i);
        map->tab_registers[i] = FIRST + i;
    }
    /* Words by hand: modbus_set_float_abcd of libmodbus 3.1.6 swaps the bytes of each word on little-endian machines. */
    const uint16_t words[] = {0x41AC, 0x0000, 0x0000, 0xBE80, 0x7449, 0x0024, 0x0000, 0x6040, 0xFFFF, 0xFFF9};
    memcpy(map->tab_registers, words, sizeof words);
    const char name[] = "PUMP 7\0\0";
    for (int i = 0; i < 4; i++) map->tab_registers[10 + i] = (unsigned char)name[2 * i] << 8 | (unsigned char)name[2 * i + 1];
    map->tab_registers[20] = 0;
}

static int stdin_closed(fd_set *ready) {
    char byte;
    return FD_ISSET(STDIN_FILENO, ready) && read(STDIN_FILENO, &byte, 1) <= 0;
}

/* Answer one request that is waiting on the context's socket. Return -1 when the peer is gone. */
static int answer(modbus_t *ctx, modbus_mapping_t *map) {
    uint8_t query[MODBUS_MAX_ADU_LENGTH];
    int length = modbus_receive(ctx, query);
    if (length < 0) return -1;
    if (length > 0) {
        int function = query[modbus_get_header_length(ctx)];
        if (function > 4 && function != 17 && function != 43) writes++;
        map->tab_registers[20]++;
        modbus_reply(ctx, query, length, map);
    }
    return 0;
}

static int serve_tcp(modbus_mapping_t *map) {
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", 0);
    int listener = modbus_tcp_listen(ctx, 16), highest = listener;
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&at, &size)) return perror("listen"), 1;
    printf("port %d\n", ntohs(at.sin_port));
    fflush(stdout);
    fd_set open_fds, ready;
    FD_ZERO(&open_fds);
    FD_SET(listener, &open_fds);
    FD_SET(STDIN_FILENO, &open_fds);
    for (;;) {
        ready = open_fds;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0) return perror("select"), 1;
        if (stdin_closed(&ready)) return 0;
        for (int fd = STDIN_FILENO + 1; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready)) continue;
            if (fd == listener) {
                int from = listener, client = modbus_tcp_accept(ctx, &from);
                if (client < 0) continue;
                FD_SET(client, &open_fds);
                if (client > highest) highest = client;
                continue;
            }
            modbus_set_socket(ctx, fd);
            if (answer(ctx, map) < 0) {
                close(fd);
                FD_CLR(fd, &open_fds);
            }
        }
    }
}

static int serve_rtu(modbus_mapping_t *map, const char *device) {
    modbus_t *ctx = modbus_new_rtu(device, 19200, 'N', 8, 1);
    modbus_set_slave(ctx, 17);
    if (modbus_connect(ctx) < 0) return fprintf(stderr, "%s: %s\n", device, modbus_strerror(errno)), 1;
    printf("ready\n");
    fflush(stdout);
    int line = modbus_get_socket(ctx);
    fd_set ready;
    for (;;) {
        FD_ZERO(&ready);
        FD_SET(line, &ready);
        FD_SET(STDIN_FILENO, &ready);
        if (select(line + 1, &ready, NULL, NULL, NULL) < 0) return perror("select"), 1;
        if (stdin_closed(&ready)) return 0;
        if (FD_ISSET(line, &ready)) answer(ctx, map);
    }
}

int main(int argc, char **argv) {
    modbus_mapping_t *map = modbus_mapping_new_start_address(FIRST, COUNT, FIRST, COUNT, FIRST, COUNT, FIRST, COUNT);
    if (map == NULL) return fprintf(stderr, "%s\n", modbus_strerror(errno)), 1;
    fill(map);
    int status = -1;
    if (argc == 2 && strcmp(argv[1], "tcp") == 0) status = serve_tcp(map);
    if (argc == 3 && strcmp(argv[1], "rtu") == 0) status = serve_rtu(map, argv[2]);
    if (status >= 0) {
        printf("writes %d\n", writes);
        return status;
    }
    fprintf(stderr, "usage: %s tcp | rtu DEVICE\n", argv[0]);
    return 2;
}
