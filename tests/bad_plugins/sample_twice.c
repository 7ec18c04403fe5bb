/* The query gives two plugins of the same kind and name. */
#define BAD_NAME "twice"
#define BAD_COUNT 2
#include "bad.h"
