/* A plugin of another kind than the file name promises. */
#define BAD_NAME "wrong_kind"
#define BAD_KIND PICO_KIND_DECODER
#include "bad.h"
