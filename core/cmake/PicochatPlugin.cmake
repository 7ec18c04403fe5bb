# picochat_add_plugin(NAME SOURCES file...): a plugin as one shared object NAME.so with one exported
# symbol. The same function serves the plugins of this tree and, from the installed package, those
# of other trees. NAME is the kind's prefix and the name, for example decode_mine.
function(picochat_add_plugin name)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  add_library(${name} MODULE ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES PREFIX "" C_STANDARD 11 C_STANDARD_REQUIRED ON
    C_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
  if(TARGET picochat::plugin)
    target_link_libraries(${name} PRIVATE picochat::plugin)
  endif()
  target_link_options(${name} PRIVATE -Wl,-z,defs)
  target_link_libraries(${name} PRIVATE m)
endfunction()
