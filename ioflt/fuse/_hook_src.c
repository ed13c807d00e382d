/* Gives pyfuse3 two operations that it has no handlers for: lseek and fallocate. And the queue of `_requests_src.c`,
 * which is compiled before this.
 *
 * Loaded with RTLD_GLOBAL before pyfuse3, so that pyfuse3's call of fuse_session_new comes here; the operations are
 * copied, completed and handed to the libfuse that pyfuse3 itself is linked to (hence dlsym, and no linking here:
 * replies must go to the same libfuse that made the request). Struct layout: libfuse only ever appends to it.
 */

#include <stddef.h>

#undef fuse_session_new /* a macro around fuse_session_new_versioned since libfuse 3.17 */

struct libfuse_version;

typedef struct fuse_session *new_session(
    struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *);
typedef struct fuse_session *new_session_versioned(
    struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, struct libfuse_version *, void *);

static new_session *next_new;
static new_session_versioned *next_new_versioned;
static int (*next_reply_err)(fuse_req_t, int);
static int (*next_reply_lseek)(fuse_req_t, off_t);
static void (*next_init)(void *, struct fuse_conn_info *);
static int sessions;

/* in Python, through cffi */
static void ioflt_on_lseek(void *request, uint64_t handle, int64_t offset, int whence);
static void ioflt_on_fallocate(void *request, uint64_t handle, int mode, int64_t offset, int64_t length);

/* libfuse 3.17 takes more at once, where the kernel is told to. And libfuse would keep the kernel to what it read ahead
 * when the session began: it may read what its device says by now (`kernel.read_ahead`), two requests at the most.
 */
static void on_init(void *userdata, struct fuse_conn_info *connection)
{
    next_init(userdata, connection);
    if (connection->max_write > MOST_DATA)
        connection->max_write = MOST_DATA;
    connection->max_readahead = 2 * MOST_DATA;
}

static void on_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence, struct fuse_file_info *file)
{
    (void)inode;
    ioflt_on_lseek(request, file->fh, offset, whence);
}

static void on_fallocate(
    fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length, struct fuse_file_info *file)
{
    (void)inode;
    ioflt_on_fallocate(request, file->fh, mode, offset, length);
}

/* A copy of the operations with ours added, to be freed. NULL when they have no room for ours, or when nothing
 * could be answered. */
static struct fuse_lowlevel_ops *completed(const struct fuse_lowlevel_ops *operations, size_t size)
{
    struct fuse_lowlevel_ops *copy;
    if (next_reply_err == NULL || next_reply_lseek == NULL)
        return NULL;
    if (size < offsetof(struct fuse_lowlevel_ops, lseek) + sizeof copy->lseek || (copy = malloc(size)) == NULL)
        return NULL;
    memcpy(copy, operations, size);
    next_init = copy->init;
    copy->init = on_init;
    copy->lseek = on_lseek;
    copy->fallocate = on_fallocate;
    return copy;
}

__attribute__((visibility("default"))) struct fuse_session *fuse_session_new(
    struct fuse_args *arguments, const struct fuse_lowlevel_ops *operations, size_t size, void *userdata)
{
    struct fuse_lowlevel_ops *ours = completed(operations, size);
    struct fuse_session *session = next_new(arguments, ours ? ours : operations, size, userdata);
    sessions += ours != NULL && session != NULL;
    free(ours);
    return session;
}

__attribute__((visibility("default"))) struct fuse_session *fuse_session_new_versioned(
    struct fuse_args *arguments, const struct fuse_lowlevel_ops *operations, size_t size,
    struct libfuse_version *version, void *userdata)
{
    struct fuse_lowlevel_ops *ours = completed(operations, size);
    struct fuse_session *session =
        next_new_versioned(arguments, ours ? ours : operations, size, version, userdata);
    sessions += ours != NULL && session != NULL;
    free(ours);
    return session;
}

/* Load pyfuse3's extension and find its libfuse. NULL, or what is missing. */
static const char *ioflt_attach(const char *pyfuse3)
{
    void *library = dlopen(pyfuse3, RTLD_LAZY | RTLD_LOCAL);
    const char *missing;
    if (library == NULL)
        return dlerror();
    next_new = (new_session *)dlvsym(library, "fuse_session_new", "FUSE_3.0"); /* hidden to dlsym since 3.17 */
    if (next_new == NULL)
        next_new = (new_session *)dlsym(library, "fuse_session_new");
    next_new_versioned = (new_session_versioned *)dlsym(library, "fuse_session_new_versioned");
    next_reply_err = (int (*)(fuse_req_t, int))dlsym(library, "fuse_reply_err");
    next_reply_lseek = (int (*)(fuse_req_t, off_t))dlsym(library, "fuse_reply_lseek");
    missing = attach_queue(library);
    if (missing != NULL)
        return missing;
    if (next_new == NULL && next_new_versioned == NULL)
        return "its libfuse has no known fuse_session_new";
    if (next_reply_err == NULL || next_reply_lseek == NULL)
        return "its libfuse has no fuse_reply_lseek";
    return NULL;
}

/* Sessions made with our operations. */
static int ioflt_sessions(void)
{
    return sessions;
}

/* Both return 0 or a negative errno, and end the request. */
static int ioflt_reply_error(void *request, int error)
{
    return next_reply_err(request, error);
}

static int ioflt_reply_lseek(void *request, int64_t offset)
{
    return next_reply_lseek(request, offset);
}
