# Warpgroup products exist on compute capability 9.0 alone, and only in code built for sm_90a, which no other device runs.
# Their one source is therefore built apart, for that target, wherever machine code for 9.0 is asked for; elsewhere it is
# built as the rest and says that it has none.
#
# hels_add_wgmma(TARGET SOURCE): adds SOURCE to TARGET. COMPILE_OPTIONS: those of TARGET's CUDA sources.
function(hels_add_wgmma target source)
  cmake_parse_arguments(ARGUMENT "" "" "COMPILE_OPTIONS" ${ARGN})
  if(NOT CMAKE_CUDA_ARCHITECTURES MATCHES "(^|;)90(-real)?(;|$)" OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
    target_sources(${target} PRIVATE ${source})
    return()
  endif()
  add_library(${target}_wgmma OBJECT ${source})
  # No architectures of CMake's: those before 3.25 do not know 90a.
  set_target_properties(${target}_wgmma PROPERTIES CUDA_ARCHITECTURES OFF CUDA_STANDARD 20)
  target_include_directories(${target}_wgmma PRIVATE $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
  target_compile_definitions(${target}_wgmma PRIVATE $<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS> HELS_WGMMA)
  target_compile_options(${target}_wgmma PRIVATE -gencode=arch=compute_90a,code=sm_90a ${ARGUMENT_COMPILE_OPTIONS})
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_wgmma>)
endfunction()
