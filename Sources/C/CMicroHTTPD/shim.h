#pragma once
#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// What Swift can't say of libmicrohttpd and of Linux: variadic calls, and two loops over lists.

typedef void *(*tl_mhd_uri_callback)(void *cls, const char *uri, struct MHD_Connection *connection);

typedef struct {
    unsigned int connection_limit;
    unsigned int idle_seconds;
    size_t memory_limit;
    void *cls;
    MHD_AccessHandlerCallback access;
    MHD_RequestCompletedCallback completed;
    MHD_NotifyConnectionCallback notify;
    tl_mhd_uri_callback uri;
} tl_mhd_setup;

/// Leaves escapes as they are: the library's own decoding cuts a URL at `%00`.
static size_t tl_mhd_keep_escapes(void *cls, struct MHD_Connection *connection, char *text) {
    (void)cls;
    (void)connection;
    return strlen(text);
}

static inline struct MHD_Daemon *tl_mhd_start(const tl_mhd_setup *s) {
    return MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        s->access, s->cls, MHD_OPTION_CONNECTION_LIMIT, s->connection_limit,
        MHD_OPTION_CONNECTION_TIMEOUT, s->idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, s->memory_limit,
        MHD_OPTION_NOTIFY_COMPLETED, s->completed, s->cls, MHD_OPTION_NOTIFY_CONNECTION, s->notify, s->cls,
        MHD_OPTION_URI_LOG_CALLBACK, s->uri, s->cls, MHD_OPTION_UNESCAPE_CALLBACK, &tl_mhd_keep_escapes, NULL,
        MHD_OPTION_STRICT_FOR_CLIENT, 0, MHD_OPTION_END);
}

static inline void *tl_mhd_socket_context(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static inline int tl_mhd_descriptor(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

static inline size_t tl_mhd_header_bytes(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

/// `accept4`, which the headers show with `_GNU_SOURCE` alone: nothing is inherited, and no call on it waits.
static inline int tl_accept(int listener, struct sockaddr *address, socklen_t *size) {
    return (int)syscall(SYS_accept4, listener, address, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static inline int tl_alarm_create(void) {
    return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

/// Each write is an edge; nobody reads.
static inline void tl_alarm_ring(int descriptor) {
    const uint64_t one = 1;
    ssize_t written = write(descriptor, &one, sizeof one);
    (void)written;
}

/// Lets a descriptor of ours wake the daemon's thread, which does nothing else with it: an event without a pointer is
/// passed over. Edge-triggered, so that nobody has to read it.
static inline bool tl_mhd_wake_by(struct MHD_Daemon *daemon, int descriptor) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL) return false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.ptr = NULL}};
    return epoll_ctl(info->epoll_fd, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

/// What the header lines say about where the request ends.
typedef struct {
    uint64_t content_length;
    uint32_t hosts;
    uint32_t content_lengths;
    uint32_t transfer_encodings;
    uint32_t lines;
    bool chunked;
    bool malformed;
} tl_mhd_framing;

static inline bool tl_mhd_is_token(unsigned char c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
    return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static enum MHD_Result tl_mhd_scan_line(
    void *cls, enum MHD_ValueKind kind, const char *key, size_t key_size, const char *value, size_t value_size) {
    tl_mhd_framing *f = (tl_mhd_framing *)cls;
    (void)kind;
    f->lines += 1;
    if (key_size == 0) f->malformed = true;
    for (size_t i = 0; i < key_size; i++)
        if (!tl_mhd_is_token((unsigned char)key[i])) f->malformed = true;
    if (value != NULL && memchr(value, 0, value_size) != NULL) f->malformed = true;
    if (key_size == 4 && strncasecmp(key, "host", 4) == 0) f->hosts += 1;
    if (key_size == 14 && strncasecmp(key, "content-length", 14) == 0) {
        f->content_lengths += 1;
        uint64_t n = 0;
        if (value_size == 0 || value_size > 18) f->malformed = true;
        for (size_t i = 0; i < value_size; i++) {
            if (value[i] < '0' || value[i] > '9') f->malformed = true;
            n = n * 10 + (uint64_t)(value[i] - '0');
        }
        f->content_length = n;
    }
    if (key_size == 17 && strncasecmp(key, "transfer-encoding", 17) == 0) {
        f->transfer_encodings += 1;
        f->chunked = value_size == 7 && strncasecmp(value, "chunked", 7) == 0;
    }
    return MHD_YES;
}

static inline tl_mhd_framing tl_mhd_scan(struct MHD_Connection *connection) {
    tl_mhd_framing f = {0};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, &tl_mhd_scan_line, &f);
    return f;
}

/// The most bytes that an answer's header block may have.
#define TL_MHD_BLOCK_MAX 8192

#define TL_MHD_X8(x) x x x x x x x x
#define TL_MHD_FILLER TL_MHD_X8(TL_MHD_X8(TL_MHD_X8("xxxxxxxxxxxxxxxx")))

/// Gives a response all its header lines as one pre-rendered block: `nosniff CRLF name: value CRLF …`.
///
/// The library takes three allocations for each line that is added to a response, and refuses line ends within one. So
/// one line of the right length is added, and its text overwritten where the library keeps it. The block must hold no
/// Connection, Date, Content-Length or Transfer-Encoding line.
static inline enum MHD_Result tl_mhd_add_block(struct MHD_Response *response, const void *block, size_t block_size) {
    static const char *const first = "X-Content-Type-Options";
    static const char filler[] = TL_MHD_FILLER;
    _Static_assert(sizeof filler == TL_MHD_BLOCK_MAX + 1, "the filler is as long as the longest block");
    if (block_size == 0 || block_size > TL_MHD_BLOCK_MAX) return MHD_NO;
    if (MHD_add_response_header(response, first, filler + (TL_MHD_BLOCK_MAX - block_size)) != MHD_YES)
        return MHD_NO;
    char *kept = (char *)(uintptr_t)MHD_get_response_header(response, first);
    if (kept == NULL || strlen(kept) != block_size) return MHD_NO;
    memcpy(kept, block, block_size);
    return MHD_YES;
}

/// Queues an answer; `body` must live until the request is complete.
static inline enum MHD_Result tl_mhd_queue(
    struct MHD_Connection *connection, unsigned int status, const void *body, size_t body_size, const void *block,
    size_t block_size, bool closing) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body_size, (void *)(uintptr_t)body, MHD_RESPMEM_PERSISTENT);
    if (response == NULL) return MHD_NO;
    enum MHD_Result result = tl_mhd_add_block(response, block, block_size);
    if (result == MHD_YES && closing) result = MHD_add_response_header(response, "Connection", "close");
    if (result == MHD_YES) result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/// Queues an answer of unknown length that `read` supplies; `done` is called once, when the library lets go of it.
static inline enum MHD_Result tl_mhd_queue_stream(
    struct MHD_Connection *connection, unsigned int status, MHD_ContentReaderCallback read, void *cls,
    MHD_ContentReaderFreeCallback done, const void *block, size_t block_size) {
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read, cls, done);
    if (response == NULL) {
        done(cls);
        return MHD_NO;
    }
    enum MHD_Result result = tl_mhd_add_block(response, block, block_size);
    if (result == MHD_YES) result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}
