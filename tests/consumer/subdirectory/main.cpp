#include <semoe/core/view.hpp>
#include <semoe/version.hpp>

int main() { return SEMOE_VERSION_MAJOR == 0 ? 0 : 1; }
