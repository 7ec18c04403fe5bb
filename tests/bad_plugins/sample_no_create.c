/* create is NULL. */
#define BAD_NAME "no_create"
#define BAD_CREATE NULL
#include "bad.h"
