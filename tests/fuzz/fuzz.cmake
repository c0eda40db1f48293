# fuzz/*_fuzz.cpp: libFuzzer programs, 60 seconds each in the tests. For longer:
#   build/clang/tests/safetensors_fuzz -max_total_time=600 build/clang/tests/safetensors_corpus
file(GLOB sources CONFIGURE_DEPENDS fuzz/*_fuzz.cpp)
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang" OR SEMOE_SANITIZE)
    return()
endif()
foreach(source IN LISTS sources)
    cmake_path(GET source STEM name)
    string(REPLACE "_fuzz" "_corpus" corpus ${name})
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${corpus})
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE semoe_testing)
    target_compile_options(${name} PRIVATE
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer,address,undefined)
    add_test(NAME fuzz/${name} COMMAND ${name} -max_total_time=60 -print_final_stats=1 ${corpus})
    set_tests_properties(fuzz/${name} PROPERTIES LABELS "fuzz;slow" TIMEOUT 180 COST 60)
endforeach()
