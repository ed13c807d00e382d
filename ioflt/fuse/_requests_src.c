/* Where a session's requests come from: threads in C take them from the kernel. What `serve_read` and `serve_write` of
 * `_fastpath_src.c`, which is compiled before this, do not answer goes into a queue, as it came. From there libfuse gets
 * it in pyfuse3's loop as if it had read it itself: pyfuse3 is given the queue's descriptor for the session's, and calls
 * our fuse_session_receive_buf.
 */

#define FUSE_USE_VERSION 35

#include <dlfcn.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <fuse_lowlevel.h>

#define MOST_REQUEST (MOST_DATA + SECTOR)
#define SMALL 4096        /* up to that size they are copied into the queue */
#define MOST_QUEUED 1024  /* then nothing is taken from the kernel: what waits there holds no memory of ours */
#define MOST_LARGE 64     /* of them that are larger, each with room for the largest: 64 MiB */
#define MOST_SPARE 8      /* buffers of large ones */
#define MOST_THREADS 32   /* more than one for each core when they wait for a disk */
#define STACK (128 << 10) /* of a thread: it is locked into memory */

struct request {
    struct request *next;
    size_t size;
    char data[];
};

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t taken = PTHREAD_COND_INITIALIZER;
static struct request *first, **last = &first;
static int queued, queued_large;
static int queue_fd = -1; /* readable while there is something in the queue, and from the session's end on */
static int ended;         /* 1: unmounted; below zero: an errno */
static struct request *spare[MOST_SPARE]; /* of MOST_REQUEST bytes */
static int spares;

static int threads, idle, keep, stopping; /* `keep`: so many may be idle */
static pthread_t running[MOST_THREADS];
static pthread_cond_t gone = PTHREAD_COND_INITIALIZER;

/* The queue. */

static struct request *new_request(void)
{
    struct request *request = NULL;
    pthread_mutex_lock(&queue_lock);
    if (spares > 0)
        request = spare[--spares];
    pthread_mutex_unlock(&queue_lock);
    return request != NULL ? request : malloc(sizeof *request + MOST_REQUEST);
}

static void tell(void)
{
    uint64_t one = 1;
    ssize_t done = write(queue_fd, &one, sizeof one); /* which fails when it is readable already */
    (void)done;
}

static void enqueue(struct request *request)
{
    pthread_mutex_lock(&queue_lock);
    while ((queued >= MOST_QUEUED || queued_large >= MOST_LARGE) && !ended && !stopping)
        pthread_cond_wait(&taken, &queue_lock);
    queued_large += request->size > SMALL;
    request->next = NULL;
    *last = request;
    last = &request->next;
    if (queued++ == 0)
        tell();
    pthread_mutex_unlock(&queue_lock);
}

/* Returns the request that the caller reads the next one into: NULL for lack of memory. */
static struct request *pass_on(struct request *request)
{
    const struct fuse_in_header *header = (const void *)request->data;
    struct request *other = request->size > SMALL ? new_request() : malloc(sizeof *other + SMALL);
    if (other == NULL) { /* requests without an answer are lost then: an interrupt, references that stay */
        if (header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET && header->opcode != FUSE_INTERRUPT)
            reply(header->unique, ENOMEM, NULL, 0);
        return request;
    }
    if (request->size > SMALL) {
        enqueue(request);
        return other;
    }
    other->size = request->size;
    memcpy(other->data, request->data, request->size);
    enqueue(other);
    return request;
}

/* Under the lock. */
static void end_session(int how)
{
    if (!ended)
        ended = how;
    tell();
    pthread_cond_broadcast(&taken);
}

static int serve(const struct request *request, char *buffer)
{
    const struct fuse_in_header *header = (const void *)request->data;
    const char *body = request->data + sizeof *header;
    size_t size = request->size - sizeof *header;

    if (header->opcode == FUSE_READ && size >= sizeof(struct fuse_read_in))
        return serve_read(header->unique, (const void *)body, buffer);
    if (header->opcode == FUSE_WRITE && size >= sizeof(struct fuse_write_in)
        && size - sizeof(struct fuse_write_in) == ((const struct fuse_write_in *)(const void *)body)->size)
        return serve_write(header->unique, (const void *)body, buffer);
    return 0;
}

/* The threads: one waits for the next request at all times, up to the limit. Under the queue's lock. */

static void *run(void *nothing);

static int start_thread(void)
{
    pthread_attr_t attributes;
    sigset_t most, before;
    int ok = 0;

    if (threads == MOST_THREADS || stopping || ended || pthread_attr_init(&attributes) != 0)
        return 0;
    sigfillset(&most);
    sigdelset(&most, SIGURG);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &most, &before); /* signals are for the interpreter's threads */
    if (pthread_create(&running[threads], &attributes, run, NULL) == 0) {
        threads++;
        idle++;
        ok = 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return ok;
}

/* 1 when a request was read, 0 when none was, below zero when there will be none. */
static int take(struct request *request)
{
    ssize_t size = read(device, request->data, MOST_REQUEST);
    if (size >= (ssize_t)sizeof(struct fuse_in_header)) {
        request->size = (size_t)size;
        return 1;
    }
    if (size >= 0 || errno == EINTR || errno == EAGAIN || errno == ENOENT) /* ENOENT: it was interrupted meanwhile */
        return 0;
    return -errno;
}

static void *run(void *nothing)
{
    struct request *request = new_request();
    size_t room = MOST_DATA + 2 * SECTOR;
    char *buffer = aligned_alloc(SECTOR, room);
    int got = request == NULL || buffer == NULL ? -ENOMEM : 0;

    (void)nothing;
    pthread_mutex_lock(&queue_lock);
    while (got >= 0 && !ended && !stopping && idle <= keep) {
        pthread_mutex_unlock(&queue_lock);
        got = take(request);
        pthread_mutex_lock(&queue_lock);
        if (got <= 0)
            continue;
        if (--idle == 0)
            start_thread();
        pthread_mutex_unlock(&queue_lock);
        if (!serve(request, buffer))
            request = pass_on(request);
        pthread_mutex_lock(&queue_lock);
        idle++;
    }
    if (got < 0 && (got != -ENOMEM || threads == 1)) /* one more thread that finds no memory is none more */
        end_session(got == -ENODEV ? 1 : got);
    idle--;
    for (int i = 0; i < threads; i++)
        if (pthread_equal(running[i], pthread_self())) {
            running[i] = running[--threads];
            break;
        }
    pthread_cond_broadcast(&gone);
    pthread_mutex_unlock(&queue_lock);
    if (buffer != NULL)
        explicit_bzero(buffer, room);
    free(buffer);
    free(request);
    return NULL;
}

static void on_signal(int number)
{
    (void)number; /* it ends a read */
}

/* What pyfuse3 calls in place of libfuse's. */

static int (*next_session_fd)(struct fuse_session *);
static int (*next_receive)(struct fuse_session *, struct fuse_buf *);
static void (*next_exit)(struct fuse_session *);

/* What an earlier session has left. */
static void forget_all(void)
{
    struct request *request;
    struct handle *handle;
    while ((request = first) != NULL) {
        first = request->next;
        free(request);
    }
    last = &first;
    queued = queued_large = ended = stopping = all_shut = 0;
    for (int i = 0; i < BUCKETS; i++)
        while ((handle = handles[i]) != NULL) {
            handles[i] = handle->next;
            free(handle);
        }
}

/* Before the session's first request. */
__attribute__((visibility("default"))) int fuse_session_fd(struct fuse_session *session)
{
    device = next_session_fd(session);
    if (sectors == NULL)
        return device;
    if (queue_fd >= 0)
        close(queue_fd);
    queue_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    forget_all();
    return queue_fd < 0 ? device : queue_fd;
}

/* The next request of the queue. As libfuse's: its bytes, 0 at the session's end, below zero an errno. */
__attribute__((visibility("default"))) int fuse_session_receive_buf(struct fuse_session *session, struct fuse_buf *buf)
{
    struct request *request;
    uint64_t told;
    int how;

    if (queue_fd < 0)
        return next_receive(session, buf);
    if (buf->mem == NULL && (buf->mem = malloc(MOST_REQUEST)) == NULL) /* pyfuse3 frees it */
        return -ENOMEM;
    pthread_mutex_lock(&queue_lock);
    how = ended;
    request = first;
    if (request != NULL && (first = request->next) == NULL)
        last = &first;
    if (request != NULL) {
        queued--;
        queued_large -= request->size > SMALL;
        pthread_cond_signal(&taken);
    }
    if (first == NULL && !how && read(queue_fd, &told, sizeof told) < 0)
        errno = 0; /* nothing is told: another task was faster */
    pthread_mutex_unlock(&queue_lock);
    if (request == NULL) {
        if (how > 0)
            next_exit(session);
        return how > 0 ? 0 : how < 0 ? how : -EINTR;
    }
    memcpy(buf->mem, request->data, request->size);
    buf->size = request->size;
    buf->flags = 0;
    if (request->size > SMALL) {
        pthread_mutex_lock(&queue_lock);
        if (spares < MOST_SPARE) {
            spare[spares++] = request;
            request = NULL;
        }
        pthread_mutex_unlock(&queue_lock);
    }
    free(request);
    return (int)buf->size;
}

/* NULL, or what is missing in the library. */
static const char *attach_queue(void *library)
{
    next_session_fd = (int (*)(struct fuse_session *))dlsym(library, "fuse_session_fd");
    next_receive = (int (*)(struct fuse_session *, struct fuse_buf *))dlsym(library, "fuse_session_receive_buf");
    next_exit = (void (*)(struct fuse_session *))dlsym(library, "fuse_session_exit");
    if (next_session_fd == NULL || next_receive == NULL || next_exit == NULL)
        return "its libfuse has no known fuse_session_receive_buf";
    return NULL;
}

/* For Python. */

/* Sessions made from now on have threads, which decrypt by that `sector_loop`. */
static void ioflt_use(uintptr_t loop)
{
    sectors = (sector_loop *)loop;
}

/* Returns how many there are: 0 where none can be had, or none are used. */
static int ioflt_start(int cores)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
    int started;

    if (queue_fd < 0)
        return 0;
    sigaction(SIGURG, &action, NULL);
    keep = cores < 2 ? 2 : cores > MOST_THREADS ? MOST_THREADS : cores;
    pthread_mutex_lock(&queue_lock);
    start_thread();
    started = threads;
    pthread_mutex_unlock(&queue_lock);
    return started;
}

/* Nothing is taken from the kernel any more; what was begun is answered. */
static void ioflt_stop(void)
{
    struct timespec until;

    pthread_mutex_lock(&queue_lock);
    stopping = 1;
    pthread_cond_broadcast(&taken);
    while (threads > 0) {
        for (int i = 0; i < threads; i++)
            pthread_kill(running[i], SIGURG);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 10000000; /* a signal that came before the read is sent again */
        if (until.tv_nsec >= 1000000000)
            until.tv_sec++, until.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&gone, &queue_lock, &until);
    }
    pthread_mutex_unlock(&queue_lock);
}
