# Included by CMake after project(ggml), by -DCMAKE_PROJECT_ggml_INCLUDE: see amx_tile_config.h.
# As an option here, not as CMAKE_CXX_FLAGS: the user's own flags stay, and blanks in paths need no quoting.
set(BURNISH_AMX_HEADER "${CMAKE_CURRENT_LIST_DIR}/amx_tile_config.h")
add_compile_options(
  "$<$<COMPILE_LANG_AND_ID:C,GNU>:-include${BURNISH_AMX_HEADER}>"
  "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-include${BURNISH_AMX_HEADER}>"
)
# without AMX, whatever -march=native says: its kernels are compiled only where this macro is defined
if(BURNISH_NO_AMX)
  add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-U__AMX_INT8__>")
endif()
