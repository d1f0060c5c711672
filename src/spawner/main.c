/* silicad: what a person starts. It becomes the spawner, which starts the rest. */
#include <stdio.h>

#include "spawner/spawner.h"

int main(int argc, char *argv[])
{
    struct options opt;
    struct err e = {0};

    if (options_parse(&opt, argc, argv, &e) < 0) {
        (void)fprintf(stderr, "silicad: %s\n", e.msg);
        return 2;
    }
    if (opt.help) {
        options_help();
        return 0;
    }
    if (opt.version) {
        (void)printf("silicad %s\n", SILICA_VERSION);
        return 0;
    }
    log_init("silica-spawner", opt.log_level);
    return supervisor_run(&opt, argv);
}
