# What only those need who build semoe itself: its tests, examples and benchmarks.
# Every one of their targets links semoe_development.

if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
    find_program(CCACHE ccache)
    if(CCACHE)
        set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
    endif()
endif()

set(warnings -Wall -Wextra -Wconversion -Wshadow -Wpedantic)
if(SEMOE_WERROR)
    list(APPEND warnings -Werror)
endif()
add_library(semoe_development INTERFACE)
target_link_libraries(semoe_development INTERFACE
    semoe::semoe $<TARGET_NAME_IF_EXISTS:semoe::checkpoint> $<TARGET_NAME_IF_EXISTS:semoe::uring>)
target_compile_options(semoe_development INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>)
if(SEMOE_SANITIZE)
    list(JOIN SEMOE_SANITIZE "," sanitizers)
    set(sanitize -fsanitize=${sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_compile_options(semoe_development INTERFACE ${sanitize})
    target_link_options(semoe_development INTERFACE ${sanitize})
endif()

# Tests and examples link semoe::kernels, with the flags above.
target_link_libraries(semoe_kernels PUBLIC semoe_development)
target_compile_options(semoe_kernels PRIVATE $<$<CONFIG:Debug>:-O1>) # every test calls them

# CUDA is built where its programs can run: with a launcher, or where there is a device.
find_program(NVCC nvcc PATHS /usr/local/cuda/bin)
file(GLOB cuda_devices /dev/nvidia[0-9]*)
set(SEMOE_CUDA OFF)
if(SEMOE_ENABLE_CUDA STREQUAL "OFF")
    set(cuda_status "off")
elseif(NOT NVCC)
    set(cuda_status "off: no nvcc")
elseif(SEMOE_ENABLE_CUDA STREQUAL "AUTO" AND NOT SEMOE_CUDA_TEST_LAUNCHER AND NOT cuda_devices)
    set(cuda_status "off: no device and no SEMOE_CUDA_TEST_LAUNCHER")
else()
    set(SEMOE_CUDA ON)
    set(CMAKE_CUDA_COMPILER ${NVCC})
    set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES 80-virtual) # PTX: the device's driver compiles the rest
    endif()
    enable_language(CUDA)
    set(cuda_status "nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
endif()

set(checkpoint_status "off: no nlohmann-json")
if(TARGET semoe::checkpoint)
    set(checkpoint_status "nlohmann-json ${nlohmann_json_VERSION}")
endif()
message(STATUS "semoe ${PROJECT_VERSION}, ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
message(STATUS "semoe checkpoint: ${checkpoint_status}")
set(uring_status "off")
if(TARGET semoe::uring)
    set(uring_status "liburing")
elseif(SEMOE_ENABLE_LIBURING)
    set(uring_status "off: no liburing")
endif()
message(STATUS "semoe io_uring: ${uring_status}")
message(STATUS "semoe CUDA: ${cuda_status}")
