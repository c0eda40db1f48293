# Every header of a folder compiles alone, which is what it is for a unit that includes it first: so
# it is for one that another header includes first, which needs no unit of its own.
#   cmake -DFOLDER=layer -DINCLUDE=include -DOUT=folder "-DCOMPILE=g++;-std=c++20" -P headers.cmake

file(GLOB_RECURSE headers RELATIVE ${INCLUDE} ${INCLUDE}/semoe/*.hpp)
set(alone ${headers})
foreach(header IN LISTS headers)
    file(STRINGS ${INCLUDE}/${header} first REGEX "^ *# *(include|if|define)" LIMIT_COUNT 1)
    if(first MATCHES "include \"(.*)\"")
        list(REMOVE_ITEM alone ${CMAKE_MATCH_1})
    endif()
endforeach()
if(FOLDER STREQUAL "umbrella")
    list(FILTER alone INCLUDE REGEX "^semoe/[^/]*$")
else()
    list(FILTER alone INCLUDE REGEX "^semoe/${FOLDER}/")
endif()

set(units "")
foreach(header IN LISTS alone)
    string(MAKE_C_IDENTIFIER ${header} id)
    file(CONFIGURE OUTPUT ${OUT}/${id}.cpp CONTENT "#include \"${header}\"\n")
    list(APPEND units ${OUT}/${id}.cpp)
endforeach()
if(units)
    execute_process(COMMAND ${COMPILE} ${units} COMMAND_ERROR_IS_FATAL ANY)
endif()
