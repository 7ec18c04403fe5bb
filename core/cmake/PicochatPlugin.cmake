# picochat_add_plugin(NAME SOURCES file...): a plugin as one shared object NAME.so with one exported
# symbol. The same function serves the plugins of this tree and, from the installed package, those
# of other trees. NAME is the kind's prefix and the name, for example decode_mine.
function(picochat_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES")
  if(NOT ARG_SOURCES OR ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "usage: picochat_add_plugin(${name} SOURCES file...)")
  endif()
  add_library(${name} MODULE ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX ".so"
    C_STANDARD 11 C_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_link_libraries(${name} PRIVATE picochat::plugin m)
  set(map ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/plugin.map)
  set_property(TARGET ${name} APPEND PROPERTY LINK_DEPENDS ${map})
  target_link_options(${name} PRIVATE -Wl,--version-script=${map})
  # An undefined symbol is an error of the link, not of the load; except where clang sanitizes: its
  # run-time is linked into executables only.
  if(NOT (CMAKE_C_COMPILER_ID MATCHES "Clang" AND
          ("${CMAKE_C_FLAGS}" MATCHES "-fsanitize" OR PICOCHAT_SANITIZE OR PICOCHAT_FUZZ)))
    target_link_options(${name} PRIVATE -Wl,-z,defs)
  endif()
endfunction()
