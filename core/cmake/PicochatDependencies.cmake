# The libraries that the host uses, all from the distribution. Required ones stop the configuration
# with the package to install; optional ones say what is missing.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

function(picochat_dependency target module package)
  pkg_check_modules(${target} IMPORTED_TARGET ${module})
  if(NOT ${target}_FOUND)
    message(FATAL_ERROR "${module} was not found: install ${package} (`make` and `make test` do)")
  endif()
endfunction()

picochat_dependency(INIH inih libinih-dev)
picochat_dependency(JANSSON jansson libjansson-dev)
picochat_dependency(LIBZIP libzip libzip-dev)
picochat_dependency(GMP gmp libgmp-dev)
picochat_dependency(PCRE2 libpcre2-8 libpcre2-dev)
pkg_check_modules(EDIT IMPORTED_TARGET libedit)
if(NOT EDIT_FOUND)
  message(NOTICE "libedit was not found: chat will read lines without editing or history")
endif()
