/* What the files of the store share: the connection belongs to the loop thread until the first write, then to the
 * database lane of the pool. */
#pragma once

#include <sqlite3.h>

#include "store/store.h"

enum { STORE_APPLICATION_ID = 0x51C1CADB };

/* Fills E from what went wrong last on DB; WHAT is a gerund ("reading the sandboxes"). Returns a negative errno. */
int store_sqlite_err(sqlite3 *db, int rc, const char *what, struct err *e);
/* Pragmas, and migrations up to the newest schema. */
int store_schema_prepare(sqlite3 *db, const char *path, struct err *e);

/* Lists travel as blobs of NUL-terminated strings: any byte is welcome, and a missing list is SQL NULL. */
int store_bind_list(sqlite3_stmt *st, int col, char *const *list);
/* 0 with *RET (NULL for SQL NULL), -ENOMEM, or -EBADMSG for a blob that does not end in a NUL. */
int store_column_list(sqlite3_stmt *st, int col, char ***ret);

int store_list_copy(char *const *list, char ***ret);
int box_record_copy(const struct box_record *r, struct box_record **ret);
int image_record_copy(const struct image_record *r, struct image_record **ret);

sqlite3 *store_reader(struct store *s, struct err *e);
