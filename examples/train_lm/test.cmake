# What train_lm promises: a resumed run is the uninterrupted one byte for byte, and so is one with
# blocks on disk, killed or not; no run is overwritten, ctrl-C saves and ends well, bad flags and
# texts are refused by name.
#   cmake -DTRAIN=train_lm -DOUT=folder -P test.cmake

file(REMOVE_RECURSE ${OUT})
file(MAKE_DIRECTORY ${OUT})
set(line "The quick brown fox jumps over the lazy dog; what it learns, it learns by heart.\n")
string(REPEAT "${line}" 300 text)
file(WRITE ${OUT}/text "${text}")
file(WRITE ${OUT}/other "${text}!")
file(WRITE ${OUT}/short "too short")

find_program(TIMEOUT timeout)

# train(expected result, pattern in the output, arguments...)
function(train expected pattern)
    execute_process(COMMAND ${TRAIN} --quiet --threads 2 --sample 8 ${ARGN}
        RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
    if(NOT result STREQUAL expected OR NOT "${output}${errors}" MATCHES "${pattern}")
        message(FATAL_ERROR "train_lm ${ARGN}\nended with ${result}, not ${expected} and "
            "\"${pattern}\":\n${output}${errors}")
    endif()
    string(REGEX MATCH "val loss [0-9.]+" loss "${output}")
    set(last_loss "${loss}" PARENT_SCOPE)
endfunction()

train(0 "val loss [0-9.]+ nats/byte" --text ${OUT}/text --steps 3 --every 2 --out ${OUT}/32bit)
set(loss-32bit "${last_loss}")
train(0 "[0-9] in the median step.*checkpoint .*step-2" --text ${OUT}/text --steps 2
    --out ${OUT}/parts)
train(0 "checkpoint .*step-3" --text ${OUT}/text --steps 3 --resume ${OUT}/parts)
file(SHA256 ${OUT}/32bit/step-3.safetensors whole)
file(SHA256 ${OUT}/parts/step-3.safetensors parts)
if(NOT whole STREQUAL parts)
    message(FATAL_ERROR "the resumed run differs from the uninterrupted one")
endif()

# With a part of the blocks in memory and the others in a file, in either form of the states.
train(0 "val loss [0-9.]+ nats/byte" --text ${OUT}/text --steps 3 --states 8bit --out ${OUT}/8bit)
set(loss-8bit "${last_loss}")
foreach(states 32bit 8bit)
    train(0 "storage: .* GB read" --text ${OUT}/text --steps 3 --states ${states}
        --memory 8MiB --storage ${OUT}/blocks-${states} --out ${OUT}/disk-${states})
    if(NOT last_loss STREQUAL loss-${states})
        message(FATAL_ERROR "on disk, ${states}: ${last_loss}; in memory: ${loss-${states}}")
    endif()
    file(SHA256 ${OUT}/${states}/step-3.safetensors memory)
    file(SHA256 ${OUT}/disk-${states}/step-3.safetensors disk)
    if(NOT memory STREQUAL disk)
        message(FATAL_ERROR "${states}: blocks on disk end in other bytes than in memory")
    endif()
endforeach()
train(1 "states is 8bit, this model has 32bit" --text ${OUT}/text --steps 9
    --resume ${OUT}/8bit)
train(1 "blocks-32bit holds a run already" --text ${OUT}/text --steps 1 --out ${OUT}/none
    --memory 8MiB --storage ${OUT}/blocks-32bit)
train(2 "bytes is 1024; the blocks declared so far need at least" --text ${OUT}/text --steps 1
    --out ${OUT}/none --memory 1KiB --storage ${OUT}/small)
train(2 "--memory and --storage go together" --memory 1GiB)
train(2 "--seconds: must be more than 0" --seconds 0)
train(2 "--memory: '2 pounds' is no size" --memory "2 pounds" --storage ${OUT})

# Killed with no warning: the file is at a flushed step, and the run goes on from there as if
# nothing had happened.
if(TIMEOUT)
    execute_process(COMMAND ${TIMEOUT} -s KILL 3 ${TRAIN} --quiet --threads 2 --text ${OUT}/text
        --seconds 300 --flush 1 --memory 8MiB --storage ${OUT}/killed --out ${OUT}/killed-run
        OUTPUT_QUIET ERROR_QUIET)
    execute_process(COMMAND ${TRAIN} --quiet --threads 2 --sample 8 --text ${OUT}/text
        --steps 1 --resume ${OUT}/killed-run --memory 8MiB --storage ${OUT}/killed
        OUTPUT_VARIABLE output ERROR_VARIABLE output)
    string(REGEX MATCH "continuing from step [0-9]+ in .*blocks.semoe.*step-([0-9]+)" continued
        "${output}")
    set(step ${CMAKE_MATCH_1})
    if(NOT continued AND NOT output MATCHES "no checkpoint in") # a slow program made no step
        message(FATAL_ERROR "after kill -9: ${output}")
    endif()
endif()
if(continued)
    train(0 "val loss" --text ${OUT}/text --steps ${step} --out ${OUT}/not-killed)
    file(SHA256 ${OUT}/killed-run/step-${step}.safetensors killed)
    file(SHA256 ${OUT}/not-killed/step-${step}.safetensors whole)
    if(NOT killed STREQUAL whole)
        message(FATAL_ERROR "after kill -9 the run went on differently (step ${step})")
    endif()
endif()

train(1 "holds a run already" --text ${OUT}/text --steps 1 --out ${OUT}/32bit)
train(1 "text is [0-9]+, this model has" --text ${OUT}/other --steps 9 --resume ${OUT}/32bit)
train(1 "no checkpoint in" --text ${OUT}/text --resume ${OUT}/nothing)
train(1 "the text has 9 bytes" --text ${OUT}/short --steps 1 --out ${OUT}/none)
train(1 "cannot read" --text ${OUT}/missing --steps 1 --out ${OUT}/none)
train(1 "cannot read" --text ${OUT} --steps 1 --out ${OUT}/none)
train(2 "unknown flag --step" --step 1)
train(2 "--steps: 'many' is no whole number" --steps many)
train(2 "--seed: '1e30' is no whole number" --seed 1e30)
train(2 "--seconds: 'nan' is no number" --seconds nan)
train(2 "drop --seed" --resume ${OUT}/32bit --seed 2)

# A storage of another run is neither continued nor replaced.
train(0 "val loss" --text ${OUT}/text --seed 77 --steps 1 --out ${OUT}/run-77 --memory 8MiB
    --storage ${OUT}/blocks-77)
foreach(run 32bit run-77-misspelt)
    file(SHA256 ${OUT}/blocks-77/blocks.semoe before)
    train(1 "its seed is 77, that of .*step-3.safetensors is 1|no checkpoint in .*misspelt"
        --text ${OUT}/text --steps 9 --resume ${OUT}/${run} --memory 8MiB
        --storage ${OUT}/blocks-77)
    file(SHA256 ${OUT}/blocks-77/blocks.semoe after)
    if(NOT before STREQUAL after)
        message(FATAL_ERROR "${run}: another run's blocks have changed")
    endif()
endforeach()

# Ctrl-C: timeout sends the signal.
if(TIMEOUT)
    execute_process(COMMAND ${TIMEOUT} --preserve-status -s INT 2 ${TRAIN} --quiet --threads 2
        --text ${OUT}/text --seconds 300 --out ${OUT}/interrupted
        RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(NOT result STREQUAL "0" OR NOT output MATCHES "checkpoint .*step-[0-9]+.safetensors")
        message(FATAL_ERROR "after ctrl-C: ${result}\n${output}")
    endif()
endif()
file(REMOVE_RECURSE ${OUT})
