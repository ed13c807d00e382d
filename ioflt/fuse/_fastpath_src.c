/* Reads and writes of open files, answered by threads (`_requests_src.c`) that never enter the interpreter.
 *
 * Those of files that are *open* to them. Whoever works on a file in Python shuts it first, and waits until it is quiet.
 * Among themselves the threads keep sectors apart: one that is written is neither read nor written by another, as
 * ciphertext that is half old and half new decrypts to neither.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 4096ULL
#define MOST_DATA (1U << 20) /* of one request: libfuse's own limit up to 3.16, and ours */
#define MOST_LENGTH (INT64_MAX - (1LL << 21)) /* of a file: `openfile.MAX_LENGTH` */
#define STEP (128U << 10) /* of a large write: still in the processor's cache when it is written; 10% less CPU */
#define BLOCK_SHIFT 16                        /* of changed blocks */
#define BUCKETS 1024
#define MOMENT_NS 3000000 /* that a request waits until its file is for the threads again: Python answers 20 in it */

enum { ENCRYPT, DECRYPT, DECRYPT_THIN };   /* for the sector loop */
enum { NONE, INSIDE, WHOLE_SECTORS, ANY }; /* which writes are for us: `openfile.Writes` */

typedef int sector_loop(const unsigned char *key, unsigned char *data, size_t count, uint64_t sector, int action);

struct range {
    uint64_t start, end; /* bytes, whole sectors */
    int writes;
    int granted;
    struct range *next;
};

struct file {
    int open;    /* to the threads; what follows stays as it is meanwhile, the length excepted */
    int reopens; /* it was open before it was shut, and mostly will be again in a moment */
    int fd;
    uint64_t start; /* of byte 0 in `fd` */
    _Atomic uint64_t *length;
    int writes;
    int encrypted;
    int holes;  /* a sector of zeros was never written */
    int clamps; /* nobody else changes the length: reads end there */
    unsigned char key[64];
    unsigned char *marks; /* a bit for each block that was written; NULL: nobody wants to know */
    uint64_t blocks;
    int busy;             /* ranges that are granted */
    struct range *ranges; /* in the order of their arrival, on their threads' stacks */
    int waiting;
    pthread_cond_t changed;
};

struct handle {
    uint64_t number;
    struct file *file;
    struct handle *next;
};

static sector_loop *sectors; /* NULL: no threads, libfuse reads requests itself */
static int device = -1;      /* the session's descriptor */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct handle *handles[BUCKETS];
static int all_shut;
static atomic_llong counts[6]; /* reads, their bytes and nanoseconds, writes likewise */

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void count(int writes, size_t bytes, long long begin)
{
    int at = writes ? 3 : 0;
    atomic_fetch_add_explicit(&counts[at], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counts[at + 1], (long long)bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&counts[at + 2], now() - begin, memory_order_relaxed);
}

static uint64_t down(uint64_t offset)
{
    return offset / SECTOR * SECTOR;
}

static uint64_t up(uint64_t offset)
{
    return down(offset + SECTOR - 1);
}

static void reply(uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header header = {(uint32_t)(sizeof header + size), -error, unique};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)data, size}};
    ssize_t done;
    do
        done = writev(device, parts, size > 0 ? 2 : 1);
    while (done < 0 && errno == EINTR);
    /* ENOENT: who asked was killed meanwhile. ENODEV: unmounted. Nobody is left to be told. */
}

/* Which requests are for us. Under the lock. */

static struct file *file_of(uint64_t number)
{
    const struct handle *handle = handles[number % BUCKETS];
    while (handle != NULL && handle->number != number)
        handle = handle->next;
    return handle == NULL ? NULL : handle->file;
}

/* Requests are granted in the order of their arrival, past those that they do not touch; so nobody starves. */
static int conflicts(const struct file *file, const struct range *range)
{
    int before = 1;
    for (const struct range *other = file->ranges; other != NULL; other = other->next)
        if (other == range)
            before = 0;
        else if ((before || other->granted) && range->start < other->end && other->start < range->end
                 && (range->writes || other->writes))
            return 1;
    return 0;
}

static void append(struct file *file, struct range *range)
{
    struct range **place = &file->ranges;
    while (*place != NULL)
        place = &(*place)->next;
    *place = range;
}

static void take_out(struct file *file, const struct range *range)
{
    struct range **place = &file->ranges;
    while (*place != range)
        place = &(*place)->next;
    *place = range->next;
    file->busy -= range->granted;
    if (file->waiting)
        pthread_cond_broadcast(&file->changed);
}

/* What a request takes, and the bytes of it that there are. 0 when it is none for us. */
static int range_of(const struct file *file, uint64_t offset, size_t *size, struct range *range)
{
    uint64_t length, end;
    if (all_shut || !file->open || *size == 0 || *size > MOST_DATA || offset > MOST_LENGTH - MOST_DATA)
        return 0;
    length = atomic_load(file->length);
    end = offset + *size;
    range->start = down(offset);
    range->end = up(end);
    if (range->writes && file->writes == NONE)
        return 0;
    if (end <= length)
        return 1;
    if (!range->writes) {
        if (!file->clamps || offset >= length)
            return 0;
        *size = (size_t)(length - offset);
        range->end = up(length);
        return 1;
    }
    if (file->writes == INSIDE || (file->writes == WHOLE_SECTORS && end % SECTOR != 0))
        return 0;
    if (file->encrypted && offset > length) /* what lies between would have to be made zeros */
        return 0;
    if (down(length) < range->start)
        range->start = down(length);
    range->end = UINT64_MAX; /* whatever else extends it waits */
    return 1;
}

/* A file that Python has just now. Each request that came to Python meanwhile would hold it shut until it is answered:
 * with many under way there would always be another, and none be answered in C again (4 KiB reads, 64 at once: 8,000 a
 * second, where 30,000 are). So they wait for a moment, in which Python ends what it has. Under the lock.
 */
static void await_reopening(struct file *file)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += MOMENT_NS;
    if (until.tv_nsec >= 1000000000)
        until.tv_sec++, until.tv_nsec -= 1000000000;
    file->waiting++;
    while (!file->open && file->reopens && !all_shut
           && pthread_cond_timedwait(&file->changed, &lock, &until) != ETIMEDOUT)
        ;
    file->waiting--;
}

/* Takes the range. NULL when the request is for Python. */
static struct file *enter(uint64_t handle, uint64_t offset, size_t *size, struct range *range)
{
    size_t asked = *size;
    struct file *file;

    pthread_mutex_lock(&lock);
    file = file_of(handle);
    if (file != NULL && !file->open)
        await_reopening(file);
    if (file != NULL && !range_of(file, offset, size, range))
        file = NULL;
    if (file != NULL)
        append(file, range);
    while (file != NULL && conflicts(file, range)) {
        file->waiting++;
        pthread_cond_wait(&file->changed, &lock);
        file->waiting--;
        *size = asked;
        if (!range_of(file, offset, size, range)) {
            take_out(file, range);
            file = NULL;
        }
    }
    if (file != NULL)
        file->busy += range->granted = 1;
    pthread_mutex_unlock(&lock);
    return file;
}

static void leave(struct file *file, const struct range *range)
{
    pthread_mutex_lock(&lock);
    take_out(file, range);
    pthread_mutex_unlock(&lock);
}

/* I/O. 1 when all of it was done; `write_all`: how many bytes were. */

static int read_all(int fd, char *buffer, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t got = pread(fd, buffer, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        buffer += got;
        size -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 1;
}

static size_t write_all(int fd, const char *buffer, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t more = pwrite(fd, buffer + done, size - done, (off_t)(offset + done));
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            break;
        done += (size_t)more;
    }
    return done;
}

static int read_sectors(const struct file *file, char *buffer, size_t size, uint64_t offset)
{
    return read_all(file->fd, buffer, size, file->start + offset)
        && sectors(file->key, (unsigned char *)buffer, size / SECTOR, offset / SECTOR,
                   file->holes ? DECRYPT_THIN : DECRYPT);
}

/* The plaintext of the sector at `offset`, of which a write covers a part. Behind the end there are zeros. */
static int read_covered(const struct file *file, char *buffer, uint64_t offset)
{
    if (offset >= up(atomic_load(file->length))) {
        memset(buffer, 0, SECTOR);
        return 1;
    }
    return read_sectors(file, buffer, SECTOR, offset);
}

/* `buffer` has room for a step. */
static int write_sectors(const struct file *file, char *buffer, const char *data, size_t size, uint64_t offset)
{
    uint64_t end = offset + size, count;
    for (uint64_t start = down(offset); start < end; start += count) {
        uint64_t from = start < offset ? offset : start, to;
        count = up(end) - start < STEP ? up(end) - start : STEP;
        to = start + count < end ? start + count : end;
        if (from > start && !read_covered(file, buffer, start))
            return 0;
        if (to < start + count && (from == start || count > SECTOR)
            && !read_covered(file, buffer + count - SECTOR, start + count - SECTOR))
            return 0;
        memcpy(buffer + (from - start), data + (from - offset), to - from);
        if (!sectors(file->key, (unsigned char *)buffer, count / SECTOR, start / SECTOR, ENCRYPT)
            || write_all(file->fd, buffer, count, file->start + start) != count)
            return 0;
    }
    return 1;
}

/* Requests. 1 when it was answered, 0 when it is for Python: that does all of it again, and knows of errors.
 * `buffer` has room for the largest one in whole sectors.
 */

static int serve_read(uint64_t unique, const struct fuse_read_in *in, char *buffer)
{
    struct range range = {.writes = 0};
    size_t size = in->size;
    long long begin = now();
    struct file *file = enter(in->fh, in->offset, &size, &range);
    int ok;

    if (file == NULL)
        return 0;
    if (file->encrypted)
        ok = read_sectors(file, buffer, (size_t)(range.end - range.start), range.start);
    else
        ok = read_all(file->fd, buffer + (in->offset - range.start), size, file->start + in->offset);
    leave(file, &range);
    if (ok) {
        count(0, size, begin);
        reply(unique, 0, buffer + (in->offset - range.start), size);
    }
    return ok;
}

/* Before they change. Behind the last block everything counts as changed. */
static void mark(const struct file *file, uint64_t offset, uint64_t end)
{
    for (uint64_t block = offset >> BLOCK_SHIFT; file->marks != NULL && block <= (end - 1) >> BLOCK_SHIFT; block++) {
        unsigned char bit = (unsigned char)(1U << block % 8);
        if (block >= file->blocks)
            break;
        if (!(__atomic_load_n(&file->marks[block / 8], __ATOMIC_RELAXED) & bit))
            __atomic_fetch_or(&file->marks[block / 8], bit, __ATOMIC_RELAXED);
    }
}

/* Bytes of a file as it is stored; the largest number when nobody knows. */
static uint64_t stored(const struct file *file)
{
    struct stat info;
    return fstat(file->fd, &info) == 0 ? (uint64_t)info.st_size - file->start : UINT64_MAX;
}

/* Half written, for lack of space: what came is not part of the file. Python tries again, and tells. */
static void cut(const struct file *file, uint64_t size)
{
    int done = ftruncate(file->fd, (off_t)(file->start + size));
    (void)done;
}

static int serve_write(uint64_t unique, const struct fuse_write_in *in, char *buffer)
{
    struct fuse_write_out out = {.size = in->size};
    struct range range = {.writes = 1};
    size_t size = in->size;
    uint64_t end = in->offset + size, length;
    long long begin = now();
    struct file *file = enter(in->fh, in->offset, &size, &range);
    const char *data = (const char *)(in + 1);
    int ok;

    if (file == NULL)
        return 0;
    mark(file, in->offset, end);
    length = atomic_load(file->length);
    if (file->encrypted) {
        ok = write_sectors(file, buffer, data, size, in->offset);
        if (!ok && end > length)
            cut(file, up(length));
    } else {
        uint64_t had = end > length ? stored(file) : UINT64_MAX; /* another program may have appended to it */
        uint64_t to = in->offset + write_all(file->fd, data, size, file->start + in->offset);
        ok = to == end;
        if (!ok && to > had && stored(file) == to)
            cut(file, had);
    }
    if (ok && end > length)
        atomic_store(file->length, end);
    leave(file, &range);
    if (ok) {
        count(1, size, begin);
        reply(unique, 0, &out, sizeof out);
    }
    return ok;
}

/* For Python. */

/* Of all files: whether requests are for Python. */
static void ioflt_shut_all(int shut)
{
    pthread_mutex_lock(&lock);
    all_shut = shut;
    pthread_mutex_unlock(&lock);
}

/* NULL for lack of memory. */
static void *ioflt_file_new(void)
{
    struct file *file = calloc(1, sizeof *file);
    if (file != NULL)
        pthread_cond_init(&file->changed, NULL);
    return file;
}

/* Of a quiet file without handles. */
static void ioflt_file_free(void *opaque)
{
    struct file *file = opaque;
    pthread_cond_destroy(&file->changed);
    explicit_bzero(file->key, sizeof file->key);
    free(file);
}

/* Of a file that is shut and quiet. `key`: of 64 bytes, copied; NULL when it is stored in clear. */
static void ioflt_file_open(
    void *opaque, int fd, uint64_t start, uint64_t *length, int writes, int holes, int clamps, const unsigned char *key,
    unsigned char *marks, uint64_t blocks)
{
    struct file *file = opaque;
    pthread_mutex_lock(&lock);
    file->fd = fd;
    file->start = start;
    file->length = (_Atomic uint64_t *)length;
    file->writes = writes;
    file->holes = holes;
    file->clamps = clamps;
    file->marks = marks;
    file->blocks = blocks;
    file->encrypted = key != NULL;
    if (key != NULL)
        memcpy(file->key, key, sizeof file->key);
    file->open = file->reopens = 1;
    if (file->waiting)
        pthread_cond_broadcast(&file->changed);
    pthread_mutex_unlock(&lock);
}

/* Of a file that is shut: it is not for the threads any more. */
static void ioflt_file_stays(void *opaque)
{
    struct file *file = opaque;
    pthread_mutex_lock(&lock);
    file->reopens = 0;
    if (file->waiting)
        pthread_cond_broadcast(&file->changed);
    pthread_mutex_unlock(&lock);
}

/* How many requests are still at it: when there are none the key is gone, too. */
static int ioflt_file_shut(void *opaque)
{
    struct file *file = opaque;
    int busy;
    pthread_mutex_lock(&lock);
    file->open = 0;
    busy = file->busy;
    if (!busy)
        explicit_bzero(file->key, sizeof file->key);
    if (file->waiting)
        pthread_cond_broadcast(&file->changed);
    pthread_mutex_unlock(&lock);
    return busy;
}

/* Until a file that was shut is quiet. */
static void ioflt_file_wait(void *opaque)
{
    struct file *file = opaque;
    pthread_mutex_lock(&lock);
    file->waiting++;
    while (file->busy)
        pthread_cond_wait(&file->changed, &lock);
    file->waiting--;
    explicit_bzero(file->key, sizeof file->key);
    pthread_mutex_unlock(&lock);
}

/* 1; 0 for lack of memory. */
static int ioflt_handle_add(uint64_t number, void *file)
{
    struct handle *handle = malloc(sizeof *handle);
    if (handle == NULL)
        return 0;
    handle->number = number;
    handle->file = file;
    pthread_mutex_lock(&lock);
    handle->next = handles[number % BUCKETS];
    handles[number % BUCKETS] = handle;
    pthread_mutex_unlock(&lock);
    return 1;
}

/* Whether it was there. */
static int ioflt_handle_drop(uint64_t number)
{
    struct handle **place, *handle;
    pthread_mutex_lock(&lock);
    place = &handles[number % BUCKETS];
    while (*place != NULL && (*place)->number != number)
        place = &(*place)->next;
    handle = *place;
    if (handle != NULL)
        *place = handle->next;
    pthread_mutex_unlock(&lock);
    free(handle);
    return handle != NULL;
}

static void ioflt_counts(long long totals[6])
{
    for (int i = 0; i < 6; i++)
        totals[i] = atomic_load(&counts[i]);
}
