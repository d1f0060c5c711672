/* The main process of a sandbox in which nothing happens. PID 1 sends it TERM at the end. */
#include <unistd.h>

int main(void)
{
    for (;;)
        (void)pause(); /* returns only for a signal that is handled: there is none */
}
