# What train_lm promises: a resumed run is the uninterrupted one byte for byte, no run is
# overwritten, ctrl-C saves and ends well, bad flags and texts are refused by name.
#   cmake -DTRAIN=train_lm -DOUT=folder -P test.cmake

file(REMOVE_RECURSE ${OUT})
file(MAKE_DIRECTORY ${OUT})
set(line "The quick brown fox jumps over the lazy dog; what it learns, it learns by heart.\n")
string(REPEAT "${line}" 300 text)
file(WRITE ${OUT}/text "${text}")
file(WRITE ${OUT}/other "${text}!")
file(WRITE ${OUT}/short "too short")

# train(expected result, pattern in the output, arguments...)
function(train expected pattern)
    execute_process(COMMAND ${TRAIN} --quiet --threads 2 ${ARGN}
        RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
    if(NOT result STREQUAL expected OR NOT "${output}${errors}" MATCHES "${pattern}")
        message(FATAL_ERROR "train_lm ${ARGN}\nended with ${result}, not ${expected} and "
            "\"${pattern}\":\n${output}${errors}")
    endif()
endfunction()

train(0 "val loss [0-9.]+ nats/byte" --text ${OUT}/text --steps 4 --every 2 --out ${OUT}/whole)
train(0 "checkpoint .*step-2" --text ${OUT}/text --steps 2 --out ${OUT}/parts)
train(0 "checkpoint .*step-4" --text ${OUT}/text --steps 4 --resume ${OUT}/parts)
file(SHA256 ${OUT}/whole/step-4.safetensors whole)
file(SHA256 ${OUT}/parts/step-4.safetensors parts)
if(NOT whole STREQUAL parts)
    message(FATAL_ERROR "the resumed run differs from the uninterrupted one")
endif()

train(1 "holds a run already" --text ${OUT}/text --steps 1 --out ${OUT}/whole)
train(1 "text is [0-9]+, this model has" --text ${OUT}/other --steps 9 --resume ${OUT}/whole)
train(1 "no checkpoint in" --text ${OUT}/text --resume ${OUT}/nothing)
train(1 "the text has 9 bytes" --text ${OUT}/short --steps 1 --out ${OUT}/none)
train(1 "cannot read" --text ${OUT}/missing --steps 1 --out ${OUT}/none)
train(2 "unknown flag --step" --step 1)
train(2 "--steps: 'many' is no number" --steps many)

# Ctrl-C: timeout sends the signal.
find_program(TIMEOUT timeout)
if(TIMEOUT)
    execute_process(COMMAND ${TIMEOUT} --preserve-status -s INT 2 ${TRAIN} --quiet --threads 2
        --text ${OUT}/text --seconds 300 --out ${OUT}/interrupted
        RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(NOT result STREQUAL "0" OR NOT output MATCHES "checkpoint .*step-[0-9]+.safetensors")
        message(FATAL_ERROR "after ctrl-C: ${result}\n${output}")
    endif()
endif()
file(REMOVE_RECURSE ${OUT})
