# libwinnow.so, the C interface as a shared library, and how other programs find it: its header and CMake package.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# The soname is the header's.
file(STRINGS include/winnow/winnow.h WINNOW_ABI_VERSION REGEX "^#define WINNOW_ABI_VERSION ")
string(REGEX REPLACE "^#define WINNOW_ABI_VERSION " "" WINNOW_ABI_VERSION "${WINNOW_ABI_VERSION}")
add_library(winnow_shared SHARED $<TARGET_OBJECTS:winnow_capi>)
target_link_libraries(winnow_shared PRIVATE winnow_capi)
target_link_options(winnow_shared PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/src/capi/exports.map)
if(NOT WINNOW_SANITIZE)  # whose symbols the program brings
  target_link_options(winnow_shared PRIVATE -Wl,--no-undefined)
endif()
target_include_directories(winnow_shared INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(winnow_shared PROPERTIES
  OUTPUT_NAME winnow
  EXPORT_NAME winnow
  LINKER_LANGUAGE CXX
  LINK_DEPENDS ${PROJECT_SOURCE_DIR}/src/capi/exports.map
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
add_library(winnow::winnow ALIAS winnow_shared)

if(SKBUILD)  # pip install .: the Python package holds the library and the policies (pyproject.toml, cmake/python.cmake)
  set_target_properties(winnow_shared PROPERTIES BUILD_WITH_INSTALL_RPATH ON)
  install(TARGETS winnow_shared LIBRARY DESTINATION winnow)
  install(DIRECTORY policies DESTINATION winnow/share/winnow)
  return()
endif()

set_target_properties(winnow_shared PROPERTIES VERSION ${WINNOW_ABI_VERSION}.${PROJECT_VERSION} SOVERSION ${WINNOW_ABI_VERSION})
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")  # the interface only grows
install(TARGETS winnow_shared EXPORT winnow LIBRARY)
install(DIRECTORY include/winnow TYPE INCLUDE)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/winnow)
install(EXPORT winnow NAMESPACE winnow:: FILE winnow-targets.cmake DESTINATION ${package_folder})
configure_package_config_file(cmake/winnow-config.cmake.in generated/winnow-config.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(generated/winnow-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/generated/winnow-config.cmake ${PROJECT_BINARY_DIR}/generated/winnow-config-version.cmake
  DESTINATION ${package_folder})
