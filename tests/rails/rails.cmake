# Tests of the sources themselves. Those that are programs lie beside this file; these run tools.

set(source_root ${PROJECT_SOURCE_DIR})
set(compile ${CMAKE_CXX_COMPILER} -std=c++20 -I${source_root}/include -I${source_root}/tests)

# Every header compiles alone: one command a folder.
file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${source_root}/include
    ${source_root}/include/semoe/*.hpp)
set(header_folders ${headers})
list(TRANSFORM header_folders REPLACE "semoe/([^/]*)/.*" "\\1")
list(TRANSFORM header_folders REPLACE ".*/.*" umbrella)
list(REMOVE_DUPLICATES header_folders)
set(compile_headers ${compile} -Wall -Wextra -Wconversion -Wshadow -Wpedantic -Werror -fsyntax-only)
foreach(folder IN LISTS header_folders)
    add_test(NAME rails/headers/${folder} COMMAND ${CMAKE_COMMAND} -DFOLDER=${folder}
        -DINCLUDE=${source_root}/include -DOUT=${CMAKE_CURRENT_BINARY_DIR}/headers
        "-DCOMPILE=${compile_headers}" -P ${CMAKE_CURRENT_SOURCE_DIR}/rails/headers.cmake)
    set_tests_properties(rails/headers/${folder} PROPERTIES LABELS "rail;slow" TIMEOUT 600
        COST 60)
endforeach()

# misuse/*.cpp: each CASE_name section must not compile, and the compiler must print the sentence
# of the comment that follows. Without a case the file must compile.
# What they include is parsed once.
set(umbrella ${CMAKE_CURRENT_BINARY_DIR}/misuse/umbrella.hpp)
file(CONFIGURE OUTPUT ${umbrella} CONTENT "#include <semoe/semoe.hpp>\n")
set(compile_misuse ${compile} -Wall -Werror)
add_test(NAME misuse/parse COMMAND ${compile_misuse} -x c++-header ${umbrella} -o ${umbrella}.gch)
set_tests_properties(misuse/parse PROPERTIES FIXTURES_SETUP misuse LABELS "rail;misuse" TIMEOUT 120)
file(GLOB sources CONFIGURE_DEPENDS misuse/*.cpp)
foreach(source IN LISTS sources)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    cmake_path(GET source STEM stem)
    set(command ${compile_misuse} -include ${umbrella} -fsyntax-only ${source})
    add_test(NAME misuse/${stem} COMMAND ${command})
    set_tests_properties(misuse/${stem} PROPERTIES FIXTURES_REQUIRED misuse LABELS "rail;misuse"
        TIMEOUT 120)

    file(STRINGS ${source} lines REGEX "defined\\(CASE_|^ *// must print: |^ *// with: ")
    set(case "")
    set(flags "")
    foreach(line IN LISTS lines)
        if(line MATCHES "defined\\(CASE_([a-z0-9_]+)\\)")
            set(case ${CMAKE_MATCH_1})
            set(flags "")
        elseif(line MATCHES "^ *// with: (.*)")
            separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_1}")
        elseif(line MATCHES "^ *// must print: (.*)")
            string(REGEX REPLACE "([][+.*()^$?|\\\\])" "\\\\\\1" sentence "${CMAKE_MATCH_1}")
            add_test(NAME misuse/${stem}/${case} COMMAND ${command} -DCASE_${case} ${flags})
            set_tests_properties(misuse/${stem}/${case} PROPERTIES FIXTURES_REQUIRED misuse
                LABELS "rail;misuse" TIMEOUT 120
                PASS_REGULAR_EXPRESSION "error: [^\n]*${sentence}")
        endif()
    endforeach()
endforeach()

# Two translation units that include everything, built for different processors, make one program.
if("odr/main.cpp" MATCHES "${SEMOE_TEST_FILES}" AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    add_executable(odr_tests odr/main.cpp odr/baseline.cpp odr/avx2.cpp)
    target_link_libraries(odr_tests PRIVATE semoe_testing)
    set_source_files_properties(odr/baseline.cpp PROPERTIES COMPILE_OPTIONS -march=x86-64)
    set_source_files_properties(odr/avx2.cpp PROPERTIES COMPILE_OPTIONS -march=x86-64-v3)
    add_test(NAME odr COMMAND odr_tests)
    set_tests_properties(odr PROPERTIES LABELS odr TIMEOUT 60 SKIP_RETURN_CODE 77)
endif()

# A project of six lines, built from the installed tree; one with the kernels in a library of their
# own; one that adds this as a subdirectory.
function(add_consumer name folder)
    add_test(NAME consumer/${name} COMMAND ${CMAKE_CTEST_COMMAND}
        --build-and-test ${CMAKE_CURRENT_SOURCE_DIR}/${folder}
            ${CMAKE_CURRENT_BINARY_DIR}/consumer/${name}
        --build-generator ${CMAKE_GENERATOR}
        --build-options -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} ${ARGN}
        --test-command consumer)
    set_tests_properties(consumer/${name} PROPERTIES LABELS rail TIMEOUT 300)
endfunction()
add_consumer(subdirectory consumer/subdirectory)
if(SEMOE_INSTALL)
    set(prefix ${CMAKE_CURRENT_BINARY_DIR}/consumer/prefix)
    add_test(NAME consumer/install COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR}
        --prefix ${prefix})
    set_tests_properties(consumer/install PROPERTIES FIXTURES_SETUP installed LABELS rail)
    add_consumer(installed consumer -DCMAKE_PREFIX_PATH=${prefix})
    add_consumer(kernels consumer/kernels -DCMAKE_PREFIX_PATH=${prefix})
    set_tests_properties(consumer/installed consumer/kernels PROPERTIES FIXTURES_REQUIRED installed)
endif()

# The formatter and the linter, in the version that the sources were written with.
function(find_llvm_14 variable name)
    find_program(${variable} NAMES ${name}-14 ${name})
    set(version "")
    if(${variable})
        execute_process(COMMAND ${${variable}} --version OUTPUT_VARIABLE version)
    endif()
    if(NOT version MATCHES "version 14\\.")
        set(${variable} ${CMAKE_COMMAND} -E echo "skipped: no ${name} 14;" PARENT_SCOPE)
    endif()
endfunction()

file(GLOB_RECURSE code CONFIGURE_DEPENDS ${source_root}/include/*.hpp ${source_root}/include/*.cuh
    ${source_root}/tests/*.[ch]pp ${source_root}/examples/*.[ch]pp ${source_root}/bench/*.[ch]pp)
find_llvm_14(CLANG_FORMAT clang-format)
add_test(NAME rails/format COMMAND ${CLANG_FORMAT} --dry-run --Werror ${code})
set_tests_properties(rails/format PROPERTIES LABELS rail SKIP_REGULAR_EXPRESSION "^skipped: ")

# Templates are read as they are written in one unit, and as they are instantiated in the other.
set(unit ${CMAKE_CURRENT_BINARY_DIR}/headers/everything.cpp)
list(TRANSFORM headers REPLACE "(.+)" "#include \"\\1\"" OUTPUT_VARIABLE everything)
list(JOIN everything "\n" everything)
file(CONFIGURE OUTPUT ${unit} CONTENT "${everything}\n")
find_llvm_14(CLANG_TIDY clang-tidy)
foreach(source IN ITEMS ${unit} ${CMAKE_CURRENT_SOURCE_DIR}/rails/one_layer.cpp)
    cmake_path(GET source STEM name)
    add_test(NAME rails/tidy/${name} COMMAND ${CLANG_TIDY} --quiet
        --config-file=${source_root}/.clang-tidy ${source} -- -std=c++20 -I${source_root}/include)
    set_tests_properties(rails/tidy/${name} PROPERTIES LABELS "rail;slow" TIMEOUT 600
        SKIP_REGULAR_EXPRESSION "^skipped: ")
endforeach()
