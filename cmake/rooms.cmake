# A room is a folder under src/ and one library; its *_test.cc files are one test
# program. Adding a file needs no line here.

# The static archive of a Debian library, where there is one and we want it.
function(ashlar_archive out library)
  set(found ${library})
  if(ASHLAR_STATIC AND NOT library MATCHES "::")
    find_library(ASHLAR_ARCHIVE_${library} NAMES lib${library}.a)
    if(ASHLAR_ARCHIVE_${library})
      set(found ${ASHLAR_ARCHIVE_${library}})
    endif()
  endif()
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# What each instruction set's kernel files are compiled with, by the file's first word.
# Their pointers into tiles and vectors make UBSan's pointer checks half of the
# time of a whole build; AddressSanitizer watches the same accesses.
set(ASHLAR_ISA_checks "")
if(ASHLAR_SANITIZE MATCHES "undefined")
  set(ASHLAR_ISA_checks -fno-sanitize=null,alignment,object-size,pointer-overflow)
endif()
set(ASHLAR_ISA_avx2 ${ASHLAR_ISA_checks} -mavx2 -mfma -mf16c -mbmi2)
set(ASHLAR_ISA_avx512 ${ASHLAR_ISA_checks} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd -mavx512vnni -mfma -mf16c -mbmi2)
set(ASHLAR_ISA_amx ${ASHLAR_ISA_avx512} -mavx512fp16 -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16)

# The libraries' headers are read once for the rooms and once for the tests: the
# first target of either kind makes them and the others take them from it.
function(ashlar_precompile target kind header)
  if(NOT ASHLAR_PRECOMPILE)
    return()
  endif()
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>)
  get_property(owner GLOBAL PROPERTY ASHLAR_PRECOMPILED_${kind})
  if(owner)
    target_precompile_headers(${target} REUSE_FROM ${owner})
  else()
    target_precompile_headers(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${CMAKE_SOURCE_DIR}/cmake/${header}>)
    set_property(GLOBAL PROPERTY ASHLAR_PRECOMPILED_${kind} ${target})
  endif()
endfunction()

# A program of unit tests. Under sanitizers the tests themselves are not
# optimized: it is the rooms that do the work.
function(ashlar_tests name room)
  cmake_parse_arguments(TESTS "" "TIMEOUT" "SOURCES" ${ARGN})
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(ashlar_${name}_test ${TESTS_SOURCES})
  target_link_libraries(ashlar_${name}_test PRIVATE ashlar_${room} GTest::gmock GTest::gtest GTest::gtest_main)
  if(NOT name STREQUAL "kernels")  # whose tests are long sums of their own
    target_compile_options(ashlar_${name}_test PRIVATE $<$<BOOL:${ASHLAR_SANITIZE}>:-O0>)
    ashlar_precompile(ashlar_${name}_test tests precompiled_tests.h)
  endif()
  gtest_discover_tests(ashlar_${name}_test TEST_PREFIX ${name}. PROPERTIES TIMEOUT ${TESTS_TIMEOUT}
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DISCOVERY_TIMEOUT 60)
endfunction()

function(ashlar_room name)
  cmake_parse_arguments(ROOM "" "" "ROOMS;LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc ${CMAKE_SOURCE_DIR}/src/${name}/*.S)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  # Architectures and endpoints register themselves: an object library keeps
  # files that nobody calls, which a static one would drop.
  set(registered ${sources})
  list(FILTER registered INCLUDE REGEX "/src/models/arch/")
  list(FILTER sources EXCLUDE REGEX "/src/models/arch/")
  if(NOT sources)
    file(WRITE ${CMAKE_BINARY_DIR}/empty_${name}.cc "")
    set(sources ${CMAKE_BINARY_DIR}/empty_${name}.cc)
  endif()
  add_library(ashlar_${name} STATIC ${sources})
  target_link_libraries(ashlar_${name} PUBLIC ashlar_deps)
  ashlar_precompile(ashlar_${name} rooms precompiled.h)
  foreach(room ${ROOM_ROOMS})
    target_link_libraries(ashlar_${name} PUBLIC ashlar_${room})
  endforeach()
  foreach(library ${ROOM_LIBS})
    ashlar_archive(archive ${library})
    target_link_libraries(ashlar_${name} PUBLIC ${archive})
  endforeach()
  if(registered)
    add_library(ashlar_${name}_registered OBJECT ${registered})
    target_link_libraries(ashlar_${name}_registered PUBLIC ashlar_deps)
    ashlar_precompile(ashlar_${name}_registered rooms precompiled.h)
    target_link_libraries(ashlar_${name} PUBLIC $<TARGET_OBJECTS:ashlar_${name}_registered>)
    add_dependencies(ashlar_${name} ashlar_${name}_registered)
  endif()
  foreach(source ${sources})
    if(source MATCHES "/src/kernels/x86/([a-z0-9]+)[a-z0-9_]*\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${ASHLAR_ISA_${CMAKE_MATCH_1}}"
        SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endforeach()
  # What a .S takes in by .incbin stands beside it: no compiler tells Ninja of it.
  foreach(source ${sources})
    if(source MATCHES "\\.S$")
      get_filename_component(folder ${source} DIRECTORY)
      file(GLOB embedded CONFIGURE_DEPENDS ${folder}/*)
      set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS "${embedded}")
    endif()
  endforeach()
  if(ASHLAR_TESTS AND tests)
    ashlar_tests(${name} ${name} TIMEOUT 300 SOURCES ${tests})
  endif()
endfunction()
