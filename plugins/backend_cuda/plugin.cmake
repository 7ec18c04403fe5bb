# The runtime is linked statically and loads libcuda when it is first asked; cuBLASLt is loaded when
# an instance is made. So the plugin loads everywhere, and can say what a machine lacks. Contraction
# is off, as in the rest of the project; kernels ask for fmaf by name.
set_target_properties(backend_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_STANDARD 17
  CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden LINKER_LANGUAGE C)
target_link_libraries(backend_cuda PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
set_target_properties(backend_cuda PROPERTIES BUILD_RPATH "${CUDAToolkit_LIBRARY_DIR}"
  INSTALL_RPATH "${CUDAToolkit_LIBRARY_DIR}")
target_include_directories(backend_cuda PRIVATE ${CMAKE_SOURCE_DIR}/plugins/backend_cuda)
target_include_directories(backend_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
