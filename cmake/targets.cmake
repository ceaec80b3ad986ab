# Options every winnow target is compiled with.
function(winnow_target_options target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wconversion;-Wno-sign-conversion;-Wshadow>
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-Wall>)
  target_compile_definitions(${target} PRIVATE WINNOW_VERSION="${PROJECT_VERSION}")
  if(WINNOW_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  endif()
  if(WINNOW_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=${WINNOW_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${WINNOW_SANITIZE})
  endif()
endfunction()

# What is installed: nothing but the C interface is visible in the shared library, and no path of this machine is in a message.
function(winnow_installed_code target)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  set(without_path -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${without_path}>
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${without_path}>)
endfunction()

# winnow_library(core deps...): every .cc under src/core becomes the static library winnow_core, which the program and the
# shared library are linked from.
function(winnow_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/backends/(cuda/|without_cuda)")  # cmake/cuda.cmake chooses
  list(FILTER sources EXCLUDE REGEX "/ranks/mpi/")  # cmake/mpi.cmake
  if(NOT sources)
    add_library(winnow_${name} INTERFACE)
    target_include_directories(winnow_${name} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(winnow_${name} INTERFACE ${ARGN})
    return()
  endif()
  add_library(winnow_${name} STATIC ${sources})
  winnow_target_options(winnow_${name})
  winnow_installed_code(winnow_${name})
  set_target_properties(winnow_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(winnow_${name} PUBLIC ${ARGN})
endfunction()

# g++ 12 warns falsely inside its own headers: the "undefined" operands of AVX-512 intrinsics and std::regex are taken for
# uninitialised variables, std::string for overlapping copies.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized> $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
