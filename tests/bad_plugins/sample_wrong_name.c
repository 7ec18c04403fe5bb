/* A plugin with another name than the file name promises. */
#define BAD_NAME "other"
#include "bad.h"
