/* An HTTP server that reads bodies of a known length and answers 204: never the limit of a client that writes.
 * One connection at a time, kept open. Prints its port. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 204 No Content\r\n\r\n";
static char buffer[1 << 20];

static int serve(int fd) {
    size_t have = 0;
    for (;;) {
        char *end;
        while (!(end = have ? memmem(buffer, have, "\r\n\r\n", 4) : NULL)) {
            if (have == sizeof buffer) return 0;
            ssize_t n = recv(fd, buffer + have, sizeof buffer - have, 0);
            if (n <= 0) return 0;
            have += n;
        }
        size_t head = end + 4 - buffer, body = 0;
        *end = 0;
        char *length = strcasestr(buffer, "\r\ncontent-length:");
        if (length) body = strtoul(length + 17, NULL, 10);
        size_t rest = have - head;
        while (rest < body) {
            ssize_t n = recv(fd, buffer, sizeof buffer, 0);
            if (n <= 0) return 0;
            rest += n;
        }
        have = 0; /* a client waits for the answer before it sends more */
        if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0) return 0;
    }
}

int main(void) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    if (bind(listener, (void *)&at, size) || listen(listener, 16) || getsockname(listener, (void *)&at, &size)) return 1;
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve(fd);
        close(fd);
    }
}
