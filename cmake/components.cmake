# The parts of semoe that are targets of their own: those named in semoe_FIND_COMPONENTS. Used by
# this build and, installed, by find_package(semoe COMPONENTS ...). A component whose need is not
# met gets no target, and semoe_<component>_FOUND is false.

# What semoe/kernels.hpp compiles, once for all targets that link it, with their project's flags.
if("kernels" IN_LIST semoe_FIND_COMPONENTS)
    set(semoe_kernels_FOUND TRUE)
    if(NOT TARGET semoe::kernels)
        file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/semoe_kernels.cpp
            CONTENT "#include <semoe/kernels.hpp>\n")
        add_library(semoe_kernels STATIC EXCLUDE_FROM_ALL
            ${CMAKE_CURRENT_BINARY_DIR}/semoe_kernels.cpp)
        add_library(semoe::kernels ALIAS semoe_kernels)
        target_link_libraries(semoe_kernels PUBLIC semoe::semoe)
        target_compile_definitions(semoe_kernels PUBLIC SEMOE_EXTERN_KERNELS)
        # Shared libraries link it, too.
        set_target_properties(semoe_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)
    endif()
endif()

if("checkpoint" IN_LIST semoe_FIND_COMPONENTS)
    if(NOT TARGET nlohmann_json::nlohmann_json) # else the project has made it from sources
        find_package(nlohmann_json 3.9 QUIET GLOBAL)
    endif()
    set(semoe_checkpoint_FOUND FALSE)
    if(TARGET nlohmann_json::nlohmann_json)
        set(semoe_checkpoint_FOUND TRUE)
    endif()
    set(semoe_checkpoint_needs "nlohmann-json 3.9 (Debian, Ubuntu: nlohmann-json3-dev)")
    if(semoe_checkpoint_FOUND AND NOT TARGET semoe::checkpoint)
        add_library(semoe::checkpoint INTERFACE IMPORTED GLOBAL)
        target_link_libraries(semoe::checkpoint INTERFACE semoe::semoe nlohmann_json::nlohmann_json)
    endif()
endif()

if("cuda" IN_LIST semoe_FIND_COMPONENTS)
    find_package(CUDAToolkit QUIET GLOBAL)
    set(semoe_cuda_FOUND ${CUDAToolkit_FOUND})
    set(semoe_cuda_needs "the CUDA Toolkit")
    if(semoe_cuda_FOUND AND NOT TARGET semoe::cuda)
        add_library(semoe::cuda INTERFACE IMPORTED GLOBAL)
        target_link_libraries(semoe::cuda INTERFACE semoe::semoe CUDA::cudart)
    endif()
endif()

if("uring" IN_LIST semoe_FIND_COMPONENTS)
    list(PREPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR}) # Findliburing.cmake
    find_package(liburing QUIET)
    list(POP_FRONT CMAKE_MODULE_PATH)
    set(semoe_uring_FOUND ${liburing_FOUND})
    set(semoe_uring_needs "liburing (Debian, Ubuntu: liburing-dev)")
    if(semoe_uring_FOUND AND NOT TARGET semoe::uring)
        add_library(semoe::uring INTERFACE IMPORTED GLOBAL)
        target_link_libraries(semoe::uring INTERFACE semoe::semoe liburing::liburing)
        target_compile_definitions(semoe::uring INTERFACE SEMOE_LIBURING=1)
    endif()
endif()
