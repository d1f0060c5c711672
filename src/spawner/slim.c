/* A small spawner clones fast.
 *
 * Every clone copies the spawner's page tables, and every exec that follows takes the copy down again: half a millisecond of a
 * sandbox's two when nothing is done about it. Two things are: what start-up has left on the heap (nftables reads its rules with
 * a parser) goes back to the kernel, and libraries that no child calls are left out of the copies. */
#include <link.h>
#include <malloc.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/spawner.h"

/* Needed at start, by the parent, or by other libraries of this list only. A child, also one that goes on without exec
 * (keeper.c, egress-maker.c), dies when it calls them. */
static const char *const parents_only[] = {
    "libnftables.so", "libnftnl.so", "libgmp.so", "libjansson.so", "libxtables.so", "libedit.so", "libbsd.so",
    "libmd.so",       "libtinfo.so", "libcap.so", "libseccomp.so", "libnss_",       "libm.so"};

static bool is_parents_only(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;

    for (size_t i = 0; i < ARRAY_LEN(parents_only); i++)
        if (strncmp(name, parents_only[i], strlen(parents_only[i])) == 0)
            return true;
    return false;
}

static int leave_out(struct dl_phdr_info *lib, size_t size, void *arg)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;

    (void)size;
    (void)arg;
    if (!is_parents_only(lib->dlpi_name))
        return 0;
    for (unsigned i = 0; i < lib->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &lib->dlpi_phdr[i];
        uintptr_t from = (lib->dlpi_addr + p->p_vaddr) & ~page,
                  to = (lib->dlpi_addr + p->p_vaddr + p->p_memsz + page) & ~page;

        if (p->p_type == PT_LOAD)
            (void)madvise((void *)from, to - from, MADV_DONTFORK); /* refused: clones are slower */
    }
    return 0;
}

void spawner_slim(void)
{
    (void)malloc_trim(0);
    (void)dl_iterate_phdr(leave_out, NULL);
}
