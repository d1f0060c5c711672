/* The schema, one step per version: user_version counts the steps that a database has seen. A step is never edited once
 * released; a change is a new step. */
#include "store/store-internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/fd.h"

static const char *const steps[] = {
    "CREATE TABLE box ("
    "  id TEXT NOT NULL PRIMARY KEY,"
    "  tenant TEXT NOT NULL, creator TEXT NOT NULL, dialect TEXT NOT NULL,"
    "  image TEXT NOT NULL, image_digest TEXT NOT NULL, runner_id TEXT NOT NULL,"
    "  request_id TEXT, echo BLOB, tags BLOB, command TEXT, args BLOB, cwd TEXT, user TEXT,"
    "  env BLOB, layers BLOB, entry_json TEXT, reason TEXT NOT NULL, state INTEGER NOT NULL,"
    "  created_ns INTEGER NOT NULL, started_ns INTEGER NOT NULL, ended_ns INTEGER NOT NULL,"
    "  memory_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL, cpu_millis INTEGER NOT NULL,"
    "  pids INTEGER NOT NULL, lifetime_s INTEGER NOT NULL, has_exit INTEGER NOT NULL, oom INTEGER NOT NULL,"
    "  exit_code INTEGER NOT NULL, egress INTEGER NOT NULL, flags INTEGER NOT NULL, boot_id TEXT NOT NULL"
    ") STRICT;"
    "CREATE TABLE image ("
    "  name TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL, config_json TEXT NOT NULL, layers BLOB,"
    "  bytes INTEGER NOT NULL, created_ns INTEGER NOT NULL"
    ") STRICT;"
    "CREATE TABLE layer (digest TEXT NOT NULL PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;",
};

int store_sqlite_err(sqlite3 *db, int rc, const char *what, struct err *e)
{
    const char *text = db != NULL ? sqlite3_errmsg(db) : sqlite3_errstr(rc);

    switch (rc & 0xff) {
    case SQLITE_FULL:
        return err_typed(e, ERR_EXHAUSTED, NULL, "%s: the disk that holds the database is full", what);
    case SQLITE_NOMEM:
        return err_set(e, ENOMEM, "%s: %m", what);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return err_set(e, EBADMSG,
                       "%s: the database is damaged (%s); put back a copy, or move it away to begin with no records",
                       what, text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return err_typed(e, ERR_UNAVAILABLE, NULL, "%s: another process holds the database", what);
    default:
        return err_set(e, EIO, "%s: %s", what, text);
    }
}

static int pragma_number(sqlite3 *db, const char *sql, int *ret, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int(st, 0);
    (void)sqlite3_finalize(st); /* repeats the error of the step */
    return rc == SQLITE_ROW ? 0 : store_sqlite_err(db, rc, "opening the database", e);
}

static int exec(sqlite3 *db, const char *sql, const char *what, struct err *e)
{
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? 0 : store_sqlite_err(db, rc, what, e);
}

static int migrate(sqlite3 *db, int from, struct err *e)
{
    char sql[96];
    int r;

    for (int v = from; v < (int)ARRAY_LEN(steps); v++) {
        (void)snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT;",
                       STORE_APPLICATION_ID, v + 1);
        r = exec(db, "BEGIN IMMEDIATE;", "changing the schema", e);
        if (r < 0)
            return r;
        r = exec(db, steps[v], "changing the schema", e);
        if (r == 0)
            r = exec(db, sql, "changing the schema", e);
        if (r < 0) {
            (void)sqlite3_exec(db, "ROLLBACK;", NULL, NULL, NULL); /* the first error is the one to tell */
            return r;
        }
    }
    return 0;
}

int store_schema_prepare(sqlite3 *db, const char *path, struct err *e)
{
    int version = 0, application = 0, r;

    /* Debian builds SQLite with secure_delete and synchronous=FULL: say what we want. */
    r = exec(db,
             "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
             "PRAGMA secure_delete = OFF; PRAGMA journal_size_limit = 16777216; PRAGMA trusted_schema = OFF;",
             "opening the database", e);
    if (r == 0)
        r = pragma_number(db, "PRAGMA user_version;", &version, e);
    if (r == 0)
        r = pragma_number(db, "PRAGMA application_id;", &application, e);
    if (r < 0)
        return err_ctx(e, "%s", path);

    if (version != 0 && application != (int)STORE_APPLICATION_ID)
        return err_set(e, EBADMSG, "%s: this is not a database of Silica", path);
    if (version > (int)ARRAY_LEN(steps) || version < 0)
        return err_set(e, ENOTSUP,
                       "%s: this database was written by a newer Silica (schema %d, this one knows up to %d)", path,
                       version, (int)ARRAY_LEN(steps));
    r = migrate(db, version, e);
    return r < 0 ? err_ctx(e, "%s", path) : 0;
}
