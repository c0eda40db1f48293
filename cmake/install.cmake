# cmake --install puts the headers under include/ and the package files under share/cmake/semoe.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/semoe)
install(TARGETS semoe EXPORT semoe FILE_SET HEADERS)
install(EXPORT semoe FILE semoe-targets.cmake NAMESPACE semoe:: DESTINATION ${package_dir})

configure_package_config_file(cmake/semoe-config.cmake.in semoe-config.cmake
    INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(semoe-config-version.cmake
    COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES cmake/components.cmake cmake/Findliburing.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/semoe-config.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/semoe-config-version.cmake DESTINATION ${package_dir})
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} OPTIONAL)
