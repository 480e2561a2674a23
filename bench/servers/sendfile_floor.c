/* The least that a server of RTMP media can cost on this kernel: `sendfile_floor PORT FILE RUN_BYTES RUN_MS`.
 *
 * It answers connect, createStream and play with fixed bytes, and from then on sends each viewer an
 * aggregate message of RUN_BYTES of FILE every RUN_MS: one send of the header and one sendfile. It
 * reads no media, and the messages have no frames. What it costs is the kernel's share.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { VIEWERS_MAX = 4096, HEADER_BYTES = 12, HANDSHAKE_BYTES = 1536, RUNS_AHEAD = 3 };

struct viewer {
    int socket, playing;
    long received_bytes;
    off_t offset;
    size_t left_bytes; /* of the current run */
    uint32_t time_ms;
    double due_s;
};

static struct viewer viewers[VIEWERS_MAX];
static int count, file;
static size_t run_bytes, file_bytes;
static double run_s;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void put(const struct viewer *to, const void *data, size_t size) {
    if (write(to->socket, data, size) != (ssize_t)size) exit(1); /* small, before any media */
}

static void answer(struct viewer *from, char *data, ssize_t size) {
    static const unsigned char chunk_size[] = {2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 16, 0, 0};
    static const unsigned char connected[] = {3, 0, 0, 0, 0, 0, 21, 20, 0, 0, 0, 0,
        2, 0, 7, '_', 'r', 'e', 's', 'u', 'l', 't', 0, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 5, 5};
    static const unsigned char created[] = {3, 0, 0, 0, 0, 0, 29, 20, 0, 0, 0, 0,
        2, 0, 7, '_', 'r', 'e', 's', 'u', 'l', 't', 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 5,
        0, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0};
    static unsigned char hello[1 + 2 * HANDSHAKE_BYTES] = {3};
    if (from->received_bytes == 0) put(from, hello, sizeof hello);
    from->received_bytes += size;
    if (from->playing) return; /* acknowledgements */
    if (memmem(data, size, "createStream", 12)) put(from, created, sizeof created);
    else if (memmem(data, size, "connect", 7)) {
        put(from, chunk_size, sizeof chunk_size);
        put(from, connected, sizeof connected);
    } else if (memmem(data, size, "play", 4)) {
        from->playing = 1;
        from->due_s = now_s() - RUNS_AHEAD * run_s;
        from->offset = (off_t)(((uint64_t)rand() << 12) % (file_bytes - run_bytes));
    }
}

/* Sends the runs that are due; a full socket is tried again at the next tick. */
static void pump(struct viewer *to, double now) {
    while (to->left_bytes || to->due_s <= now) {
        if (!to->left_bytes) {
            uint32_t t = to->time_ms, n = run_bytes;
            unsigned char header[HEADER_BYTES] = {6, t >> 16, t >> 8, t, n >> 16, n >> 8, n, 22, 1, 0, 0, 0};
            if (send(to->socket, header, sizeof header, MSG_MORE) != sizeof header) return;
            to->left_bytes = run_bytes;
            to->time_ms += run_s * 1000;
            to->due_s += run_s;
            if (to->offset + 2 * run_bytes > file_bytes) to->offset = 0;
        }
        ssize_t sent = sendfile(to->socket, file, &to->offset, to->left_bytes);
        if (sent <= 0) return;
        to->left_bytes -= sent;
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct stat status;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    file = open(argv[2], O_RDONLY);
    run_bytes = atol(argv[3]);
    run_s = atof(argv[4]) / 1000;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (file < 0 || fstat(file, &status) || bind(listener, (struct sockaddr *)&address, sizeof address)
        || listen(listener, VIEWERS_MAX)) {
        perror(argv[2]);
        return 1;
    }
    file_bytes = status.st_size;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (double next_s = now_s();;) {
        static char data[1 << 16];
        double now = now_s();
        int wait_ms = next_s > now ? (int)((next_s - now) * 1000) + 1 : 0;
        int ready = epoll_wait(epoll, events, 256, wait_ms);
        for (int i = 0; i < ready; i++) {
            struct viewer *from = events[i].data.ptr;
            if (!from) {
                int accepted;
                while (count < VIEWERS_MAX && (accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    viewers[count].socket = accepted;
                    struct epoll_event added = {.events = EPOLLIN, .data.ptr = &viewers[count++]};
                    epoll_ctl(epoll, EPOLL_CTL_ADD, accepted, &added);
                }
                continue;
            }
            ssize_t size = read(from->socket, data, sizeof data);
            if (size > 0) answer(from, data, size);
            else if (size == 0 || errno != EAGAIN) {
                epoll_ctl(epoll, EPOLL_CTL_DEL, from->socket, NULL);
                from->playing = 0;
            }
        }
        now = now_s();
        if (now < next_s) continue;
        next_s = now + 0.02; /* sockets that were full are tried again so soon */
        for (int i = 0; i < count; i++)
            if (viewers[i].playing) pump(&viewers[i], now);
    }
}
