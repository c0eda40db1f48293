#if !defined(SEMOE_EXTERN_KERNELS)
#error "semoe::kernels does not say that kernels are compiled elsewhere"
#endif
#include "../main.cpp"
