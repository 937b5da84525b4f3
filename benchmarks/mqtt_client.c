/* The native peer of rows Q1 and Q2: libmosquitto, which receives messages and looks into none of them.
 *
 *   mqtt_client PORT QOS SECONDS FILTER [CA]      CA: over TLS, trusting the certificates in this file
 */
#include <mosquitto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static long received;
static int qos;
static const char *filter;

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static void connected(struct mosquitto *client, void *ours, int code) {
    if (!code) mosquitto_subscribe(client, NULL, filter, qos);
}

static void arrived(struct mosquitto *client, void *ours, const struct mosquitto_message *message) { received++; }

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    qos = atoi(argv[2]);
    double length = atof(argv[3]);
    filter = argv[4];
    mosquitto_lib_init();
    struct mosquitto *client = mosquitto_new(NULL, true, NULL);
    mosquitto_connect_callback_set(client, connected);
    mosquitto_message_callback_set(client, arrived);
    if (argc > 5 && mosquitto_tls_set(client, argv[5], NULL, NULL, NULL, NULL)) return 1;
    mosquitto_max_inflight_messages_set(client, 2000);
    if (mosquitto_connect(client, "127.0.0.1", atoi(argv[1]), 60)) return 1;
    while (received < 20000) if (mosquitto_loop(client, 100, 1)) return 1;
    long before = received;
    double start = seconds_of(CLOCK_MONOTONIC), used = cpu(), now;
    do {
        for (int i = 0; i < 50; i++) if (mosquitto_loop(client, 10, 1)) return 1;
        now = seconds_of(CLOCK_MONOTONIC);
    } while (now - start < length);
    printf("{\"items\": %ld, \"cpu_s\": %.6f, \"wall_s\": %.6f}\n", received - before, cpu() - used, now - start);
    return 0;
}
