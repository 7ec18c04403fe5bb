/* create says that it succeeded, and gives no instance. */
#define BAD_NAME "null_self"
#include "bad.h"
