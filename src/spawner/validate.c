#include "spawner/validate.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"

#define INVALID(e, ...) err_typed(e, ERR_INVALID, NULL, __VA_ARGS__)

bool box_id_ok(const char *id)
{
    size_t n = strlen(id);

    return n > 0 && n < SP_ID_MAX && id[0] != '-' && strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

bool digest_ok(const char *digest)
{
    return strlen(digest) == SP_DIGEST_LEN && strspn(digest, "0123456789abcdef") == SP_DIGEST_LEN;
}

bool hostname_ok(const char *name)
{
    static const char alnum[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
    size_t n = strlen(name);

    return n > 0 && n < SP_HOSTNAME_MAX && strspn(name, alnum) == n && name[0] != '-' && name[0] != '.' &&
           name[n - 1] != '-' && name[n - 1] != '.' && strstr(name, "..") == NULL;
}

static int check_range(const char *what, uint64_t value, uint64_t min, uint64_t max, struct err *e)
{
    if (value != 0 && (value < min || value > max))
        return INVALID(e, "%s of %llu is outside %llu..%llu", what, (unsigned long long)value, (unsigned long long)min,
                       (unsigned long long)max);
    return 0;
}

static int check_numbers(const struct sp_create *c, struct err *e)
{
    uint64_t period = c->cpu_period_us != 0 ? c->cpu_period_us : 100000;

    if (check_range("memory limit", c->memory_max, BOX_MEMORY_MIN, BOX_BYTES_MAX, e) < 0 ||
        check_range("cpu period", c->cpu_period_us, BOX_PERIOD_MIN, BOX_PERIOD_MAX, e) < 0 ||
        check_range("cpu quota", c->cpu_quota_us, BOX_QUOTA_MIN, period * BOX_CPUS_MAX, e) < 0 ||
        check_range("process limit", c->pids_max, BOX_PIDS_MIN, BOX_PIDS_MAX, e) < 0 ||
        check_range("disk size", c->disk_bytes, BOX_DISK_MIN, BOX_BYTES_MAX, e) < 0 ||
        check_range("size of /dev/shm", c->shm_bytes, 4096, BOX_BYTES_MAX, e) < 0 ||
        check_range("cpu weight", c->cpu_weight, 1, 10000, e) < 0)
        return e->code;
    if (c->writable >= SP_W_COUNT)
        return INVALID(e, "there is no writable layer driver %u", c->writable);
    if (c->egress >= SP_E_COUNT)
        return INVALID(e, "there is no egress driver %u", c->egress);
    if ((c->flags & ~(uint32_t)(SP_BOX_READONLY_ROOT | SP_BOX_NO_NEW_PRIVS)) != 0)
        return INVALID(e, "unknown sandbox flags 0x%x", c->flags);
    if (c->pad != 0 || c->pad2 != 0)
        return INVALID(e, "reserved fields are not zero");
    return 0;
}

static int copy_layers(const struct wire_msg *m, struct wire_vec v, struct box_plan *p, struct err *e)
{
    bool bad = false;
    AUTO_FREE const char **layers = wire_get_vec(m, v, SP_LAYERS_MAX, &bad);

    if (bad || layers == NULL)
        return INVALID(e, "the list of layers is malformed or longer than %d", SP_LAYERS_MAX);
    for (; layers[p->layer_count] != NULL; p->layer_count++) {
        if (!digest_ok(layers[p->layer_count]))
            return INVALID(e, "layer %u is not named by a sha256 digest", p->layer_count + 1);
        memcpy(p->layers[p->layer_count], layers[p->layer_count], SP_DIGEST_LEN + 1);
    }
    if (p->layer_count == 0)
        return INVALID(e, "a sandbox needs at least one layer");
    for (unsigned i = 1; i < p->layer_count; i++) {
        for (unsigned k = 0; k < i; k++) {
            if (strcmp(p->layers[i], p->layers[k]) == 0)
                return INVALID(e, "layer %u is given twice", k + 1); /* overlayfs refuses it with ELOOP */
        }
    }
    return 0;
}

static int copy_dns(const struct wire_msg *m, struct wire_vec v, struct box_plan *p, struct err *e)
{
    bool bad = false;
    AUTO_FREE const char **dns = wire_get_vec(m, v, BOX_DNS_MAX, &bad);

    if (bad || dns == NULL)
        return INVALID(e, "the list of nameservers is malformed or longer than %d", BOX_DNS_MAX);
    for (; dns[p->dns_count] != NULL; p->dns_count++) {
        unsigned char addr[sizeof(struct in6_addr)];
        const char *s = dns[p->dns_count];

        if (strlen(s) >= BOX_DNS_LEN || (inet_pton(AF_INET, s, addr) != 1 && inet_pton(AF_INET6, s, addr) != 1))
            return INVALID(e, "nameserver %u is not a numeric address", p->dns_count + 1);
        memcpy(p->dns[p->dns_count], s, strlen(s) + 1);
    }
    return 0;
}

int validate_create(const struct wire_msg *m, struct box_plan *ret, struct err *e)
{
    const struct sp_create *c = m->body;
    const char *id, *hostname;
    bool bad = false;

    memset(ret, 0, sizeof *ret);
    if (m->nfds != 0)
        return INVALID(e, "a sandbox is made without descriptors");
    id = wire_get_str(m, c->id, &bad);
    hostname = wire_get_str(m, c->hostname, &bad);
    if (bad || id == NULL || !box_id_ok(id))
        return INVALID(e, "the sandbox id is not 1 to %d characters of a-z, 0-9 and '-'", SP_ID_MAX - 1);
    if (hostname == NULL)
        hostname = id;
    if (!hostname_ok(hostname))
        return INVALID(e, "the host name is not a valid one of at most %d characters", SP_HOSTNAME_MAX - 1);
    if (check_numbers(c, e) < 0 || copy_layers(m, c->layers, ret, e) < 0 || copy_dns(m, c->dns, ret, e) < 0)
        return e->code;

    memcpy(ret->id, id, strlen(id) + 1);
    memcpy(ret->hostname, hostname, strlen(hostname) + 1);
    ret->limits = (struct cg_limits){
        .memory_max = c->memory_max,
        .cpu_quota_us = c->cpu_quota_us,
        .cpu_period_us = c->cpu_period_us != 0 ? c->cpu_period_us : 100000,
        .pids_max = c->pids_max,
        .cpu_weight = c->cpu_weight != 0 ? c->cpu_weight : 100,
    };
    ret->disk_bytes = c->disk_bytes;
    ret->shm_bytes = c->shm_bytes != 0 ? c->shm_bytes : 64ull << 20;
    ret->writable = (enum sp_writable)c->writable;
    ret->egress = (enum sp_egress)c->egress;
    ret->flags = c->flags;
    return 0;
}

int validate_imager(const struct wire_msg *m, struct err *e)
{
    const struct sp_imager *im = m->body;
    struct stat st;

    if (im->op != SP_IM_LAYER)
        return INVALID(e, "the imager has no operation %u", im->op);
    if (im->pad != 0)
        return INVALID(e, "reserved fields are not zero");
    if (im->max_bytes == 0 || im->max_bytes > IMAGER_BYTES_MAX)
        return INVALID(e, "the size limit of a layer is outside 1..%llu bytes", IMAGER_BYTES_MAX);
    if (im->max_entries == 0 || im->max_entries > IMAGER_ENTRIES_MAX)
        return INVALID(e, "the entry limit of a layer is outside 1..%llu", IMAGER_ENTRIES_MAX);
    if (m->nfds != 1 || fstat(m->fds[0], &st) < 0 || !(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode)))
        return INVALID(e, "the imager needs exactly one input, a pipe or a regular file");
    return 0;
}

int validate_id(const struct wire_msg *m, char ret[SP_ID_MAX], struct err *e)
{
    struct wire_str s;
    const char *id;
    bool bad = false;

    memcpy(&s, m->body, sizeof s);
    id = wire_get_str(m, s, &bad);
    if (bad || id == NULL || !box_id_ok(id) || m->nfds != 0)
        return INVALID(e, "the sandbox id is not 1 to %d characters of a-z, 0-9 and '-'", SP_ID_MAX - 1);
    memcpy(ret, id, strlen(id) + 1);
    return 0;
}

int validate_digest(const struct wire_msg *m, char ret[SP_DIGEST_LEN + 1], struct err *e)
{
    const struct sp_layer_rm *rm = m->body;
    const char *digest;
    bool bad = false;

    digest = wire_get_str(m, rm->digest, &bad);
    if (bad || digest == NULL || !digest_ok(digest) || m->nfds != 0)
        return INVALID(e, "the layer is not named by a sha256 digest");
    memcpy(ret, digest, SP_DIGEST_LEN + 1);
    return 0;
}
