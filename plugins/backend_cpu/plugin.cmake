# Only these files may hold instructions beyond the compiler's default; the table of kernels is
# chosen at run time. Elsewhere they compile to tables that say so.
file(GLOB pico_cpu_avx512 CONFIGURE_DEPENDS ${folder}/*_avx512.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set_source_files_properties(${pico_cpu_avx512} PROPERTIES COMPILE_OPTIONS
    "-O3;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx2;-mfma;-mf16c;-mprefer-vector-width=512")
endif()
file(GLOB pico_cpu_avx2 CONFIGURE_DEPENDS ${folder}/*_avx2.c)
file(GLOB pico_cpu_vnni CONFIGURE_DEPENDS ${folder}/*_vnni.c)
file(GLOB pico_cpu_amx CONFIGURE_DEPENDS ${folder}/*_amx.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(pico_avx2 "-O3;-mavx2;-mfma;-mf16c")
  set(pico_vnni "${pico_avx2};-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni")
  set(pico_vnni "${pico_vnni};-mprefer-vector-width=512")
  set_source_files_properties(${pico_cpu_avx2} PROPERTIES COMPILE_OPTIONS "${pico_avx2}")
  set_source_files_properties(${pico_cpu_vnni} PROPERTIES COMPILE_OPTIONS "${pico_vnni}")
  set_source_files_properties(${pico_cpu_amx} PROPERTIES COMPILE_OPTIONS
    "${pico_vnni};-mavx512bf16;-mamx-tile;-mamx-int8;-mamx-bf16")
endif()
file(GLOB pico_cpu_portable CONFIGURE_DEPENDS ${folder}/*_portable.c)
set_source_files_properties(${pico_cpu_portable} PROPERTIES COMPILE_OPTIONS "-O3")
