/* Built for another major version of the ABI. */
#define BAD_NAME "wrong_major"
#define BAD_MAJOR 7u
#include "bad.h"
