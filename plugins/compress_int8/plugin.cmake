# Loops over weights: let the compiler make vectors of them.
set_source_files_properties(${folder}/quantize.c PROPERTIES COMPILE_OPTIONS "-O3")
