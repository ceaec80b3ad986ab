# What `cmake --install` and CPack take: the program with its manual and completions, policies and texts.
include(GNUInstallDirs)

install(TARGETS winnow RUNTIME)
if(WINNOW_WITH_MPI)  # `cmake --install DIR --component mpi`: apart, as it needs MPI's libraries
  install(TARGETS winnow_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/winnow COMPONENT mpi EXCLUDE_FROM_ALL)
endif()
install(DIRECTORY policies data/texts DESTINATION ${CMAKE_INSTALL_DATADIR}/winnow)
install(FILES README.md CHANGELOG.md LICENSE TYPE DOC)

# The program writes its own manual and completions; when cross-compiling it cannot run here.
if(NOT CMAKE_CROSSCOMPILING)
  set(pages ${CMAKE_BINARY_DIR}/share)
  set(manual ${pages}/man/man1/winnow.1)
  set(bash_completion ${pages}/bash-completion/completions/winnow)
  set(zsh_completion ${pages}/zsh/site-functions/_winnow)
  set(fish_completion ${pages}/fish/vendor_completions.d/winnow.fish)
  foreach(page ${manual} ${bash_completion} ${zsh_completion} ${fish_completion})
    cmake_path(GET page PARENT_PATH folder)
    file(MAKE_DIRECTORY ${folder})
  endforeach()
  add_custom_command(OUTPUT ${manual} ${bash_completion} ${zsh_completion} ${fish_completion} DEPENDS winnow VERBATIM
    COMMAND winnow manual > ${manual}
    COMMAND winnow completion bash > ${bash_completion}
    COMMAND winnow completion zsh > ${zsh_completion}
    COMMAND winnow completion fish > ${fish_completion}
    COMMENT "Writing the manual and the shells' completions")
  add_custom_target(winnow_pages ALL DEPENDS ${manual} ${bash_completion} ${zsh_completion} ${fish_completion})
  foreach(folder man bash-completion zsh fish)
    install(DIRECTORY ${pages}/${folder} DESTINATION ${CMAKE_INSTALL_DATADIR})
  endforeach()
endif()

set(CPACK_PACKAGE_VENDOR winnow)
set(CPACK_PACKAGE_CONTACT "winnow maintainers <winnow@example.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "long prompts made cheap by not computing what does not matter")
set(CPACK_PACKAGE_DESCRIPTION "An engine for language models that leaves out prompt tokens and blocks of\n\
attention that matter little, says what that costs in quality, and answers on\n\
the command line, over HTTP and from C.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR DEB)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/debian_layout.cmake)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
# Dependencies are read from the binaries.
find_program(WINNOW_DPKG_SHLIBDEPS dpkg-shlibdeps)
find_program(WINNOW_FILE file)
mark_as_advanced(WINNOW_DPKG_SHLIBDEPS WINNOW_FILE)
if(WINNOW_DPKG_SHLIBDEPS AND WINNOW_FILE)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
else()
  message(STATUS "A Debian package made here would name no dependencies: install dpkg-dev and file for them")
endif()
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
file(WRITE ${CMAKE_BINARY_DIR}/generated/triggers "activate-noawait ldconfig\n")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_BINARY_DIR}/generated/triggers)
include(CPack)
