# cmake -P cmake/test.cmake             sets up, builds with one compiler, runs every test once.
# cmake -DFULL=ON -P cmake/test.cmake   adds those of kernels again under older instruction sets,
#                                       sanitizers, the second compiler, clang-tidy, every header
#                                       alone, fuzzing, 64-bit ARM under an emulator, and CUDA where
#                                       it can run.
# The environment's SEMOE_CUDA_TEST_LAUNCHER="softgpu-run;--" runs CUDA programs without a GPU.
# -DFULL=ON may also follow the file's name.

foreach(i RANGE ${CMAKE_ARGC})
    if("${CMAKE_ARGV${i}}" MATCHES "^-DFULL=(.*)$")
        set(FULL "${CMAKE_MATCH_1}")
    endif()
endforeach()

set(needs build tests)
if(FULL)
    list(APPEND needs full)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/setup.cmake)

set(total 0)
set(failed 0)
set(skipped 0)
set(report "")
string(TIMESTAMP started "%s")

# run(what command...): one command, its time in the report; `output` and `result` are left behind.
macro(run what)
    message(STATUS "${what}")
    string(TIMESTAMP begin "%s")
    execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${root} RESULT_VARIABLE result
        OUTPUT_VARIABLE output ECHO_OUTPUT_VARIABLE)
    string(TIMESTAMP end "%s")
    math(EXPR seconds "${end} - ${begin}")
    string(APPEND report "  ${seconds} s  ${what}: ")
endmacro()

# Configures, builds and tests one preset; what follows the name are arguments of configuration.
# A folder that another compiler was configured for would lose the preset's variables.
macro(stage preset)
    run("${preset}: configure" ${CMAKE_COMMAND} --fresh --preset ${preset} ${ARGN})
    finish_step()
    if(result STREQUAL "0")
        # A build is content without either, but then lacks tests.
        foreach(part IN ITEMS doctest nlohmann-json)
            if(NOT output MATCHES "semoe [a-z]+: ${part}")
                message(FATAL_ERROR "semoe: tests are missing, since CMake finds no ${part}")
            endif()
        endforeach()
        run("${preset}: build" ${CMAKE_COMMAND} --build --preset ${preset} --parallel ${cores})
        finish_step()
    endif()
    if(result STREQUAL "0")
        run("${preset}: test" ${CMAKE_CTEST_COMMAND} --preset ${preset} --parallel ${cores}
            ${test_options})
        count_tests()
    endif()
endmacro()
# A step that is not a list of tests counts as one test when it fails.
macro(finish_step)
    if(result STREQUAL "0")
        string(APPEND report "done\n")
    else()
        math(EXPR failed "${failed} + 1")
        math(EXPR total "${total} + 1")
        string(APPEND report "FAILED\n")
    endif()
endmacro()
macro(count_tests)
    if(output MATCHES "tests passed, ([0-9]+) tests failed out of ([0-9]+)")
        set(stage_failed ${CMAKE_MATCH_1})
        set(stage_total ${CMAKE_MATCH_2})
        string(REGEX MATCHALL "\\*\\*\\*Skipped" skips "${output}")
        list(LENGTH skips stage_skipped)
        math(EXPR failed "${failed} + ${stage_failed}")
        math(EXPR total "${total} + ${stage_total}")
        math(EXPR skipped "${skipped} + ${stage_skipped}")
        string(APPEND report "${stage_failed} of ${stage_total} failed\n")
    else()
        finish_step()
    endif()
endmacro()

set(test_options "")
if(NOT FULL)
    set(test_options --label-exclude slow)
endif()
stage(release -DCMAKE_CXX_COMPILER=${GXX})
set(test_options "")
if(FULL)
    # The second compiler builds everything once, with sanitizers, and with optimisation what its
    # optimiser can get wrong: kernels, and what they are made of.
    stage(dev -DCMAKE_CXX_COMPILER=${CLANGXX})
    stage(tsan -DCMAKE_CXX_COMPILER=${CLANGXX})
    stage(clang -DCMAKE_CXX_COMPILER=${CLANGXX} -DSEMOE_BUILD_EXAMPLES=OFF
        "-DSEMOE_TEST_FILES=^(core|backend|ops|expert|optim)/|^layer/moe_layer_(parity|types)_test")

    if(NOT processor STREQUAL "x86_64")
        string(APPEND report "  neon: skipped, this is ${processor} and no emulator is needed\n")
    elseif(wished)
        list(JOIN wished " and " absent)
        string(APPEND report "  neon: skipped, no ${absent}\n")
    else()
        stage(neon)
    endif()

    find_program(NVCC nvcc PATHS /usr/local/cuda/bin NO_CACHE)
    file(GLOB device /dev/nvidia[0-9]*)
    if(NOT NVCC)
        string(APPEND report "  cuda: skipped, no nvcc\n")
    elseif(NOT device AND NOT DEFINED ENV{SEMOE_CUDA_TEST_LAUNCHER})
        string(APPEND report "  cuda: skipped, no device and no SEMOE_CUDA_TEST_LAUNCHER\n")
    else()
        stage(cuda)
    endif()
endif()

string(TIMESTAMP ended "%s")
math(EXPR seconds "${ended} - ${started}")
math(EXPR passed "${total} - ${failed} - ${skipped}")
message("\n${report}\nsemoe: ${passed} passed, ${failed} failed, ${skipped} skipped, ${seconds} s")
if(failed)
    message(FATAL_ERROR "semoe: tests failed")
endif()
