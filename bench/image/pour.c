/* Writes argv[1] MiB to standard output. */
#include <stdlib.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

int main(int argc, char **argv)
{
    static char piece[PIECE];
    long n = argc > 1 ? atol(argv[1]) : 1;

    for (; n > 0; n--) {
        size_t done = 0;

        while (done < sizeof piece) {
            ssize_t w = write(STDOUT_FILENO, piece + done, sizeof piece - done);

            if (w <= 0)
                return 1;
            done += (size_t)w;
        }
    }
    return 0;
}
