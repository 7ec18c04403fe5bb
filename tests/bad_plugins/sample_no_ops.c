/* There is no table of functions. */
#define BAD_NAME "no_ops"
#define BAD_OPS NULL
#include "bad.h"
