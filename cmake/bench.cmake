# cmake -P cmake/bench.cmake                sets up, builds the benchmarks and times whole layers: a
#                                           quarter of an hour. Prints a table and writes
#                                           build/bench/bench.json and build/bench/roofline.svg.
# cmake -DQUICK=ON -P cmake/bench.cmake     fewer rows, fewer repetitions: two minutes.
# -DRECORD=ON     writes the results into this machine's column of bench/README.md: of 2 threads.
# -DFILTER=REGEX  only rows whose name matches, such as "OLMoE/bf16/.*/forward/".
# -DTHREADS=N     2 if not given.
# Options may also follow the file's name.

foreach(i RANGE ${CMAKE_ARGC})
    if("${CMAKE_ARGV${i}}" MATCHES "^-D(QUICK|RECORD|FILTER|THREADS)=(.*)$")
        set(${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
    endif()
endforeach()

set(needs build bench)
include(${CMAKE_CURRENT_LIST_DIR}/setup.cmake)
macro(run)
    execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${root} COMMAND_ERROR_IS_FATAL ANY)
endmacro()
# A folder that another compiler was configured for would lose the preset's variables.
run(${CMAKE_COMMAND} --fresh --preset bench -DCMAKE_CXX_COMPILER=${GXX} -DSEMOE_BUILD_EXAMPLES=OFF)
run(${CMAKE_COMMAND} --build --preset bench --target bench_layer_layer_bench --parallel ${cores})

set(options --svg=build/bench/roofline.svg --benchmark_out=build/bench/bench.json
    --benchmark_out_format=json)
if(QUICK)
    list(APPEND options --quick)
endif()
if(RECORD)
    list(APPEND options --record=bench/README.md)
endif()
if(THREADS)
    list(APPEND options --threads=${THREADS})
endif()
if(FILTER)
    list(APPEND options --benchmark_filter=${FILTER})
endif()
message("")
run(build/bench/bench/bench_layer_layer_bench ${options})
message("\nbuild/bench/bench.json  build/bench/roofline.svg")
