#include "CForest.h"
