# The same tests, built by nvcc for CudaBackend: generated .cu files include them, three of a folder
# each, since nvcc spends most of its time on headers; so names of a folder's tests are unique in
# it. All of them make one program, which runs once for each order in which a software GPU may
# execute streams; a device takes the first and ignores the variable.

set(cuda_folders backend ops routing gate expert tier comm dispatch parallel layer)
set(cuda_orders eager lazy random:1)

if(NOT SEMOE_CUDA)
    add_test(NAME cuda COMMAND ${CMAKE_COMMAND} -E echo "skipped: CUDA is ${cuda_status}")
    set_tests_properties(cuda PROPERTIES LABELS cuda SKIP_REGULAR_EXPRESSION "^skipped: ")
    return()
endif()

# Tests that use the list of backends; the others say nothing new here.
set(units "")
foreach(folder IN LISTS cuda_folders)
    set(members "")
    foreach(file IN LISTS files)
        if(file MATCHES "^${folder}/")
            file(STRINGS ${file} uses REGEX "SEMOE_TEST_BACKENDS" LIMIT_COUNT 1)
            if(uses)
                list(APPEND members "#include \"${CMAKE_CURRENT_SOURCE_DIR}/${file}\"")
            endif()
        endif()
    endforeach()
    list(LENGTH members count)
    set(begin 0)
    while(begin LESS count)
        list(SUBLIST members ${begin} 3 some)
        list(JOIN some "\n" lines)
        set(unit ${CMAKE_CURRENT_BINARY_DIR}/cuda/${folder}_${begin}.cu)
        file(CONFIGURE OUTPUT ${unit} CONTENT "${lines}\n")
        list(APPEND units ${unit})
        math(EXPR begin "${begin} + 3")
    endwhile()
endforeach()
if(NOT units)
    return()
endif()

add_executable(cuda_tests EXCLUDE_FROM_ALL ${units})
set_target_properties(cuda_tests PROPERTIES UNITY_BUILD OFF) # they are grouped already
target_compile_options(cuda_tests PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -Werror=all-warnings>)
if(SEMOE_CUDA_TEST_LAUNCHER AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    # Small shapes on a software GPU: optimising kernels takes longer than running them.
    target_compile_options(cuda_tests PRIVATE
        "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:--Ofast-compile mid>")
endif()
target_link_libraries(cuda_tests PRIVATE semoe_testing semoe_kernels semoe_test_main semoe::cuda)

list(GET cuda_orders 0 first_order)
if(NOT SEMOE_CUDA_TEST_LAUNCHER)
    set(cuda_orders ${first_order})
endif()
foreach(order IN LISTS cuda_orders)
    add_test(NAME cuda/${order} COMMAND ${SEMOE_CUDA_TEST_LAUNCHER} $<TARGET_FILE:cuda_tests>)
    set_tests_properties(cuda/${order} PROPERTIES LABELS cuda TIMEOUT 300
        ENVIRONMENT SOFTGPU_SCHEDULE=${order})
endforeach()
if(SEMOE_CUDA_TEST_LAUNCHER) # more orders, of a step that uses all the queues there are
    foreach(seed RANGE 2 10)
        add_test(NAME cuda/step/random:${seed} COMMAND ${SEMOE_CUDA_TEST_LAUNCHER}
            $<TARGET_FILE:cuda_tests> "-tc=*a step through one or two slots*")
        set_tests_properties(cuda/step/random:${seed} PROPERTIES LABELS cuda TIMEOUT 300
            FAIL_REGULAR_EXPRESSION "test cases: +0 " ENVIRONMENT SOFTGPU_SCHEDULE=random:${seed})
    endforeach()
endif()
