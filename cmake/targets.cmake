# Options every winnow target is compiled with.
function(winnow_target_options target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wno-sign-conversion -Wshadow)
  target_compile_definitions(${target} PRIVATE WINNOW_VERSION="${PROJECT_VERSION}")
  if(WINNOW_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(WINNOW_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=${WINNOW_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${WINNOW_SANITIZE})
  endif()
endfunction()

# winnow_library(core deps...): every .cc under src/core becomes the static library winnow_core.
function(winnow_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cc)
  if(NOT sources)
    add_library(winnow_${name} INTERFACE)
    target_include_directories(winnow_${name} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(winnow_${name} INTERFACE ${ARGN})
    return()
  endif()
  add_library(winnow_${name} STATIC ${sources})
  winnow_target_options(winnow_${name})
  target_link_libraries(winnow_${name} PUBLIC ${ARGN})
endfunction()

# g++ 12 takes the "undefined" operands inside its own AVX-512 intrinsics for uninitialised variables.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set_source_files_properties(${PROJECT_SOURCE_DIR}/src/backends/cpu/tile_kernels_x86.cc
                              PROPERTIES COMPILE_OPTIONS -Wno-maybe-uninitialized)
endif()
