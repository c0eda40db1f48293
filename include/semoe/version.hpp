#pragma once

/// Semantic version; CMake reads these three lines.
#define SEMOE_VERSION_MAJOR 0
#define SEMOE_VERSION_MINOR 1
#define SEMOE_VERSION_PATCH 0
