// Holds idle connections: opens as many as it is told, asks once on each, reads the answer, says
// "holding" and waits until it is ended. Nothing is measured here.
//
//   resting ADDRESS:PORT COUNT [SOURCES]
//
// One source address has ports for some 28,000 connections; with SOURCES they come from 127.0.0.1,
// 127.0.0.2 and so on in turns.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what, int index) {
    fprintf(stderr, "resting: %s at connection %d\n", what, index);
    return 1;
}

int main(int argc, char **argv) {
    char *colon = argc > 2 ? strrchr(argv[1], ':') : NULL;
    if (colon == NULL) {
        fprintf(stderr, "resting ADDRESS:PORT COUNT [SOURCES]\n");
        return 2;
    }
    *colon = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) return fail("no IPv4 address", 0);
    int count = atoi(argv[2]), sources = argc > 3 ? atoi(argv[3]) : 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    static const char get[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (int index = 0; index < count; index++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) return fail("no socket", index);
        if (sources > 0) {
            struct sockaddr_in from = {.sin_family = AF_INET};
            from.sin_addr.s_addr = htonl(0x7f000001 + index % sources);
            if (bind(fd, (void *)&from, sizeof from) != 0) return fail("no source", index);
        }
        if (connect(fd, (void *)&to, sizeof to) != 0) return fail("not connected", index);
        if (send(fd, get, sizeof get - 1, 0) != sizeof get - 1) return fail("not sent", index);
        char answer[2048];
        if (recv(fd, answer, sizeof answer, 0) <= 0) return fail("not answered", index);
    }
    printf("holding %d\n", count);
    fflush(stdout);
    pause();
}
