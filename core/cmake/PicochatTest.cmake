# What the CMakeLists of tests and fuzz targets share.

# Reference data that does not ship with the source. It may be absent: then tests skip, and say so.
set(PICO_SHARED_DIR ${CMAKE_SOURCE_DIR}/../shared)
set(pico_test_definitions PICO_SHARED_DIR="${PICO_SHARED_DIR}"
  PICO_BUILD_DIR="${CMAKE_BINARY_DIR}" PICO_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# Sets OUT to the words after "KEY:" in the first lines of a source.
function(pico_test_words out source key)
  file(STRINGS ${source} head LIMIT_COUNT 3)
  set(words "")
  if(head MATCHES "${key}: ([a-z0-9_ ]+)")
    string(STRIP "${CMAKE_MATCH_1}" words)
    string(REGEX REPLACE " +(layers|labels)$" "" words "${words}") # the next key of the line
    string(REGEX REPLACE " +" ";" words "${words}")
  endif()
  set(${out} ${words} PARENT_SCOPE)
endfunction()

# Sets OUT to the libraries of the layers that a source names, all of them if it names none.
function(pico_test_layers out source)
  pico_test_words(layers ${source} layers)
  list(TRANSFORM layers PREPEND pico_)
  if(NOT layers)
    set(layers pico_measure)
  endif()
  set(${out} ${layers} PARENT_SCOPE)
endfunction()
