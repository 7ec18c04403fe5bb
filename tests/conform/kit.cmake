# What plugin authors get and the tests share; needs no test framework, so that `make install` has it.
# pico_test_ref: slow, clear references. pico_rig: a model with its plugins. picochat-conform: the kit.
set(kit ${CMAKE_CURRENT_LIST_DIR})

file(GLOB ref_sources CONFIGURE_DEPENDS ${kit}/../ref_*.c)
add_library(pico_test_ref STATIC ${ref_sources})
target_include_directories(pico_test_ref PUBLIC ${kit}/..)
target_link_libraries(pico_test_ref PRIVATE pico_flags PUBLIC pico_util m)

add_library(pico_rig STATIC ${kit}/rig.c ${kit}/fault.c ${kit}/tiny.c)
target_include_directories(pico_rig PUBLIC ${kit}/..)
target_link_libraries(pico_rig PRIVATE pico_flags PUBLIC pico_transform)

set(conform_sources main.c common.c device.c backend_memory.c backend_rows.c backend_linear.c
  backend_attend.c attention.c sampler.c decoder.c steering.c compressor.c trainer.c)
list(TRANSFORM conform_sources PREPEND ${kit}/)
add_executable(picochat-conform ${conform_sources})
target_link_libraries(picochat-conform PRIVATE pico_flags pico_rig pico_train pico_test_ref
  ${CMAKE_DL_LIBS})
add_dependencies(app picochat-conform)
install(TARGETS picochat-conform DESTINATION ${CMAKE_INSTALL_BINDIR})
