/* A broker that is never the limit: sends recorded messages to one client after the other, as fast as the socket takes
 * them, from the first SUBSCRIBE on. MQTT 3.1.1; with QoS 1 at most WINDOW messages are unacknowledged.
 *
 *   mqtt_server FILE FIRST WINDOW      prints its port; FILE holds u16 topic length, topic, u32 payload length, payload,
 *                                      big-endian; the first FIRST messages are sent once, the others over and over
 *
 * mqtt_tls_server.c is the same over TLS: mqtt_tls_server FILE FIRST WINDOW PEM, of key and certificate.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OUT = 1 << 18, IN = 1 << 16, MESSAGES = 1 << 16 };

static struct message { const unsigned char *topic, *body; size_t topic_len, body_len; } messages[MESSAGES];
static int count, first, window;
static unsigned char out[OUT], in[IN];

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(2); }
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    unsigned char *all = malloc(size), *at = all;
    if (fread(all, 1, size, file) != (size_t)size) exit(2);
    fclose(file);
    while (at < all + size && count < MESSAGES) {
        struct message *m = &messages[count++];
        m->topic_len = at[0] << 8 | at[1];
        m->topic = at + 2;
        at += 2 + m->topic_len;
        m->body_len = (size_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
        m->body = at + 4;
        at += 4 + m->body_len;
    }
}

static size_t put(unsigned char *to, const struct message *m, int qos, unsigned id) {
    size_t length = 2 + m->topic_len + (qos ? 2 : 0) + m->body_len;
    unsigned char *p = to;
    *p++ = 0x30 | qos << 1;
    do { *p = length & 127; length >>= 7; *p++ |= length ? 128 : 0; } while (length);
    *p++ = m->topic_len >> 8;
    *p++ = m->topic_len;
    memcpy(p, m->topic, m->topic_len);
    p += m->topic_len;
    if (qos) { *p++ = id >> 8; *p++ = id; }
    memcpy(p, m->body, m->body_len);
    return p + m->body_len - to;
}

#ifdef WITH_TLS
#include <fcntl.h>
#include <openssl/ssl.h>

static SSL_CTX *tls;
static SSL *session;

static void secure(const char *pem) {
    tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (SSL_CTX_use_certificate_file(tls, pem, SSL_FILETYPE_PEM) != 1
        || SSL_CTX_use_PrivateKey_file(tls, pem, SSL_FILETYPE_PEM) != 1) { fprintf(stderr, "no key in %s\n", pem); exit(2); }
}

static int begin(int client) {
    session = SSL_new(tls);
    SSL_set_fd(session, client);
    if (SSL_accept(session) != 1) return -1;
    return fcntl(client, F_SETFL, fcntl(client, F_GETFL) | O_NONBLOCK);
}

static void end(void) { SSL_free(session); }

static ssize_t told(int n) {
    if (n > 0) return n;
    int why = SSL_get_error(session, n);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) errno = EAGAIN; else n = 0;
    return n;
}

static ssize_t give(int client, const void *bytes, size_t size) {
    ssize_t all = 0, n = 0;
    while (size && (n = told(SSL_write(session, bytes + all, size))) > 0) { all += n; size -= n; }
    return all ? all : n;
}

static ssize_t take(int client, void *bytes, size_t size) {
    ssize_t all = 0, n = 0;
    while (size && (n = told(SSL_read(session, bytes + all, size))) > 0) { all += n; size -= n; }
    return all ? all : n;
}
#else
static void secure(const char *pem) {}
static int begin(int client) { return 0; }
static void end(void) {}
static ssize_t give(int client, const void *bytes, size_t size) {
    return send(client, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}
static ssize_t take(int client, void *bytes, size_t size) { return recv(client, bytes, size, MSG_DONTWAIT); }
#endif

static void answer(int client, const unsigned char *bytes, size_t size) {
    if (give(client, bytes, size) < 0) perror("answer");
}

/* SUBACK grants what was asked for, up to QoS 1, and tells that QoS. */
static int subscribed(int client, const unsigned char *body, size_t size) {
    unsigned char reply[1024] = {0x90};
    size_t topics = 0;
    int qos = 0;
    for (size_t at = 2; at + 2 < size && topics < 120; topics++) {
        at += 2 + (body[at] << 8 | body[at + 1]);
        qos = body[at] & 3 ? 1 : 0;
        reply[4 + topics] = qos;
        at++;
    }
    reply[1] = 2 + topics;
    reply[2] = body[0];
    reply[3] = body[1];
    answer(client, reply, 4 + topics);
    return qos;
}

static void serve(int client) {
    size_t have = 0, full = 0, sent = 0;
    long open = 0;
    int qos = -1, next = 0;
    unsigned id = 0;
    for (;;) {
        if (qos >= 0 && sent == full) {
            sent = full = 0;
            while (full + messages[next].body_len + 512 < OUT && full < OUT / 2 && (!qos || open < window)) {
                id = id % 60000 + 1;
                full += put(out + full, &messages[next], qos, id);
                next = next + 1 < count ? next + 1 : first;
                open++;
            }
        }
        struct pollfd wait = {client, POLLIN | (sent < full ? POLLOUT : 0), 0};
        if (poll(&wait, 1, 20000) <= 0) return;
        if (wait.revents & POLLOUT) {
            ssize_t n = give(client, out + sent, full - sent);
            if (n == 0 || (n < 0 && errno != EAGAIN)) return;
            if (n > 0) sent += n;
        }
        if (!(wait.revents & (POLLIN | POLLHUP))) continue;
        ssize_t n = take(client, in + have, IN - have);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return;
        if (n < 0) continue;
        have += n;
        size_t at = 0;
        while (have - at >= 2) {
            size_t body = at + 1, length = 0;
            int shift = 0, whole = 0;
            while (body < have && !whole) {
                length |= (size_t)(in[body] & 127) << shift;
                shift += 7;
                whole = in[body++] < 128;
            }
            if (!whole || body + length > have) break;
            switch (in[at] >> 4) {
                case 1: answer(client, (const unsigned char[]){0x20, 2, 0, 0}, 4); break;
                case 4: open--; break;
                case 8: qos = subscribed(client, in + body, length); break;
                case 12: answer(client, (const unsigned char[]){0xd0, 0}, 2); break;
                case 14: return;
            }
            at = body + length;
        }
        memmove(in, in + at, have -= at);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "mqtt_server FILE FIRST WINDOW\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    load(argv[1]);
    first = atoi(argv[2]);
    window = atoi(argv[3]);
    if (argc > 4) secure(argv[4]);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 8)
        || getsockname(listener, (void *)&here, &size)) { perror("listen"); return 1; }
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (begin(client) >= 0) serve(client);
        end();
        close(client);
    }
}
