/* A descriptor that does not begin with the magic number. */
#define BAD_NAME "wrong_magic"
#define BAD_MAGIC 0x12345678u
#include "bad.h"
