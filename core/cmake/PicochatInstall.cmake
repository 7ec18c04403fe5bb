# What `make install` puts where. Everything finds everything else by relative paths, so that an
# installed tree may be staged with DESTDIR or moved. The libraries of core are not installed: the
# only interface is plugin.h.
include(CMakePackageConfigHelpers)

set(PICO_INSTALL_CMAKEDIR ${CMAKE_INSTALL_LIBDIR}/cmake/picochat)
set(PICO_INSTALL_PCDIR ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH PICO_PC_TO_PREFIX /prefix/${PICO_INSTALL_PCDIR} /prefix)
string(REGEX REPLACE "/$" "" PICO_PC_TO_PREFIX ${PICO_PC_TO_PREFIX})

configure_package_config_file(core/cmake/picochatConfig.cmake.in
  ${CMAKE_BINARY_DIR}/package/picochatConfig.cmake
  INSTALL_DESTINATION ${PICO_INSTALL_CMAKEDIR}
  PATH_VARS PICO_INSTALL_INCLUDEDIR PICO_INSTALL_PLUGINDIR)
# While the major number of the ABI is 0, minor versions need not be compatible.
write_basic_package_version_file(${CMAKE_BINARY_DIR}/package/picochatConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
configure_file(core/cmake/picochat.pc.in ${CMAKE_BINARY_DIR}/package/picochat.pc @ONLY)

install(FILES core/plugin.h DESTINATION ${PICO_INSTALL_INCLUDEDIR})
install(FILES core/cmake/PicochatPlugin.cmake core/cmake/plugin.map
  ${CMAKE_BINARY_DIR}/package/picochatConfig.cmake
  ${CMAKE_BINARY_DIR}/package/picochatConfigVersion.cmake
  DESTINATION ${PICO_INSTALL_CMAKEDIR})
install(FILES ${CMAKE_BINARY_DIR}/package/picochat.pc DESTINATION ${PICO_INSTALL_PCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The configs name models as ../models/X, which holds here too.
foreach(folder configs models)
  if(IS_DIRECTORY ${CMAKE_SOURCE_DIR}/${folder})
    install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_DATADIR}/picochat
      FILES_MATCHING PATTERN "*.ini" PATTERN "*.gguf" PATTERN "*.txt" PATTERN "*.md")
  endif()
endforeach()

# What plugin authors start from: a project of its own that needs the installed package only.
install(DIRECTORY tests/skeleton/ DESTINATION ${CMAKE_INSTALL_DATADIR}/picochat/skeleton)
