/* A name that cannot be written in an INI file. */
#define BAD_NAME "Bad Name"
#include "bad.h"
