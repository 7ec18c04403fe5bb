/* A kind that does not exist. */
#define BAD_NAME "unknown_kind"
#define BAD_KIND 77u
#include "bad.h"
