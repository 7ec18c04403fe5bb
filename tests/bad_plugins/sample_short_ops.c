/* The table says that it ends before the required slot dist. */
#define BAD_NAME "short_ops"
#define BAD_OPS_SIZE 16
#include "bad.h"
