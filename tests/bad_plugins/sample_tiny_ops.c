/* The table of functions does not say its size. */
#define BAD_NAME "tiny_ops"
#define BAD_OPS_SIZE 0
#include "bad.h"
