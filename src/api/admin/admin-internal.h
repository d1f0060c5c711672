/* Shared by the files of the admin API. */
#pragma once

#include "api/admin/admin.h"
#include "base/json.h"

struct admin {
    struct engine *en;
    struct http_route routes[2];
};

struct admin_req;

/* One row of the table: METHOD and PATTERN, where "*" stands for one path segment. */
struct admin_call {
    const char *method, *pattern;
    /* For calls without a body, or once the whole body (JSON) is there. */
    void (*run)(struct admin_req *q);
    /* For a streaming body; takes over the request. */
    void (*stream)(struct admin_req *q);
    bool has_body;
};

/* One request in flight. Freed when the reply is sent or the peer is gone. */
struct admin_req {
    struct http_req *http;
    struct admin *admin;
    const struct admin_call *call;
    char id[ID_MAX]; /* the "*" of the pattern */
    struct buf body, out;
    struct jw json;
    struct op *op; /* a pending engine call */
    struct layer_upload *upload;
};

/* Starts a JSON reply in q->json; admin_send ends it and frees Q. */
struct jw *admin_json(struct admin_req *q);
void admin_send(struct admin_req *q, unsigned status);
void admin_fail(struct admin_req *q, const struct err *e);
/* Q waits for OP; NULL (no memory for it) ends Q. */
void admin_wait(struct admin_req *q, struct op *op);
const char *admin_tenant(const struct admin_req *q);
/* Decodes a query parameter; true when it is there and fits. */
bool admin_query(const struct admin_req *q, const char *name, char *out, size_t cap);

/* boxes.c */
void admin_box_list(struct admin_req *q);
void admin_box_get(struct admin_req *q);
void admin_box_env(struct admin_req *q);
void admin_box_stop(struct admin_req *q);
void admin_box_remove(struct admin_req *q);
/* images.c */
void admin_image_list(struct admin_req *q);
void admin_image_put(struct admin_req *q);
void admin_image_remove(struct admin_req *q);
void admin_layer_stream(struct admin_req *q);
void layer_upload_body(struct admin_req *q, const uint8_t *data, size_t len);
void layer_upload_end(struct admin_req *q);
void layer_upload_free(struct layer_upload *u);
