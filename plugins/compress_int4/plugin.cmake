# The loops over vectors are worth more optimisation than the rest.
set_source_files_properties(${folder}/dense.c PROPERTIES COMPILE_OPTIONS "-O3")
