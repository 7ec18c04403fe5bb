/* Needs a minor version of the ABI that this host does not have. */
#define BAD_NAME "newer_minor"
#define BAD_MINOR 99u
#include "bad.h"
