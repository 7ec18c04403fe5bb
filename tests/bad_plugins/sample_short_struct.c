/* A descriptor that ends before its required fields. */
#define BAD_NAME "short_struct"
#define BAD_STRUCT_SIZE 32
#include "bad.h"
