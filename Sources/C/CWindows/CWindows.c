#include "CWindows.h"
