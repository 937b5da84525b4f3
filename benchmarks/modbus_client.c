/* The peer in C: libmodbus, CONNECTIONS connections in turn, blocks of 125 registers, 62 of them float32 (words swapped)
 * and one uint16, decoded into columns of double. Tells what it did as JSON.  modbus_client PORT CONNECTIONS BLOCKS SECONDS */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

enum { REGISTERS = 125, FLOATS = 62 };

static double wall_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static double column[FLOATS + 1];

static int poll_all(modbus_t **line, int connections, int blocks) {
    uint16_t held[REGISTERS];
    for (int block = 0; block < blocks; block++)
        for (int c = 0; c < connections; c++) {
            if (modbus_read_registers(line[c], block * REGISTERS, REGISTERS, held) != REGISTERS) return 0;
            for (int i = 0; i < FLOATS; i++) column[i] = modbus_get_float_cdab(held + 2 * i);
            column[FLOATS] = held[2 * FLOATS];
            if (held[124] != (uint16_t)(block * REGISTERS + 124)) return 0;
        }
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    int port = atoi(argv[1]), connections = atoi(argv[2]), blocks = atoi(argv[3]);
    double seconds = atof(argv[4]);
    modbus_t **line = calloc(connections, sizeof *line);
    for (int c = 0; c < connections; c++) {
        line[c] = modbus_new_tcp("127.0.0.1", port);
        if (!line[c] || modbus_connect(line[c]) || modbus_set_slave(line[c], 1)) return 1;
    }
    if (!poll_all(line, connections, blocks)) return 1;
    double began_cpu = cpu_s(), began = wall_s();
    long polls = 0;
    do {
        if (!poll_all(line, connections, blocks)) return 1;
        polls++;
    } while (wall_s() - began < seconds);
    printf("{\"items\": %ld, \"cpu_s\": %f, \"wall_s\": %f}\n", polls * connections * blocks * REGISTERS,
           cpu_s() - began_cpu, wall_s() - began);
    return 0;
}
