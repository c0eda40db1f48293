# cmake -P cmake/demo.cmake   sets up, builds examples/train_lm, trains for a minute on the sources
#                             and documents of this repository, and prints a sample.

set(needs build)
include(${CMAKE_CURRENT_LIST_DIR}/setup.cmake)
set(build ${root}/build/demo)
# A folder that another compiler was configured for would lose these variables.
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${CMAKE_COMMAND} --fresh -S ${root} -B ${build}
    -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=${GXX} -DSEMOE_BUILD_TESTS=OFF
    -DSEMOE_BUILD_BENCH=OFF -DSEMOE_ENABLE_CUDA=OFF)
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${CMAKE_COMMAND} --build ${build}
    --target train_lm --parallel ${cores})

# A run never overwrites another.
set(run 1)
while(EXISTS ${root}/runs/demo-${run})
    math(EXPR run "${run} + 1")
endwhile()
set(train ${build}/examples/train_lm)
execute_process(COMMAND_ERROR_IS_FATAL ANY WORKING_DIRECTORY ${root}
    COMMAND ${train} --seconds 60 --out ${root}/runs/demo-${run})

cmake_path(RELATIVE_PATH train BASE_DIRECTORY ${root})
message("\nTo train for ten minutes more:\n    ${train} --resume runs/demo-${run} --seconds 600\n"
    "On a text of your own:\n    ${train} --text FILE --seconds 600 --out runs/mine")
