# What serve_layers promises: any tier and any memory gives the bits of all weights in memory, bad
# flags and memories are refused by name.
#   cmake -DSERVE=serve_layers -DOUT=folder -P test.cmake

file(REMOVE_RECURSE ${OUT})
file(MAKE_DIRECTORY ${OUT})
set(model --file ${OUT}/model --layers 3 --hidden 64 --intermediate 32 --experts 12 --top-k 3)

# serve(expected result, pattern in the output, arguments...)
function(serve expected pattern)
    execute_process(COMMAND ${SERVE} --quiet --threads 2 ${ARGN}
        RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
    if(NOT result STREQUAL expected OR NOT "${output}${errors}" MATCHES "${pattern}")
        message(FATAL_ERROR "serve_layers ${ARGN}\nended with ${result}, not ${expected} and "
            "\"${pattern}\":\n${output}${errors}")
    endif()
endfunction()

foreach(tier cached lfu ring)
    foreach(routing gate uniform zipf)
        serve(0 "the same, to the bit" ${model} --memory 200kB --tier ${tier} --routing ${routing}
            --prompt 5 --tokens 7 --check)
    endforeach()
endforeach()
serve(0 "the same, to the bit" ${model} --memory 200kB --routing uniform --prompt 5 --prompts 3
    --tokens 2 --check)
# A file that could not be written whole is written again.
set(late ${model})
list(TRANSFORM late REPLACE "/model$" "/late")
serve(1 "bytes is [0-9]+; the blocks declared so far need at least" ${late} --memory 1kB)
serve(0 "the same, to the bit" ${late} --memory 200kB --tokens 2 --check)
serve(0 "the same, to the bit" ${model} --memory 1GiB --no-predict --check --trace ${OUT}/trace)
file(READ ${OUT}/trace trace)
foreach(row compute storage acquire)
    if(NOT trace MATCHES "\"name\":\"${row}\"")
        message(FATAL_ERROR "the timeline has no row ${row}")
    endif()
endforeach()
serve(1 "bytes is [0-9]+; the blocks declared so far need at least" ${model} --memory 20kB)
serve(1 "activations alone take" ${model} --memory 1kB)
serve(1 "is declared with" ${model} --hidden 32 --memory 1MB)
serve(2 "--memory: '1 apple' is no size" --memory "1 apple")
serve(2 "--tier: 'heap' is none of" --tier heap)
serve(2 "unknown flag --memories" --memories 1)
file(REMOVE_RECURSE ${OUT})
