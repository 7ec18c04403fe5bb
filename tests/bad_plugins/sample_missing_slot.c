/* The required slot dist is missing. */
#define BAD_NAME "missing_slot"
#define BAD_DIST NULL
#include "bad.h"
