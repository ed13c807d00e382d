/* The sector loops: AES-256-XTS over 4096-byte sectors, in place, and the tags of sectors, truncated
 * HMAC-SHA-256. Cipher and hash are OpenSSL's; only the loops are ours, and a thread that shares the second.
 *
 * Tweak of sector n: 8n, 128 bit little endian (SPEC.md). One context per call: it cleanses its key schedule when
 * freed, so none outlives the call. Called without the interpreter's lock.
 */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#define SECTOR 4096
#define UNITS 8 /* 512-byte units in a sector */
#define TAG 16
#define KEY 32
#define BLOCK 64 /* of SHA-256 */
#define PREFIX 24 /* what is MACed before the sector: UUID, number as 64 bits big endian */

#define PART 8         /* sectors that a thread takes at a time: who ends first waits for 18 µs at most */
#define STACK (128 << 10)

enum { ENCRYPT, DECRYPT, DECRYPT_THIN };

static EVP_CIPHER *aes_256_xts;
static EVP_MD *sha256;

__attribute__((constructor)) static void fetch_algorithms(void)
{
    aes_256_xts = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
}

static int is_zero(const unsigned char *sector)
{
    /* equal to itself one word further: all words equal the first */
    uint64_t first;
    memcpy(&first, sector, sizeof first);
    return first == 0 && memcmp(sector, sector + sizeof first, SECTOR - sizeof first) == 0;
}

static void set_tweak(unsigned char tweak[16], uint64_t sector)
{
    uint64_t unit = sector * UNITS;
    for (int i = 0; i < 8; i++)
        tweak[i] = (unsigned char)(unit >> (8 * i));
}

/* 1 when all sectors were done, 0 when OpenSSL refused. The caller checked lengths, range and key. */
static int ioflt_sectors(const unsigned char *key, unsigned char *data, size_t count, uint64_t sector, int action)
{
    unsigned char tweak[16] = {0};
    int length;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int ok = context != NULL && aes_256_xts != NULL
        && EVP_CipherInit_ex2(context, aes_256_xts, key, NULL, action == ENCRYPT, NULL) == 1;

    for (size_t i = 0; ok && i < count; i++, data += SECTOR) {
        if (action == DECRYPT_THIN && is_zero(data))
            continue;
        set_tweak(tweak, sector + i);
        ok = EVP_CipherInit_ex2(context, NULL, NULL, tweak, -1, NULL) == 1
            && EVP_CipherUpdate(context, data, &length, data, SECTOR) == 1 && length == SECTOR;
    }
    EVP_CIPHER_CTX_free(context);
    return ok;
}

/* SHA-256 begun with the key, each of its bytes changed by `pad`: RFC 2104. */
static EVP_MD_CTX *keyed(const unsigned char *key, unsigned char pad)
{
    unsigned char block[BLOCK];
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    for (int i = 0; i < BLOCK; i++)
        block[i] = (unsigned char)((i < KEY ? key[i] : 0) ^ pad);
    if (context != NULL
        && (EVP_DigestInit_ex2(context, sha256, NULL) != 1 || EVP_DigestUpdate(context, block, BLOCK) != 1)) {
        EVP_MD_CTX_free(context);
        context = NULL;
    }
    OPENSSL_cleanse(block, sizeof block);
    return context;
}

/* Tags to be made, by whoever has time: who takes the sectors from `next` on, `PART` of them, makes theirs. */
struct ioflt_tags {
    const unsigned char *key, *data;
    unsigned char uuid[16];
    unsigned char *tags;
    uint64_t first;
    size_t count;
    atomic_size_t next;
    atomic_int refused;       /* by OpenSSL */
    int helped;               /* the helper is at it; this and `after` under the lock */
    struct ioflt_tags *after; /* in the queue */
};

/* Take parts until none is left. A sector of zeros, and each one without `data`, is a hole: only its place is MACed.
 * HMAC from its parts, so that the key is prepared once a call: an EVP_MAC costs 8 µs a call, twice as much as a sector.
 */
static void work(struct ioflt_tags *job)
{
    unsigned char prefix[PREFIX], hash[KEY];
    EVP_MD_CTX *inner = sha256 == NULL ? NULL : keyed(job->key, 0x36);
    EVP_MD_CTX *outer = sha256 == NULL ? NULL : keyed(job->key, 0x5c);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = inner != NULL && outer != NULL && context != NULL;
    size_t i;

    memcpy(prefix, job->uuid, sizeof job->uuid);
    while (ok && (i = atomic_fetch_add(&job->next, PART)) < job->count)
        for (size_t end = job->count - i < PART ? job->count : i + PART; ok && i < end; i++) {
            const unsigned char *sector = job->data == NULL ? NULL : job->data + i * SECTOR;
            for (int byte = 0; byte < 8; byte++)
                prefix[16 + byte] = (unsigned char)((job->first + i) >> (56 - 8 * byte));
            ok = EVP_MD_CTX_copy_ex(context, inner) == 1 && EVP_DigestUpdate(context, prefix, PREFIX) == 1;
            if (ok && sector != NULL && !is_zero(sector))
                ok = EVP_DigestUpdate(context, sector, SECTOR) == 1;
            ok = ok && EVP_DigestFinal_ex(context, hash, NULL) == 1 && EVP_MD_CTX_copy_ex(context, outer) == 1
                && EVP_DigestUpdate(context, hash, KEY) == 1 && EVP_DigestFinal_ex(context, hash, NULL) == 1;
            memcpy(job->tags + i * TAG, hash, TAG);
        }
    if (!ok)
        atomic_store(&job->refused, 1);
    EVP_MD_CTX_free(inner);
    EVP_MD_CTX_free(outer);
    EVP_MD_CTX_free(context);
}

/* One thread of the process helps: it begins with the first job that is asked for, as confined as who asks for that,
 * and waits for the next.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked = PTHREAD_COND_INITIALIZER, left = PTHREAD_COND_INITIALIZER;
static struct ioflt_tags *queue;
static int helper_runs;

static void *help(void *nothing)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        struct ioflt_tags *job = queue;
        while (job != NULL && atomic_load(&job->next) >= job->count)
            job = job->after;
        if (job == NULL) {
            pthread_cond_wait(&asked, &lock);
            continue;
        }
        job->helped = 1;
        pthread_mutex_unlock(&lock);
        work(job);
        pthread_mutex_lock(&lock);
        job->helped = 0;
        pthread_cond_broadcast(&left);
    }
    return nothing;
}

/* A forked process has no helper until it asks for one, and none of the other threads' jobs. What the helper had
 * begun nobody ends here.
 */
static void after_fork(void)
{
    for (struct ioflt_tags *job = queue; job != NULL; job = job->after)
        if (job->helped) {
            job->helped = 0;
            atomic_store(&job->refused, 1);
        }
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&asked, NULL);
    pthread_cond_init(&left, NULL);
    queue = NULL;
    helper_runs = 0;
}

/* Under the lock. Signals are for the interpreter's threads. Where no thread can be had, nobody helps. */
static void start_helper(void)
{
    static int told;
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;

    if (!told && pthread_atfork(NULL, NULL, after_fork) != 0)
        return;
    told = 1;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    helper_runs = pthread_create(&thread, &attributes, help, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Have the helper begin with the tag of each of `count` sectors, of which the first has number `first`, into `tags`.
 * `key`, `data` and `tags` stay until `ioflt_tags_end`. NULL for lack of memory.
 */
static struct ioflt_tags *ioflt_tags_begin(const unsigned char *key, const unsigned char *uuid,
                                           const unsigned char *data, size_t count, uint64_t first,
                                           unsigned char *tags)
{
    struct ioflt_tags *job = calloc(1, sizeof *job), **last = &queue;

    if (job == NULL)
        return NULL;
    job->key = key;
    job->data = data;
    job->tags = tags;
    job->first = first;
    job->count = count;
    memcpy(job->uuid, uuid, sizeof job->uuid);
    pthread_mutex_lock(&lock);
    if (!helper_runs)
        start_helper();
    while (*last != NULL)
        last = &(*last)->after;
    *last = job;
    pthread_cond_signal(&asked);
    pthread_mutex_unlock(&lock);
    return job;
}

/* Do what is left of it, or with `drop` nothing more; then nobody uses what was given for it. 1 when all was done. */
static int ioflt_tags_end(struct ioflt_tags *job, int drop)
{
    struct ioflt_tags **place = &queue;
    int ok;

    if (drop)
        atomic_store(&job->next, job->count);
    else
        work(job);
    pthread_mutex_lock(&lock);
    while (job->helped)
        pthread_cond_wait(&left, &lock);
    while (*place != NULL && *place != job) /* not there: it was begun before a fork */
        place = &(*place)->after;
    if (*place == job)
        *place = job->after;
    pthread_mutex_unlock(&lock);
    ok = !drop && !atomic_load(&job->refused);
    free(job);
    return ok;
}

/* All of it here and now: 1 when all was done, 0 when OpenSSL refused. */
static int ioflt_tags(const unsigned char *key, const unsigned char *uuid, const unsigned char *data, size_t count,
                      uint64_t first, unsigned char *tags)
{
    struct ioflt_tags job = {.key = key, .data = data, .tags = tags, .first = first, .count = count};

    memcpy(job.uuid, uuid, sizeof job.uuid);
    work(&job);
    return !atomic_load(&job.refused);
}
