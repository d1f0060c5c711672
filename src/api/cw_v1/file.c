/* ReadFile and WriteFile: whole files, up to ENGINE_FILE_MAX. Above it the typed answer FILE_TOO_LARGE makes clients go
 * through StreamExec instead, so a message may be larger than what is taken. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int file_where(struct rpc_call *c, const CwBytes *sandbox_id, const CwBytes *path, const CwBytes *container,
                      const char **ret_id, const char **ret_path, struct err *e)
{
    int r = cw_sandbox_id(c, sandbox_id, ret_id, e);

    if (r == 0)
        r = cw_path(c, path, "path", ret_path, e);
    if (r == 0)
        r = cw_container_check(c, *ret_id, container, e);
    return r;
}

/* ReadFileResponse{content}: the chunk goes out as it is, behind the field's header. */
static void read_done(void *arg, const struct err *e, struct chunk *content)
{
    struct rpc_call *c = arg;
    CwReadFileResponse empty = CW_INIT(READ_FILE_RESPONSE);
    uint8_t prefix[12];
    struct err broken = {0};
    size_t n = 0;
    int r;

    if (e != NULL) {
        rpc_finish(c, e);
        return;
    }
    if (content != NULL && rpc_room(c, content->len, &broken) < 0) {
        chunk_free(content);
        rpc_finish(c, &broken);
        return;
    }
    if (content == NULL || content->len == 0) {
        chunk_free(content);
        rpc_reply(c, &empty.base);
        return;
    }
    prefix[n++] = 1 << 3 | 2; /* content, length-delimited */
    for (size_t v = content->len;; v >>= 7) {
        prefix[n++] = (uint8_t)(v >= 0x80 ? v | 0x80 : v);
        if (v < 0x80)
            break;
    }
    r = rpc_send_chunk(c, prefix, n, content);
    if (r < 0)
        (void)err_set(&broken, r, "send the file: %m");
    rpc_finish(c, r < 0 ? &broken : NULL);
}

void cw_read_file(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwReadFileRequest *req = (const CwReadFileRequest *)msg;
    const char *id, *path;
    struct err e = {0};

    if (file_where(c, &req->sandbox_id, &req->path, &req->container, &id, &path, &e) < 0) {
        rpc_finish(c, &e);
        return;
    }
    cw_op_wait(c, engine_file_read(cw_of(c)->engine, cw_tenant(c), id, path, ENGINE_FILE_MAX, read_done, c));
}

static void write_done(void *arg, const struct err *e, struct chunk *content)
{
    CwWriteFileResponse reply = CW_INIT(WRITE_FILE_RESPONSE);

    chunk_free(content);
    if (e != NULL)
        rpc_finish(arg, e);
    else
        rpc_reply(arg, &reply.base);
}

static int too_large(const char *path, size_t size, struct err *e)
{
    char number[32];
    int r = err_typed(e, ERR_EXHAUSTED, "FILE_TOO_LARGE", "the content is %zu bytes, the limit of one message is %d",
                      size, ENGINE_FILE_MAX);

    err_meta(e, "filepath", path);
    (void)snprintf(number, sizeof number, "%zu", size);
    err_meta(e, "size_bytes", number);
    (void)snprintf(number, sizeof number, "%d", ENGINE_FILE_MAX);
    err_meta(e, "max_size_bytes", number);
    return r;
}

void cw_write_file(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwWriteFileRequest *req = (const CwWriteFileRequest *)msg;
    const char *id, *path;
    struct err e = {0};
    int r = file_where(c, &req->sandbox_id, &req->path, &req->container, &id, &path, &e);

    if (r == 0 && req->content.len > ENGINE_FILE_MAX)
        r = too_large(path, req->content.len, &e);
    if (r < 0) {
        rpc_finish(c, &e);
        return;
    }
    cw_op_wait(c, engine_file_write(cw_of(c)->engine, cw_tenant(c), id, path, req->content.data, req->content.len,
                                    write_done, c));
}
