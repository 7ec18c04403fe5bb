/* The query gives no plugin at all. */
#define BAD_NAME "empty"
#define BAD_COUNT 0
#include "bad.h"
